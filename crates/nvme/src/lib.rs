//! An NVMe controller: the disk for systems without virtio drivers.
//!
//! It keeps to NVM Express Base 1.4 and the NVM command set, on PCI Express, with one namespace of 512-byte blocks
//! in front of a [`Disk`](donjon_disk::Disk). Queues are physically contiguous, buffers are described by PRPs,
//! pages are 4 KiB. Shadow doorbells are offered, which spare drivers that use them most exits.
//!
//! Admin commands are executed on the thread that rings the doorbell. Every I/O submission queue has a thread,
//! which sleeps while commands that can be begun at once are begun on the vCPU's.
//!
//! # Hostile guests
//!
//! Queues are checked to be RAM when they are created, buffers when a command is fetched; a command and each of its
//! PRP entries are read once. A queue has at most 128 commands under way, of at most 1 MiB each, and takes none
//! while its completion queue is full. Doorbells with values that cannot be are told as asynchronous events and
//! change nothing.
//!
//! # Locks
//!
//! A thread takes, in this order and leaving out any: the controller; a submission queue's place; a service; a
//! completion queue's place; a completion queue; the pin. After them come those of [`donjon_pci::Interrupts`].
//! Threads of queues never take the controller, so it can be held while they are waited for.
#![forbid(unsafe_code)]

mod admin;
mod command;
mod completion;
mod controller;
mod counters;
mod errors;
mod events;
mod features;
mod identity;
mod io;
mod pci;
mod prp;
mod queues;
mod registers;
mod saved;
mod shadow;
mod shared;
mod signals;
mod status;
mod submission;
#[cfg(test)]
mod tests;

pub use pci::NvmePci;
pub use queues::MAX_QUEUES;
