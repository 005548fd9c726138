//! A paravirtual console, `hvc0` in Linux.

use super::Attachment;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_virtio::console::{Console, ConsolePort};
use donjon_virtio::pci::VirtioPci;
use std::sync::{Arc, Mutex, MutexGuard};

/// The console over the life of its domain.
#[derive(Default)]
pub struct ConsoleDevice {
    /// In the machine that runs.
    front: Mutex<Option<Arc<Console>>>,
}

impl ConsoleDevice {
    /// A console with one port.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn front(&self) -> MutexGuard<'_, Option<Arc<Console>>> {
        self.front.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Its port in the machine that runs.
    pub(crate) fn port(&self) -> Option<Arc<ConsolePort>> {
        self.front().as_ref().map(|c| c.ports()[0].clone())
    }
}

impl Attachment for ConsoleDevice {
    fn name(&self) -> &str {
        "console"
    }

    fn kind(&self) -> &'static str {
        "console"
    }

    fn options(&self) -> String {
        String::new()
    }

    fn removable(&self) -> bool {
        false
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        let console = Console::new([""]).expect("a console of one port can be");
        *self.front() = Some(console.clone());
        VirtioPci::new(console, ram)
    }
}
