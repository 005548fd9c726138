//! Network device (virtio 1.2 §5.1).

mod config;
mod control;
mod packet;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use config::Settings;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use crate::service::Server;
use config::feature;
use control::Control;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_limit::{Limit, Limiter};
use donjon_net::{Backend, Mac, Offloads};
use receive::Receive;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use transmit::Transmit;

/// Entries of each queue for packets.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// What all queues of a device look at.
struct Shared {
    backend: Arc<dyn Backend>,
    /// Feature bits that the driver accepted.
    features: AtomicU64,
    /// Pairs of queues in use.
    active: AtomicU16,
    /// Somebody pulled the cable.
    unplugged: AtomicBool,
    mac: Lock<Mac>,
    /// Packets to the guest, and from it.
    received: Limiter,
    sent: Limiter,
}

/// The device.
pub struct Net {
    shared: Arc<Shared>,
    mtu: Option<u16>,
    original: Mac,
    pairs: Vec<Pair>,
    control: Lock<Option<Control>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

#[derive(Default)]
struct Pair {
    receive: Lock<Option<Server<Receive>>>,
    transmit: Lock<Option<Server<Transmit>>>,
}

#[derive(Serialize, Deserialize)]
struct SavedNet {
    mac: [u8; 6],
    active: u16,
    unplugged: bool,
}

impl Saved for SavedNet {
    const KIND: &'static str = "virtio-net";
    const VERSION: u16 = 1;
}

impl Net {
    /// A device in front of `backend`, with as many pairs of queues as that has.
    pub fn new(backend: Arc<dyn Backend>, settings: Settings) -> Arc<Self> {
        let now = Instant::now();
        let pairs = backend.queues().clamp(1, config::MAX_PAIRS);
        Arc::new(Self {
            shared: Arc::new(Shared {
                backend,
                features: AtomicU64::new(0),
                active: AtomicU16::new(1),
                unplugged: AtomicBool::new(false),
                mac: Lock::new(settings.mac),
                received: Limiter::new(now, settings.limit),
                sent: Limiter::new(now, settings.limit),
            }),
            mtu: settings.mtu,
            original: settings.mac,
            pairs: (0..pairs).map(|_| Pair::default()).collect(),
            control: Lock::default(),
            notifier: OnceLock::new(),
        })
    }

    /// What it is connected to.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// What it may do, in each direction.
    pub fn limit(&self) -> Limit {
        self.shared.sent.limit()
    }

    /// Limits each direction from now on.
    pub fn set_limit(&self, limit: Limit) {
        let now = Instant::now();
        self.shared.received.set(now, limit);
        self.shared.sent.set(now, limit);
        for pair in &self.pairs {
            pair.receive.lock().iter().for_each(Server::wake);
            pair.transmit.lock().iter().for_each(Server::wake);
        }
    }

    /// Whether the guest sees a cable.
    pub fn link(&self) -> bool {
        self.shared.link()
    }

    /// Plugs the cable in or pulls it.
    pub fn set_link(&self, up: bool) {
        if self.shared.unplugged.swap(!up, SeqCst) == up
            && let Some(notifier) = self.notifier.get()
        {
            notifier.configuration_changed();
        }
    }

    fn control_index(&self) -> u16 {
        self.pairs.len() as u16 * 2
    }

    /// The pair that queue `index` belongs to, and whether it is the one for packets to the guest.
    fn pair(&self, index: u16) -> Option<(&Pair, bool)> {
        let pair = self.pairs.get(usize::from(index / 2))?;
        Some((pair, index.is_multiple_of(2)))
    }

    fn broken(&self, what: &str, e: std::io::Error) {
        tracing::error!("a network device's queue cannot be served: {what}: {e}");
        if let Some(notifier) = self.notifier.get() {
            notifier.needs_reset();
        }
    }
}

impl Shared {
    fn link(&self) -> bool {
        self.backend.link() && !self.unplugged.load(SeqCst)
    }

    fn accepted(&self, bits: u64) -> bool {
        self.features.load(SeqCst) & bits == bits
    }

    /// Tells the backend what the guest takes undone.
    fn set_offloads(&self, offloads: Offloads) -> std::io::Result<()> {
        self.backend.set_offloads(offloads)
    }
}

impl Device for Net {
    fn kind(&self) -> u16 {
        kind::NET
    }

    fn features(&self) -> u64 {
        let mut offered = feature::offered(self.shared.backend.offloads());
        if self.mtu.is_some() {
            offered |= feature::MTU;
        }
        if self.pairs.len() > 1 {
            offered |= feature::MULTI_QUEUE;
        }
        offered
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; self.pairs.len() * 2];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let mac = *self.shared.mac.lock();
        let pairs = self.pairs.len() as u16;
        let config = config::bytes(mac, self.shared.link(), pairs, self.mtu.unwrap_or(0));
        read_bytes(&config, offset, out);
    }

    fn start(&self, features: u64) {
        self.shared.features.store(features, SeqCst);
        if let Err(e) = self.shared.set_offloads(feature::guest_offloads(features)) {
            self.broken("offloads", e);
        }
        if let Err(e) = self.shared.backend.set_queues(self.shared.active.load(SeqCst)) {
            self.broken("number of queues", e);
        }
    }

    fn start_queue(&self, index: u16, queue: Queue) {
        if index == self.control_index() {
            *self.control.lock() = Some(Control::new(&self.shared, queue));
            // Buffers may be waiting.
            self.notify(index);
            return;
        }
        let Some((pair, receives)) = self.pair(index) else {
            return;
        };
        let number = index / 2;
        let port = match self.shared.backend.queue(number) {
            Ok(port) => port,
            Err(e) => return self.broken("backend", e),
        };
        let started = if receives {
            Receive::new(&self.shared, port, number, queue)
                .and_then(|r| Server::start(&format!("rx{number}"), r))
                .map(|server| *pair.receive.lock() = Some(server))
        } else {
            Server::start(&format!("tx{number}"), Transmit::new(&self.shared, port, queue))
                .map(|server| *pair.transmit.lock() = Some(server))
        };
        if let Err(e) = started {
            self.broken("thread", e);
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        if index == self.control_index() {
            return self.control.lock().take().map(|c| c.state());
        }
        let (pair, receives) = self.pair(index)?;
        if receives {
            let server = pair.receive.lock().take()?;
            server.stop().map(|r| r.state())
        } else {
            let server = pair.transmit.lock().take()?;
            server.stop().map(|t| t.state())
        }
    }

    fn notify(&self, index: u16) {
        if index == self.control_index() {
            let changed = self.control.lock().as_mut().is_some_and(Control::run);
            if changed {
                // Other pairs of queues are in use than before.
                for pair in &self.pairs {
                    pair.receive.lock().iter().for_each(Server::wake);
                }
            }
            return;
        }
        match self.pair(index) {
            Some((pair, true)) => pair.receive.lock().iter().for_each(Server::notify),
            Some((pair, false)) => pair.transmit.lock().iter().for_each(Server::notify),
            None => {}
        }
    }

    fn reset(&self) {
        for index in 0..=self.control_index() {
            self.stop_queue(index);
        }
        self.shared.features.store(0, SeqCst);
        self.shared.active.store(1, SeqCst);
        *self.shared.mac.lock() = self.original;
        // Nobody is there to hear of an error; the next start tries again.
        let _ = self.shared.set_offloads(Offloads::NONE);
        let _ = self.shared.backend.set_queues(1);
    }

    fn migrate(&self) -> Migrate {
        SavedNet {
            mac: self.shared.mac.lock().bytes(),
            active: self.shared.active.load(SeqCst),
            unplugged: self.shared.unplugged.load(SeqCst),
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedNet::open(record)?;
        let pairs = 1..=self.pairs.len() as u16;
        if !pairs.contains(&saved.active) {
            return Err(SavedNet::damaged("it uses more queues than there are"));
        }
        let mac = Mac::new(saved.mac).map_err(|e| SavedNet::damaged(e.to_string()))?;
        *self.shared.mac.lock() = mac;
        self.shared.active.store(saved.active, SeqCst);
        self.shared.unplugged.store(saved.unplugged, SeqCst);
        Ok(())
    }
}
