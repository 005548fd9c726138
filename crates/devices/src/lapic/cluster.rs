//! All local APICs of a board, and how messages find theirs.

use super::message::{DeliveryMode, Message};
use super::{LocalApic, Route};
use crate::line::MsiSink;
use arc_swap::ArcSwap;
use donjon_engine::{Msi, RemoteApics};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

/// Hears of the end of level-triggered interrupts: an I/O APIC.
pub trait EoiSink: Send + Sync {
    /// A processor has ended the level-triggered interrupt `vector`.
    fn end_of_interrupt(&self, vector: u8);
}

/// Where messages go.
#[derive(Default)]
pub(super) enum Way {
    /// To the local APICs here.
    #[default]
    Here,
    /// Nowhere for now: they wait. No message is here twice, so there are not many.
    Held(Vec<Message>),
    /// To the local APICs of an engine; those here sleep.
    Away(Arc<dyn RemoteApics>),
}

/// Connects the local APICs of a board with each other, with I/O APICs and with MSI devices.
///
/// Delivery takes no lock that a processor in trouble could hold; see the crate's lock order.
#[derive(Default)]
pub struct ApicBus {
    /// Held for reading while a message is on its way, so that whoever changes it knows that none is.
    way: RwLock<Way>,
    /// The level-triggered interrupts of the I/O APIC's pins.
    levels: Mutex<Vec<Option<Msi>>>,
    /// In order of APIC ID.
    apics: ArcSwap<Vec<Arc<LocalApic>>>,
    eoi: ArcSwap<Vec<Weak<dyn EoiSink>>>,
    change: Mutex<()>,
    /// Where the next search for the lowest priority starts, so that equals share the load.
    turn: AtomicUsize,
}

impl ApicBus {
    /// A bus without processors.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Connects an I/O APIC.
    pub fn add_eoi_sink(&self, sink: Weak<dyn EoiSink>) {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        let mut sinks = Vec::clone(&self.eoi.load());
        sinks.push(sink);
        self.eoi.store(Arc::new(sinks));
    }

    pub(super) fn add(&self, apic: Arc<LocalApic>) {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        let mut apics = Vec::clone(&self.apics.load());
        let at = apics.partition_point(|a| a.id() < apic.id());
        apics.insert(at, apic);
        self.apics.store(Arc::new(apics));
    }

    /// The local APICs, in order of APIC ID.
    pub fn apics(&self) -> Vec<Arc<LocalApic>> {
        Vec::clone(&self.apics.load())
    }

    /// Delivers a message; whether any local APIC accepted it.
    pub fn deliver(&self, m: &Message) -> bool {
        match &*self.way() {
            Way::Here => return self.deliver_here(m, None) != 0,
            Way::Away(remote) => return remote.deliver(m.to_msi()),
            Way::Held(_) => {}
        }
        if let Way::Held(waiting) = &mut *self.way_mut() {
            if !waiting.contains(m) {
                waiting.push(*m);
            }
            return true;
        }
        // It was released in between.
        self.deliver(m)
    }

    fn way(&self) -> RwLockReadGuard<'_, Way> {
        self.way.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn way_mut(&self) -> RwLockWriteGuard<'_, Way> {
        self.way.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what an I/O APIC's pin sends while it is level-triggered.
    pub(crate) fn set_level(&self, pin: usize, message: Option<&Message>) {
        let message = message.map(Message::to_msi);
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.len() <= pin {
            levels.resize(pin + 1, None);
        }
        if levels[pin] != message {
            levels[pin] = message;
            if let Way::Away(remote) = &*self.way() {
                remote.set_levels(&levels);
            }
        }
    }

    /// Has `remote` know what the pins send.
    pub(super) fn tell_levels(&self, remote: &dyn RemoteApics) {
        remote.set_levels(&self.levels.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Delivers to the local APICs here, leaving out the APIC with this ID ("all excluding self"); how many
    /// accepted it.
    pub(super) fn deliver_here(&self, m: &Message, except: Option<u32>) -> usize {
        let apics = self.apics.load();
        // The usual case needs no search: one processor by its ID, and IDs are dense.
        if !m.destination.logical && m.destination.id != Message::BROADCAST && except.is_none() {
            let id = m.destination.id;
            let i = match apics.get(id as usize) {
                Some(a) if a.id() == id => Ok(id as usize),
                _ => apics.binary_search_by_key(&id, |a| a.id()),
            };
            return match i {
                Ok(i) if apics[i].route().enabled() => apics[i].accept(m) as usize,
                // 0xff is the broadcast of xAPIC mode; an x2APIC with that ID was found above.
                _ if id == 0xff => Self::each(&apics, |a| a.matches(m) && a.accept(m)),
                _ => 0,
            };
        }
        let wanted = |a: &LocalApic| Some(a.id()) != except && a.matches(m);
        let one = m.mode == DeliveryMode::LowestPriority || m.redirect && m.mode == DeliveryMode::Fixed;
        if !one {
            return Self::each(&apics, |a| wanted(a) && a.accept(m));
        }
        let turn = self.turn.fetch_add(1, Relaxed) % apics.len().max(1);
        let candidates = apics[turn..].iter().chain(&apics[..turn]);
        let lowest = candidates
            .filter(|a| a.route().software_enabled() && wanted(a))
            .min_by_key(|a| a.priority());
        lowest.is_some_and(|a| a.accept(m)) as usize
    }

    fn each(apics: &[Arc<LocalApic>], accept: impl Fn(&LocalApic) -> bool) -> usize {
        apics.iter().filter(|a| accept(a)).count()
    }

    pub(super) fn end_of_interrupt(&self, vector: u8) {
        for sink in self.eoi.load().iter().filter_map(Weak::upgrade) {
            sink.end_of_interrupt(vector);
        }
    }
}

impl MsiSink for ApicBus {
    fn send(&self, address: u64, data: u32) {
        if let Some(m) = Message::from_msi(address, data) {
            self.deliver(&m);
        }
    }
}

impl LocalApic {
    /// Whether the message is for this APIC (Intel SDM vol. 3A §11.6.2, 11.12.10).
    pub(super) fn matches(&self, m: &Message) -> bool {
        let (route, d) = (self.route(), m.destination);
        if !route.enabled() {
            return false;
        }
        if d.id == Message::BROADCAST || d.id == 0xff && !route.x2apic() {
            return true;
        }
        if d.logical {
            route.is_member(d.id)
        } else {
            d.id == self.id()
        }
    }
}

impl Route {
    /// Whether a logical address includes this one.
    fn is_member(self, address: u32) -> bool {
        let ldr = self.ldr();
        if self.x2apic() {
            return address >> 16 == ldr >> 16 && address & ldr & 0xffff != 0;
        }
        let (address, ldr) = match u8::try_from(address) {
            Ok(a) => (a, (ldr >> 24) as u8),
            Err(_) => return false,
        };
        if self.flat() {
            address & ldr != 0
        } else {
            address >> 4 == ldr >> 4 && address & ldr & 15 != 0
        }
    }
}
