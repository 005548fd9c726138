//! Console device (virtio 1.2 §5.3): a console and named channels.
//!
//! Port 0 is a console, `hvc0` in Linux; the others are channels between programs of host and guest, which a
//! Linux guest finds as `/dev/virtio-ports/NAME`. The host side of each is a [`ConsolePort`], which outlives the
//! guest's driver: what a port was sent waits for the next one.

mod control;
mod outlet;
mod port;
mod service;
#[cfg(test)]
mod tests;

pub use port::ConsolePort;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use crate::service::Server;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use port::SavedPort;
use serde::{Deserialize, Serialize};
use service::Queues;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The most ports.
pub const MAX_PORTS: usize = 31;
/// Bytes of the longest name.
pub const MAX_NAME: usize = 255;
/// Entries of each queue. Linux keeps as many pages of every port's for input.
const QUEUE_SIZE: u16 = 64;
/// How long a console's output waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// Feature bits (virtio 1.2 §5.3.3).
mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
}

/// Ports that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortsError {
    /// None, or too many.
    #[error("a virtio console has 1 to {MAX_PORTS} ports, not {0}; use a second device for more")]
    Number(usize),
    /// A name that is too long.
    #[error("the port name {0:?} is longer than {MAX_NAME} bytes; use a shorter one")]
    Name(String),
    /// Two ports of one name.
    #[error("two ports are called {0:?}; give each its own name")]
    Twice(String),
}

/// The device.
pub struct Console {
    ports: Vec<Arc<ConsolePort>>,
    server: Lock<Option<Server<Queues>>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
struct SavedConsole {
    ports: Vec<SavedPort>,
}

impl Saved for SavedConsole {
    const KIND: &'static str = "virtio-console";
    const VERSION: u16 = 1;
}

impl Console {
    /// A device with ports of these names. The first is the console.
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<Arc<Self>, PortsError> {
        Self::with_patience(names, PATIENCE)
    }

    fn with_patience<N: Into<String>>(
        names: impl IntoIterator<Item = N>,
        patience: Duration,
    ) -> Result<Arc<Self>, PortsError> {
        let names: Vec<String> = names.into_iter().map(N::into).collect();
        if !(1..=MAX_PORTS).contains(&names.len()) {
            return Err(PortsError::Number(names.len()));
        }
        for (n, name) in names.iter().enumerate() {
            if name.len() > MAX_NAME {
                return Err(PortsError::Name(name.clone()));
            }
            if !name.is_empty() && names[..n].contains(name) {
                return Err(PortsError::Twice(name.clone()));
            }
        }
        let ports = (0u32..).zip(names);
        Ok(Arc::new(Self {
            ports: ports
                .map(|(id, name)| ConsolePort::new(id, name, patience))
                .collect(),
            server: Lock::default(),
            notifier: OnceLock::new(),
        }))
    }

    /// Its ports.
    pub fn ports(&self) -> &[Arc<ConsolePort>] {
        &self.ports
    }

    /// The port of a name.
    pub fn port(&self, name: &str) -> Option<&Arc<ConsolePort>> {
        self.ports.iter().find(|p| p.name() == name)
    }

    /// virtio_console_config (virtio 1.2 §5.3.4).
    fn configuration(&self) -> [u8; 8] {
        let mut c = [0; 8];
        let (columns, rows) = self.ports[0].size();
        c[..2].copy_from_slice(&columns.to_le_bytes());
        c[2..4].copy_from_slice(&rows.to_le_bytes());
        c[4..].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        c
    }

    fn end(&self) {
        let server = self.server.lock().take();
        for port in &self.ports {
            port.wake_by(None);
        }
        drop(server);
    }
}

impl Device for Console {
    fn kind(&self) -> u16 {
        kind::CONSOLE
    }

    fn features(&self) -> u64 {
        feature::SIZE | feature::MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * self.ports.len() + 2]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        for port in &self.ports {
            port.attach(notifier.clone());
        }
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        read_bytes(&self.configuration(), offset, out);
    }

    fn start(&self, features: u64) {
        if features & feature::MULTIPORT == 0 {
            // Nobody will say so.
            self.ports[0].set_guest_open(true);
        }
        match Server::start("console", Queues::new(&self.ports)) {
            Ok(server) => {
                let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(server.waker());
                for port in &self.ports {
                    port.wake_by(Some(wake.clone()));
                }
                *self.server.lock() = Some(server);
            }
            Err(e) => {
                tracing::error!("a virtio console cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn start_queue(&self, index: u16, queue: Queue) {
        if let Some(server) = &*self.server.lock() {
            server.with(|s| s.queue(index).map(|q| *q = Some(queue)));
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        let server = self.server.lock();
        let queue = server.as_ref()?.with(|s| s.queue(index)?.take())??;
        Some(queue.state())
    }

    fn notify(&self, _: u16) {
        if let Some(server) = &*self.server.lock() {
            server.notify();
        }
    }

    fn reset(&self) {
        self.end();
        for port in &self.ports {
            port.forget();
        }
    }

    fn migrate(&self) -> Migrate {
        SavedConsole {
            ports: self.ports.iter().map(|p| p.save()).collect(),
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedConsole::open(record)?;
        if saved.ports.len() != self.ports.len() {
            return Err(SavedConsole::damaged("it has another number of ports"));
        }
        if !saved.ports.iter().all(SavedPort::is_sound) {
            return Err(SavedConsole::damaged("more input waits than a port can hold"));
        }
        for (port, saved) in self.ports.iter().zip(saved.ports) {
            port.restore(saved);
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end();
    }
}
