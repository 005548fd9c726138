//! The board: what a domain's machine has, where, and how it comes to run a kernel.
//!
//! A [`MachineSpec`] becomes a [`Machine`]: guest RAM, the chips of `donjon-devices` on their buses with
//! their interrupt wires, a PCI Express bus with the devices it is given, and the ACPI tables that describe it. [`boot`] puts a kernel into RAM and says in
//! what state the first processor enters it. The board is the same on every engine.
#![forbid(unsafe_code)]

mod acpi;
pub mod boot;
pub mod layout;
mod machine;
mod spec;

pub use donjon_pci as pci;
pub use machine::{Machine, MachineError, Outside};
pub use spec::{MAX_CPUS, MIN_MEMORY, MachineSpec, SpecError};
