//! Completion queues (NVM Express Base 1.4 §4.1, §4.6).

use crate::command::{CQE, Completion};
use crate::shadow::{Bell, Shadow};
use crate::signals::Signals;
use crate::submission::place;
use donjon_devices::sync::Lock;
use donjon_memory::Ram;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Release, fence};

/// How often a head is looked up again that the host moves meanwhile.
const LOOKS: usize = 4;

/// Where a completion queue is, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CqState {
    pub id: u16,
    /// Entries.
    pub size: u16,
    /// Guest-physical address.
    pub address: u64,
    /// The MSI-X vector, if it interrupts.
    pub vector: Option<u16>,
    /// The first entry that the host has not seen.
    pub head: u16,
    /// The next entry to fill.
    pub tail: u16,
    /// The phase tag of the next entry.
    pub phase: bool,
}

struct Inner {
    state: CqState,
    /// Submission queues that wait for room.
    waiting: u128,
}

impl Inner {
    fn room(&self) -> u16 {
        let CqState { size, head, tail, .. } = self.state;
        ((u32::from(head) + u32::from(size) - u32::from(tail) - 1) % u32::from(size)) as u16
    }
}

/// A completion queue, which several submission queues may share.
pub struct CompletionQueue {
    id: u16,
    ram: Arc<Ram>,
    /// RAM offset of the first entry.
    start: usize,
    signals: Arc<Signals>,
    shadow: Option<Arc<Shadow>>,
    inner: Lock<Inner>,
}

impl CompletionQueue {
    /// The queue in `state`; `None` unless all of it is RAM.
    pub fn new(
        ram: &Arc<Ram>,
        state: CqState,
        signals: &Arc<Signals>,
        shadow: Option<&Arc<Shadow>>,
    ) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            id: state.id,
            ram: ram.clone(),
            start: place(ram, state.address, state.size, CQE)?,
            signals: signals.clone(),
            shadow: shadow.cloned(),
            inner: Lock::new(Inner { state, waiting: 0 }),
        }))
    }

    pub fn state(&self) -> CqState {
        self.inner.lock().state
    }

    /// How many entries can be filled.
    pub fn room(&self) -> u16 {
        self.inner.lock().room()
    }

    /// Fills entries with `answers` to submission queue `sq`, whose head is at `head`, as far as there is room,
    /// and interrupts. If some are left, the next change of [`CompletionQueue::set_head`] says that `sq` waits.
    pub fn post(&self, sq: u16, head: u16, answers: &mut VecDeque<Completion>) {
        if answers.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        if self.uses_pin() {
            self.listen(&mut inner);
        }
        let before = inner.state.tail;
        while let Some(answer) = answers.front() {
            if inner.room() == 0 {
                self.listen(&mut inner);
                if inner.room() == 0 {
                    inner.waiting |= 1 << sq;
                    break;
                }
            }
            self.fill(&mut inner.state, sq, head, answer);
            answers.pop_front();
        }
        if inner.state.tail != before {
            self.announce(&inner);
        }
    }

    fn fill(&self, state: &mut CqState, sq: u16, head: u16, answer: &Completion) {
        let at = self.start + usize::from(state.tail) * CQE;
        let status = answer.status << 1 | u16::from(state.phase);
        let high =
            u64::from(head) | u64::from(sq) << 16 | u64::from(answer.cid) << 32 | u64::from(status) << 48;
        self.ram.store(at, u64::from(answer.result).to_le());
        // The phase tag makes the entry valid: it comes last.
        fence(Release);
        self.ram.store(at + 8, high.to_le());
        state.tail = (state.tail + 1) % state.size;
        state.phase ^= state.tail == 0;
    }

    fn uses_pin(&self) -> bool {
        !self.signals.has_messages()
    }

    /// There are new entries.
    fn announce(&self, inner: &Inner) {
        if self.uses_pin() {
            self.set_pin(inner);
        } else if let Some(vector) = inner.state.vector {
            self.signals.message(vector);
        }
    }

    /// The pin is asserted while there are entries that the host has not seen.
    fn set_pin(&self, inner: &Inner) {
        let CqState {
            vector, head, tail, ..
        } = inner.state;
        if vector.is_some() {
            self.signals.ask(self.id, head != tail);
        }
    }

    /// Learns the head from the shadow doorbell, and wants to be told when it moves on.
    fn listen(&self, inner: &mut Inner) {
        let Some(shadow) = &self.shadow else { return };
        for _ in 0..LOOKS {
            match shadow.listen(Bell::Head(self.id), inner.state.head) {
                Some(head) if head < inner.state.size.into() && head as u16 != inner.state.head => {
                    inner.state.head = head as u16;
                }
                _ => break,
            }
        }
    }

    /// The host has seen what is before `head`: the submission queues that waited for room, as bits; `None` if the
    /// queue has no such entry.
    pub fn set_head(&self, head: u32) -> Option<u128> {
        let mut inner = self.inner.lock();
        if head >= inner.state.size.into() {
            return None;
        }
        inner.state.head = head as u16;
        if self.uses_pin() {
            self.listen(&mut inner);
            self.set_pin(&inner);
        }
        Some(std::mem::take(&mut inner.waiting))
    }

    /// Asserts the pin if it should be, of a queue that was restored.
    pub fn restore_pin(&self) {
        if self.uses_pin() {
            self.set_pin(&self.inner.lock());
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.signals.ask(self.id, false);
    }
}
