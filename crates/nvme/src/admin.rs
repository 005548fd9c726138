//! Admin commands (NVM Express Base 1.4 §5).

mod identify;
mod log;
mod queue;

use crate::command::{Command, Completion};
use crate::controller::Controller;
use crate::events::Event;
use crate::io::MAX_TRANSFER;
use crate::prp;
use crate::status::Status;
use std::sync::atomic::Ordering::SeqCst;

mod opcode {
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const EVENT_REQUEST: u8 = 0x0c;
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// The opcodes above, for the log of supported commands.
const OPCODES: [u8; 11] = [
    opcode::DELETE_SQ,
    opcode::CREATE_SQ,
    opcode::GET_LOG_PAGE,
    opcode::DELETE_CQ,
    opcode::CREATE_CQ,
    opcode::IDENTIFY,
    opcode::ABORT,
    opcode::SET_FEATURES,
    opcode::GET_FEATURES,
    opcode::EVENT_REQUEST,
    opcode::DOORBELL_BUFFER_CONFIG,
];

/// Executes a command. A request for events is answered later.
pub fn execute(controller: &mut Controller, c: &Command) -> Option<Completion> {
    let answer = c.check_flags().and_then(|()| match c.opcode {
        opcode::DELETE_SQ => queue::delete_sq(controller, c),
        opcode::CREATE_SQ => queue::create_sq(controller, c),
        opcode::GET_LOG_PAGE => log::get(controller, c),
        opcode::DELETE_CQ => queue::delete_cq(controller, c),
        opcode::CREATE_CQ => queue::create_cq(controller, c),
        opcode::IDENTIFY => identify::identify(controller, c),
        opcode::ABORT => abort(controller, c),
        opcode::SET_FEATURES => set_features(controller, c),
        opcode::GET_FEATURES => controller.features.get(c),
        opcode::EVENT_REQUEST if controller.events.request(c.cid) => Ok(0),
        opcode::EVENT_REQUEST => Err(Status::EVENT_LIMIT_EXCEEDED),
        opcode::DOORBELL_BUFFER_CONFIG => doorbell_buffer_config(controller, c),
        _ => Err(Status::INVALID_OPCODE),
    });
    match answer {
        Err(status) => controller.shared.errors.note(0, c, status, 0),
        Ok(_) if c.opcode == opcode::EVENT_REQUEST => return None,
        Ok(_) => {}
    }
    Some(Completion::new(c.cid, answer))
}

/// Puts `data` where the command wants it.
fn transfer(controller: &Controller, c: &Command, data: &[u8]) -> Result<(), Status> {
    debug_assert!(data.len() <= MAX_TRANSFER);
    let list = prp::resolve(&controller.shared.ram, c.prp1, c.prp2, data.len())?;
    prp::writable(list)?.store(0, data);
    Ok(())
}

fn set_features(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let queues_exist = controller.queues.completions().len() > 1;
    let result = controller.features.set(c, queues_exist)?;
    let write_cache = controller.features.write_cache;
    controller.shared.write_cache.store(write_cache, SeqCst);
    if controller.features.tells_temperature() {
        controller.events.raise(Event::Temperature);
    }
    Ok(result)
}

/// Abort (§5.1). Transfers cannot be called back; bit 0 says that nothing was aborted.
fn abort(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let (queue, cid) = (c.dword(10) as u16, (c.dword(10) >> 16) as u16);
    if queue != 0 && !controller.queues.has_submission(queue) {
        return Err(Status::INVALID_FIELD);
    }
    let aborted = queue == 0 && controller.events.abort(cid);
    Ok((!aborted).into())
}

/// Doorbell Buffer Config (§5.7).
fn doorbell_buffer_config(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    if !controller.shared.shadow.set(c.prp1, c.prp2) {
        return Err(Status::INVALID_FIELD);
    }
    controller.shadow = Some((c.prp1, c.prp2));
    // Queues that have been waiting for their doorbells look into the pages from now on.
    controller.queues.wake_all();
    Ok(0)
}
