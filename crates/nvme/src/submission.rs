//! Submission queues (NVM Express Base 1.4 §4.1).

use crate::command::{Command, SQE};
use crate::prp::PAGE;
use crate::shadow::{Bell, Shadow};
use donjon_memory::Ram;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

/// Where a submission queue is, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SqState {
    pub id: u16,
    /// The completion queue that answers go to.
    pub cq: u16,
    /// Entries.
    pub size: u16,
    /// Guest-physical address.
    pub address: u64,
    /// The next entry to take.
    pub head: u16,
}

/// A submission queue as the controller takes commands from it.
pub struct SubmissionQueue {
    pub state: SqState,
    ram: Arc<Ram>,
    /// RAM offset of the first entry.
    start: usize,
    /// As the doorbell says, less than the size.
    tail: Arc<AtomicU16>,
    shadow: Option<Arc<Shadow>>,
}

impl SubmissionQueue {
    /// The queue in `state`; `None` unless all of it is RAM.
    pub fn new(
        ram: &Arc<Ram>,
        state: SqState,
        tail: &Arc<AtomicU16>,
        shadow: Option<&Arc<Shadow>>,
    ) -> Option<Self> {
        Some(Self {
            state,
            ram: ram.clone(),
            start: place(ram, state.address, state.size, SQE)?,
            tail: tail.clone(),
            shadow: shadow.cloned(),
        })
    }

    fn tail(&self, seen: Option<u32>) -> u16 {
        match seen {
            // Nonsense: nothing new.
            Some(tail) if tail >= self.state.size.into() => self.state.head,
            Some(tail) => tail as u16,
            None => self.tail.load(SeqCst),
        }
    }

    /// Takes the next command, if there is one.
    pub fn pop(&mut self) -> Option<Command> {
        let bell = Bell::Tail(self.state.id);
        let tail = self.tail(self.shadow.as_ref().and_then(|s| s.value(bell)));
        if tail == self.state.head {
            return None;
        }
        let mut entry = [0; SQE];
        let head = usize::from(self.state.head);
        self.ram.read_at(self.start + head * SQE, &mut entry);
        self.state.head = (self.state.head + 1) % self.state.size;
        Some(Command::parse(&entry))
    }

    /// Asks to be told of more commands; `true` if there are some already.
    pub fn listen(&self) -> bool {
        let (bell, head) = (Bell::Tail(self.state.id), self.state.head);
        self.tail(self.shadow.as_ref().and_then(|s| s.listen(bell, head))) != head
    }
}

/// The RAM offset of a queue of `size` entries of `entry` bytes; `None` unless it is a page-aligned piece of RAM.
pub fn place(ram: &Ram, address: u64, size: u16, entry: usize) -> Option<usize> {
    let offset = ram.offset_of(address, usize::from(size) * entry).ok()?;
    (address.is_multiple_of(PAGE) && size >= 2).then_some(offset)
}
