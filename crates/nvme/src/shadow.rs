//! Shadow doorbells: a page in which the host writes what it would write into doorbells, and one in which the
//! controller says from which value on it wants to be told (NVM Express Base 1.4 §5.7, §7.13).

use crate::prp::PAGE;
use donjon_memory::Ram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst, fence};

const NONE: usize = usize::MAX;

/// Both pages, once the host has named them.
pub struct Shadow {
    ram: Arc<Ram>,
    doorbells: AtomicUsize,
    events: AtomicUsize,
}

/// Which doorbell.
#[derive(Clone, Copy)]
pub enum Bell {
    /// The tail of a submission queue.
    Tail(u16),
    /// The head of a completion queue.
    Head(u16),
}

impl Bell {
    /// Offset from the first doorbell, with a stride of four bytes (CAP.DSTRD 0).
    fn offset(self) -> usize {
        match self {
            Self::Tail(queue) => 8 * usize::from(queue),
            Self::Head(queue) => 8 * usize::from(queue) + 4,
        }
    }
}

impl Shadow {
    pub fn new(ram: &Arc<Ram>) -> Self {
        Self {
            ram: ram.clone(),
            doorbells: AtomicUsize::new(NONE),
            events: AtomicUsize::new(NONE),
        }
    }

    /// Uses the pages at these addresses; `false` if they are not pages of RAM.
    pub fn set(&self, doorbells: u64, events: u64) -> bool {
        let page = |address: u64| {
            let offset = self.ram.offset_of(address, PAGE as usize).ok()?;
            address.is_multiple_of(PAGE).then_some(offset)
        };
        let (Some(doorbells), Some(events)) = (page(doorbells), page(events)) else {
            return false;
        };
        self.events.store(events, SeqCst);
        self.doorbells.store(doorbells, SeqCst);
        true
    }

    pub fn clear(&self) {
        self.doorbells.store(NONE, SeqCst);
        self.events.store(NONE, SeqCst);
    }

    /// What the host wrote last; `None` without shadow doorbells.
    pub fn value(&self, bell: Bell) -> Option<u32> {
        let base = self.doorbells.load(SeqCst);
        (base != NONE).then(|| u32::from_le(self.ram.load(base + bell.offset())))
    }

    /// Wants to be told when the host goes beyond `value`, then looks again: the host writes, then looks whether
    /// it must tell, so one of the two sees the other.
    pub fn listen(&self, bell: Bell, value: u16) -> Option<u32> {
        let base = self.events.load(SeqCst);
        if base != NONE {
            self.ram.store(base + bell.offset(), u32::from(value).to_le());
        }
        fence(SeqCst);
        self.value(bell)
    }
}
