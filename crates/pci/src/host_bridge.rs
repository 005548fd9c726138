//! The device in slot 0.

use crate::{Class, Description, Function, Ids, Interrupts};
use donjon_devices::{Migrate, Record, RestoreError};
use std::sync::Arc;

/// A generic PCI Express host bridge, with the IDs under which QEMU's is known to guests. It has no registers:
/// what it forwards is fixed.
pub(crate) struct HostBridge;

impl Function for HostBridge {
    fn description(&self) -> Description {
        Description {
            ids: Ids {
                vendor: 0x1b36,
                device: 0x0008,
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
                revision: 0,
            },
            class: Class {
                base: 0x06,
                sub: 0x00,
                interface: 0,
            },
            express: false,
            bars: vec![],
            msix: None,
            intx: false,
            capabilities: vec![],
        }
    }
    fn connect(&self, _: Arc<Interrupts>) {}
    fn read(&self, _: u8, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, _: u8, _: u64, _: u8, _: u64) {}
    fn bus_master(&self, _: bool) {}
    fn reset(&self) {}
    fn migrate(&self) -> Migrate {
        Migrate::Stateless
    }
    fn restore(&self, _: &Record) -> Result<(), RestoreError> {
        Ok(())
    }
}
