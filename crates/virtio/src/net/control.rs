//! The control queue (virtio 1.2 §5.1.6.5).

use super::Shared;
use super::config::feature;
use crate::queue::{Chain, Queue, QueueState};
use donjon_net::Mac;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// Classes and commands.
mod command {
    pub const RX: u8 = 0;
    pub const MAC: u8 = 1;
    pub const MAC_TABLE_SET: u8 = 0;
    pub const MAC_ADDR_SET: u8 = 1;
    pub const MULTI_QUEUE: u8 = 4;
    pub const PAIRS_SET: u8 = 0;
    pub const GUEST_OFFLOADS: u8 = 5;
    pub const OFFLOADS_SET: u8 = 0;
}

const OK: u8 = 0;
const ERROR: u8 = 1;

pub struct Control {
    shared: Arc<Shared>,
    queue: Queue,
}

impl Control {
    pub fn new(shared: &Arc<Shared>, queue: Queue) -> Self {
        Self {
            shared: shared.clone(),
            queue,
        }
    }

    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Carries out what there is, on the vCPU's thread: none of it takes long. Whether the number of queues in
    /// use has changed.
    pub fn run(&mut self) -> bool {
        let before = self.shared.active.load(SeqCst);
        // As many as a ring holds; whoever adds more meanwhile notifies again.
        for _ in 0..super::CONTROL_SIZE {
            let Some(chain) = self.queue.pop() else {
                if !self.queue.listen() {
                    break;
                }
                continue;
            };
            let Some(last) = chain.writable.len().checked_sub(1) else {
                let why = "a network control command has no room for its answer";
                self.queue.fail(crate::Violation::Request(why));
                break;
            };
            let answer = if self.carry_out(&chain).is_some() {
                OK
            } else {
                ERROR
            };
            chain.writable.store(last, &[answer]);
            self.queue.push(chain.head, 1);
        }
        self.queue.signal();
        before != self.shared.active.load(SeqCst)
    }

    fn carry_out(&self, chain: &Chain) -> Option<()> {
        let list = &chain.readable;
        let mut head = [0; 2];
        let data = list.len().checked_sub(head.len())?;
        list.load(0, &mut head);
        let mut body = [0; 8];
        let taken = data.min(body.len());
        list.load(head.len(), &mut body[..taken]);
        match (head[0], head[1]) {
            // Everything is delivered: the guest drops what it does not want.
            (command::RX, 0..=5) if data == 1 => Some(()),
            (command::MAC, command::MAC_TABLE_SET) => Some(()),
            (command::MAC, command::MAC_ADDR_SET) if data == 6 => {
                let mac = <[u8; 6]>::try_from(&body[..6]).ok()?;
                *self.shared.mac.lock() = Mac::new(mac).ok()?;
                Some(())
            }
            (command::MULTI_QUEUE, command::PAIRS_SET) if data == 2 => {
                if !self.shared.accepted(feature::MULTI_QUEUE) {
                    return None;
                }
                let pairs = u16::from_le_bytes([body[0], body[1]]);
                self.shared.backend.set_queues(pairs).ok()?;
                self.shared.active.store(pairs, SeqCst);
                Some(())
            }
            (command::GUEST_OFFLOADS, command::OFFLOADS_SET) if data == 8 => {
                let bits = u64::from_le_bytes(body);
                // Only what was accepted can be switched on again.
                if bits & !self.shared.features.load(SeqCst) != 0 {
                    return None;
                }
                self.shared.set_offloads(feature::guest_offloads(bits)).ok()
            }
            _ => None,
        }
    }
}
