//! PCI Express: configuration space, BARs, interrupts and hotplug of the functions on a root bus.
//!
//! The author of a device implements [`Function`] and describes it with a [`Description`]; the rest is here. A
//! [`Bus`] puts functions into slots, answers configuration accesses, maps BARs on the board's
//! [`Buses`](donjon_devices::bus::Buses) as the guest enables and moves them, keeps MSI-X tables, and lets
//! devices come and go while the guest runs ([`hotplug`]). The board says where things are ([`Windows`]) and
//! wires interrupts ([`Wiring`]).
//!
//! Every function is a root complex integrated endpoint (PCI Express Base 5.0 §1.3.2.3) with function-level
//! reset, the power states D0 and D3hot, and MSI-X or an interrupt pin.
//!
//! # Hostile guests
//!
//! A BAR is mapped only if all of it lies in a window of the host bridge, whatever is written into it, so RAM,
//! interrupt controllers and configuration space cannot be shadowed. Of BARs that overlap, one is mapped. A
//! device whose bus mastering is off is told so before the guest's access returns.
//!
//! # Locks
//!
//! Those of this crate come before all of `donjon_devices`'. A thread takes, in this order and leaving out any,
//! the bus's list of devices; a function's configuration space; the map of BARs or the function's own locks. With
//! its own lock held a function may call [`Interrupts`], which takes a vector's or the pin's, and then a
//! [`SharedLine`](donjon_devices::line::SharedLine)'s and so on. Accesses to BARs take no lock here.
#![forbid(unsafe_code)]

mod access;
mod bar;
mod bus;
mod function;
mod host_bridge;
pub mod hotplug;
mod interrupts;
mod layout;
mod map;
mod msix;
mod node;
mod registers;
mod removal;
mod saved;
mod space;
#[cfg(test)]
mod tests;
mod windows;

pub use access::{CONFIG_LEN, ECAM_BUS_LEN};
pub use bus::{Bus, Device, FUNCTIONS, INTX_LINES, NotPlugged, PlugError, SLOTS, Wiring, intx_line};
pub use function::{Bar, BarKind, Capability, Class, Description, Function, Ids, Msix};
use host_bridge::HostBridge;
pub use interrupts::Interrupts;
pub use layout::DescriptionError;
pub use removal::Removal;
pub use windows::Windows;
