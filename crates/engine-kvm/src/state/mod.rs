//! The engine-independent state of a vCPU, to and from the kernel's structures.

pub mod apic;
pub mod events;
pub mod msrs;
pub mod registers;
pub mod xsave;
