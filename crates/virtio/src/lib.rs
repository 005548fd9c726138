//! Virtio devices (Virtual I/O Device specification 1.2) and what carries them.
//!
//! A [`Device`] knows its queues and its configuration, not its transport or its interrupts; [`Queue`] is one ring
//! in use, [`service`] the threads that serve it.
#![forbid(unsafe_code)]

pub mod balloon;
pub mod blk;
pub mod console;
mod device;
pub mod fs;
#[cfg(test)]
mod mock;
pub mod net;
pub mod pci;
pub mod pmem;
mod queue;
pub mod rng;
pub mod vsock;

pub use device::{Device, Notifier, feature, kind, read_bytes};
pub use donjon_service as service;
pub use queue::{Chain, Queue, QueueState, Violation};
