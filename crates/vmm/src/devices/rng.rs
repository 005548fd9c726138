//! The entropy device that every domain has.

use super::Attachment;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_virtio::pci::VirtioPci;
use donjon_virtio::rng::Rng;
use std::sync::Arc;

/// Random numbers from the host.
pub struct RngDevice;

impl Attachment for RngDevice {
    fn name(&self) -> &str {
        "rng"
    }

    fn kind(&self) -> &'static str {
        "rng"
    }

    fn options(&self) -> String {
        String::new()
    }

    fn removable(&self) -> bool {
        false
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        VirtioPci::new(Rng::new(), ram)
    }
}
