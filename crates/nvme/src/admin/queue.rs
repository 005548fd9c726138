//! Creation and deletion of I/O queues (NVM Express Base 1.4 §5.3 to 5.6).

use crate::command::{CQE, Command, SQE};
use crate::completion::CqState;
use crate::controller::Controller;
use crate::registers::MAX_ENTRIES;
use crate::status::Status;
use crate::submission::{SqState, place};
use std::collections::VecDeque;

/// Physically contiguous.
const CONTIGUOUS: u32 = 1 << 0;
/// Interrupts enabled.
const INTERRUPTS: u32 = 1 << 1;

/// The identifier and the size that a Create command asks for.
fn identity(c: &Command) -> Result<(u16, u16), Status> {
    let (id, last) = (c.dword(10) as u16, c.dword(10) >> 16);
    if last == 0 || last >= u32::from(MAX_ENTRIES) {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    Ok((id, last as u16 + 1))
}

/// That a queue is in one piece (CAP.CQR), begins at a page and lies in RAM.
fn check_place(controller: &Controller, c: &Command, size: u16, entry: usize) -> Result<(), Status> {
    if c.dword(11) & CONTIGUOUS == 0 {
        return Err(Status::INVALID_FIELD);
    }
    if !c.prp1.is_multiple_of(crate::prp::PAGE) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    match place(&controller.shared.ram, c.prp1, size, entry) {
        Some(_) => Ok(()),
        None => Err(Status::DATA_TRANSFER_ERROR),
    }
}

pub fn create_cq(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let id = c.dword(10) as u16;
    if !controller.queues.is_io(id) || controller.queues.completion(id).is_some() {
        return Err(Status::INVALID_QUEUE_ID);
    }
    let (id, size) = identity(c)?;
    if !controller.cc.has_cqe_size() {
        return Err(Status::INVALID_FIELD);
    }
    let vector = (c.dword(11) >> 16) as u16;
    // A vector for each queue and one for the admin queue.
    if vector > controller.queues.count() {
        return Err(Status::INVALID_VECTOR);
    }
    check_place(controller, c, size, CQE)?;
    let state = CqState {
        id,
        size,
        address: c.prp1,
        vector: (c.dword(11) & INTERRUPTS != 0).then_some(vector),
        head: 0,
        tail: 0,
        phase: true,
    };
    if controller.adopt_completion(state) {
        Ok(0)
    } else {
        Err(Status::DATA_TRANSFER_ERROR)
    }
}

pub fn create_sq(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let id = c.dword(10) as u16;
    if !controller.queues.is_io(id) || controller.queues.has_submission(id) {
        return Err(Status::INVALID_QUEUE_ID);
    }
    let (id, size) = identity(c)?;
    let cq = (c.dword(11) >> 16) as u16;
    if !controller.queues.is_io(cq) {
        return Err(Status::INVALID_QUEUE_ID);
    }
    if controller.queues.completion(cq).is_none() {
        return Err(Status::CQ_INVALID);
    }
    if !controller.cc.has_sqe_size() {
        return Err(Status::INVALID_FIELD);
    }
    check_place(controller, c, size, SQE)?;
    let state = SqState {
        id,
        cq,
        size,
        address: c.prp1,
        head: 0,
    };
    controller.queues.insert((state, 0, VecDeque::new()));
    controller.queues.start(id).map(|()| 0).map_err(|e| {
        tracing::error!("a disk's queue cannot be served: {e}");
        controller.queues.remove(id);
        Status::INTERNAL_ERROR
    })
}

/// Commands under way are finished; those not taken yet never will be.
pub fn delete_sq(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let id = c.dword(10) as u16;
    if !controller.queues.is_io(id) || !controller.queues.has_submission(id) {
        return Err(Status::INVALID_QUEUE_ID);
    }
    controller.queues.remove(id);
    Ok(0)
}

pub fn delete_cq(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let id = c.dword(10) as u16;
    if !controller.queues.is_io(id) || controller.queues.completion(id).is_none() {
        return Err(Status::INVALID_QUEUE_ID);
    }
    if controller.queues.is_used(id) {
        return Err(Status::INVALID_QUEUE_DELETION);
    }
    controller.queues.set_completion(id, None);
    Ok(0)
}
