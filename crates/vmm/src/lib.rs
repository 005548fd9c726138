//! One domain's process: its vCPU threads, its console, and what happens when the guest powers off, resets or
//! crashes.
//!
//! [`run`] drives a domain on the calling thread, which becomes its supervisor: vCPU threads, devices, console
//! and signals only send it events, so nothing that happens on a vCPU's own thread can wait for that thread.
//! A reset domain gets a new machine, with fresh RAM and devices, and boots again.
#![forbid(unsafe_code)]

mod console;
mod crash;
pub mod devices;
mod domain;
mod event;
mod meter;
mod signals;
mod vcpu;

pub use console::ConsoleConfig;
pub use crash::Crash;
pub use domain::{DomainSpec, Failure, Handle, MoveError, Moved, Outcome, Report, StartError, run};
pub use meter::{Meter, VcpuStats};
