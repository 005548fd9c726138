//! Guest RAM.
//!
//! One [`Ram`] is one memfd mapped once, contiguously, into the process. Guest-physical addresses reach it
//! through at most two ranges ([`Ram::ranges`]): RAM below the 32-bit device hole and RAM from 4 GiB up. Files may
//! lie behind it in the same mapping ([`MemoryFile`]), each with a range of its own.
//! Everything that emulates a CPU works with *offsets* into the mapping, so that a software TLB can hold
//! an offset and every access stays bounds-checked.
//!
//! Guest CPUs, devices and the host touch RAM at the same time; all accesses are therefore either inline
//! machine instructions or atomics (module `access`), never Rust references to guest bytes.
//!
//! The same per-page words tell CPU engines that decoded guest code has changed (module `code`).

mod access;
mod code;
mod guest;
mod map;
mod ram;
mod scatter;
pub mod uring;
mod view;

pub use access::Word;
pub use code::{CHUNK_SIZE, CodeMap, Stored};
pub use guest::{GuestRam, Region, guest_ram};
pub use map::MemoryFile;
pub use ram::{Backing, HOLE_END, HOLE_START, MemoryError, PAGE_SIZE, Ram, RamRange, RangeKind};
pub use scatter::{Part, Scatter};
