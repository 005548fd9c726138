//! What the author of a PCI function writes.

use crate::Interrupts;
use donjon_devices::{Migrate, Record, RestoreError};
use std::ops::Range;
use std::sync::Arc;

/// One PCI Express function: a virtio device, an NVMe controller.
///
/// The bus keeps its configuration space, its MSI-X table and the addresses of its BARs; a function sees
/// accesses to its own BARs, by offset. Calls come from any thread and several at once, except that calls
/// marked *configuration* are made one at a time, in the order of the guest's accesses, and with the
/// function's configuration space locked. A function may hold a lock of its own when it calls
/// [`Interrupts`], and need not be `Weak` about it.
///
/// After its removal a function hears `bus_master(false)`, if it was a master, and `reset`, and nothing more,
/// except for BAR accesses that were already under way.
pub trait Function: Send + Sync {
    /// What configuration space says. Asked for once, before anything else.
    fn description(&self) -> Description;

    /// Called once, when the function is put on a bus: how it interrupts.
    fn connect(&self, interrupts: Arc<Interrupts>);

    /// A load of 1 to 8 bytes from `offset` of BAR `bar`, in the low `size` bytes. Never beyond the BAR.
    fn read(&self, bar: u8, offset: u64, size: u8) -> u64;

    /// A store.
    fn write(&self, bar: u8, offset: u64, size: u8, value: u64);

    /// *Configuration.* A read of the bytes `at` of the capability `index` of [`Description::capabilities`].
    /// `body` is the whole capability; what is left in it is what the guest reads.
    fn config_read(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        let _ = (index, body, at);
    }

    /// *Configuration.* A write of the bytes `at` of a capability; `body` has the new values of those bits
    /// that are writable.
    fn config_write(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        let _ = (index, body, at);
    }

    /// *Configuration.* Whether the function may reach guest memory. It may not at power-on. When this
    /// returns from `false`, the function must not touch guest memory any more.
    fn bus_master(&self, enabled: bool);

    /// *Configuration.* Power-on, bus or function-level reset (PCI Express Base 5.0 §6.6.2): forget everything
    /// and be as new. The bus resets configuration space and MSI-X itself.
    fn reset(&self);

    /// The state behind the BARs, as [`donjon_devices::Lifecycle::migrate`].
    fn migrate(&self) -> Migrate;

    /// Replaces that state, as [`donjon_devices::Lifecycle::restore`]. Configuration space, MSI-X and the
    /// interrupt line have been restored; [`Function::bus_master`] comes after it.
    fn restore(&self, record: &Record) -> Result<(), RestoreError>;
}

/// Identification registers (PCI Local Bus 3.0 §6.2.1, 6.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
}

/// Class code (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// Base class.
    pub base: u8,
    /// Sub-class.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
}

/// What a base address register maps (PCI Local Bus 3.0 §6.2.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes the next BAR too.
    Memory64 {
        /// Reads have no side effects. If so it is placed above 4 GiB at power-on.
        prefetchable: bool,
    },
}

/// One base address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Which: 0 to 5.
    pub index: u8,
    /// Of what.
    pub kind: BarKind,
    /// Bytes: a power of two. At least 4096 of memory, so that functions never share a page; 4 to 256 ports.
    pub size: u64,
}

/// Message-signalled interrupts with a table (PCI Local Bus 3.0 §6.8.2). The table and the pending bits are in a
/// BAR of their own, 32-bit memory, which the bus makes and serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Vectors: 1 to 2048.
    pub vectors: u16,
    /// That BAR: 0 to 5, none of [`Description::bars`].
    pub bar: u8,
}

/// A capability beyond those that the bus provides, such as a vendor-specific one (PCI Local Bus 3.0 §6.7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capability {
    /// All of it. Byte 0 is the capability ID; byte 1, the link to the next one, is filled in.
    pub bytes: Vec<u8>,
    /// Which bits the guest can write, in the same order. May be shorter; the rest is read-only.
    pub writable: Vec<u8>,
}

/// What configuration space says about a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Who made what.
    pub ids: Ids,
    /// What it is.
    pub class: Class,
    /// Whether it has the PCI Express and power-management capabilities. Host bridges have not.
    pub express: bool,
    /// BARs, without the one of MSI-X.
    pub bars: Vec<Bar>,
    /// MSI-X.
    pub msix: Option<Msix>,
    /// Whether it has an interrupt pin.
    pub intx: bool,
    /// Other capabilities, in the order in which the guest finds them. There is room for 112 bytes.
    pub capabilities: Vec<Capability>,
}
