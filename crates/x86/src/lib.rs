//! The x86-64 architecture as data: register state, control bits, MSR numbers, CPU models, descriptors
//! and page-table entries. Nothing here runs a guest; every engine, the board and saved state share it.
#![forbid(unsafe_code)]

mod apic;
pub mod bits;
pub mod cpuid;
pub mod descriptor;
pub mod exception;
mod features;
pub mod msr;
pub mod paging;
pub mod pvclock;
mod state;

pub use apic::{ApicState, LVT_ENTRIES};
pub use state::{
    Activity, CpuState, DescriptorTable, Fpu, Gpr, Msrs, PendingEvent, Seg, Segment, SegmentAttributes, Xmm,
};
