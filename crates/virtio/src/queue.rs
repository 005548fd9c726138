//! One virtqueue in use (virtio 1.2 §2.7), by way of rust-vmm's virtio-queue.
//!
//! Everything in it is the driver's: rings may change while they are read, descriptors may point anywhere and
//! at each other. A chain is therefore read once, in whole, into lists whose parts were checked to be RAM.

use crate::device::{Notifier, feature};
use donjon_memory::{GuestRam, MemoryError, Ram, Scatter, guest_ram};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::{Queue as Ring, QueueOwnedT, QueueState as RingState, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2 §2.7.6).
const NO_INTERRUPT: u16 = 1;
/// The used ring (virtio 1.2 §2.7.8): bytes before its elements, and of each.
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// The most parts of one buffer: as many as one system call transfers, and more than any device asks for.
const MOST_PARTS: usize = 1024;

/// A rule of the ring that the driver broke.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// Rings outside RAM, or other nonsense in them.
    #[error("its rings are unusable: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// A buffer that is not in RAM.
    #[error("a buffer is not in RAM: {0}")]
    Buffer(#[from] MemoryError),
    /// A buffer that is to be written, where nothing can be.
    #[error("a buffer for the device to write is in a read-only file")]
    ReadOnly,
    /// A descriptor chain that has no end, leads out of its table or has a device-readable part behind a
    /// writable one.
    #[error("a descriptor chain is malformed")]
    Chain,
    /// A descriptor chain that is longer than any driver makes them, in an indirect table.
    #[error("a descriptor chain has more than {MOST_PARTS} parts")]
    Parts,
    /// A request that the device cannot make sense of.
    #[error("{0}")]
    Request(&'static str),
}

/// Where a queue stands: what a transport sets up, and what is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueState {
    /// Entries, a power of two.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the driver area: the available ring.
    pub driver: u64,
    /// Of the device area: the used ring.
    pub device: u64,
    /// The next entry of the available ring to take.
    pub next_available: u16,
    /// The next entry of the used ring to fill.
    pub next_used: u16,
}

/// A queue that a device serves.
pub struct Queue {
    index: u16,
    ring: Ring,
    ram: Arc<Ram>,
    guest: Arc<GuestRam>,
    notifier: Arc<dyn Notifier>,
    broken: bool,
    /// Given back, but not shown to the driver yet.
    unseen: u16,
    /// Given back, but the driver may not have noticed.
    untold: u16,
}

/// A buffer of the driver's.
pub struct Chain {
    /// What names it in the used ring.
    pub head: u16,
    /// What the device may read.
    pub readable: Scatter,
    /// What the device may write.
    pub writable: Scatter,
}

impl Queue {
    /// The queue in `state`. `features` are those that the driver accepted.
    pub fn new(
        index: u16,
        state: &QueueState,
        features: u64,
        ram: &Arc<Ram>,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Self, Violation> {
        let ring = Ring::try_from(RingState {
            max_size: state.size,
            next_avail: state.next_available,
            next_used: state.next_used,
            event_idx_enabled: features & feature::EVENT_IDX != 0,
            size: state.size,
            ready: true,
            desc_table: state.descriptors,
            avail_ring: state.driver,
            used_ring: state.device,
        })?;
        let guest = Arc::new(guest_ram(ram));
        if !ring.is_valid(&*guest) {
            return Err(virtio_queue::Error::QueueNotReady.into());
        }
        Ok(Self {
            index,
            ring,
            ram: ram.clone(),
            guest,
            notifier,
            broken: false,
            unseen: 0,
            untold: 0,
        })
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Guest RAM.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Where it stands.
    pub fn state(&self) -> QueueState {
        let s = self.ring.state();
        QueueState {
            size: s.size,
            descriptors: s.desc_table,
            driver: s.avail_ring,
            device: s.used_ring,
            next_available: s.next_avail,
            next_used: s.next_used,
        }
    }

    /// The driver broke a rule: nothing more is taken from the queue, and the driver is told to reset the
    /// device.
    pub fn fail(&mut self, why: Violation) {
        if !std::mem::replace(&mut self.broken, true) {
            tracing::warn!(
                queue = self.index,
                "the guest's virtio driver must reset its device: {why}"
            );
            self.notifier.needs_reset();
        }
    }

    /// Whether nothing is taken from it any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The next buffer, if there is one.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.broken {
            return None;
        }
        match self.try_pop() {
            Ok(chain) => chain,
            Err(why) => {
                self.fail(why);
                None
            }
        }
    }

    fn try_pop(&mut self) -> Result<Option<Chain>, Violation> {
        let guest = self.guest.clone();
        let Some(mut descriptors) = self.ring.iter(&*guest)?.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let (mut readable, mut writable) = (Scatter::new(&self.ram), Scatter::new(&self.ram));
        let (mut more, mut parts) = (true, 0);
        for d in descriptors.by_ref() {
            more = d.has_next();
            let list = if d.is_write_only() {
                &mut writable
            } else if writable.is_empty() {
                &mut readable
            } else {
                return Err(Violation::Chain);
            };
            parts += 1;
            if parts > MOST_PARTS {
                return Err(Violation::Parts);
            }
            list.push(d.addr().0, d.len() as usize)?;
        }
        if more {
            return Err(Violation::Chain);
        }
        if !writable.is_writable() {
            return Err(Violation::ReadOnly);
        }
        Ok(Some(Chain {
            head,
            readable,
            writable,
        }))
    }

    /// Puts the last buffer that was taken back: it comes again.
    pub fn unpop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives a buffer back, with `written` bytes in it. [`Queue::signal`] tells the driver.
    pub fn push(&mut self, head: u16, written: u32) {
        self.push_later(head, written);
        self.push_now();
    }

    /// As [`Queue::push`], but the driver sees it only with [`Queue::push_now`], and all of those together: buffers
    /// that a packet is spread over.
    pub fn push_later(&mut self, head: u16, written: u32) {
        let slot = self.ring.next_used().wrapping_add(self.unseen) % self.ring.size();
        let at = self.ring.used_ring() + USED_HEADER + u64::from(slot) * USED_ELEMENT;
        let element = u64::from(head) | u64::from(written) << 32;
        self.unseen += 1;
        if let Err(e) = self.guest.write_obj(element.to_le(), GuestAddress(at)) {
            self.fail(virtio_queue::Error::GuestMemory(e).into());
        }
    }

    /// Shows the driver what was given back.
    pub fn push_now(&mut self) {
        let next = self.ring.next_used().wrapping_add(self.unseen);
        self.ring.set_next_used(next);
        self.untold = self.untold.wrapping_add(std::mem::take(&mut self.unseen));
        let at = GuestAddress(self.ring.used_ring() + 2);
        if let Err(e) = self.guest.store(next.to_le(), at, Ordering::Release) {
            self.fail(virtio_queue::Error::GuestMemory(e).into());
        }
    }

    /// Tells the driver of buffers given back, if it wants to know (virtio 1.2 §2.7.7).
    pub fn signal(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if self.broken || untold == 0 {
            return;
        }
        // The driver writes what it wants to know and then looks for used buffers; here it is the other way
        // round, so one of the two sees the other.
        fence(Ordering::SeqCst);
        let wanted = if self.ring.event_idx_enabled() {
            let event = self.ring.avail_ring() + 4 + 2 * u64::from(self.ring.size());
            self.load(event).map(|event| {
                let used = self.ring.next_used();
                used.wrapping_sub(event).wrapping_sub(1) < untold
            })
        } else {
            self.load(self.ring.avail_ring())
                .map(|flags| flags & NO_INTERRUPT == 0)
        };
        match wanted {
            Ok(true) => self.notifier.used(self.index),
            Ok(false) => {}
            Err(why) => self.fail(why),
        }
    }

    fn load(&self, address: u64) -> Result<u16, Violation> {
        let value = self.guest.load::<u16>(GuestAddress(address), Ordering::Relaxed);
        Ok(u16::from_le(value.map_err(virtio_queue::Error::GuestMemory)?))
    }

    /// Asks the driver to notify of new buffers; `true` if some have come already, which are then to be taken
    /// first.
    pub fn listen(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.ring.enable_notification(&*self.guest).unwrap_or_else(|e| {
            self.fail(e.into());
            false
        })
    }

    /// Asks the driver not to notify.
    pub fn hush(&mut self) {
        if !self.broken
            && let Err(e) = self.ring.disable_notification(&*self.guest)
        {
            self.fail(e.into());
        }
    }
}
