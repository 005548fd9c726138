//! Where things lie in the guest. One page table maps everything, all of it below 2 GiB; it is itself
//! mapped, so that the program can change it. Code, data and stack of the program are where
//! [`crate::layout`] has them.

use crate::layout::PAGE;

/// First linear address.
pub const BASE: u64 = 0x1000_0000;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 0x8_0000;

/// The program's code once more, writable.
pub const ALIAS: u64 = BASE + 0x3_0000;
/// A page of code whose entry in the page table changes between [`FRAMES`].
pub const REMAPPED: u64 = BASE + 0x4_0000;
/// A page of data whose rights change.
pub const GUARDED: u64 = BASE + 0x4_2000;
/// The two frames of [`REMAPPED`], as data.
pub const FRAMES: [u64; 2] = [BASE + 0x4_4000, BASE + 0x4_5000];
/// The page table.
pub const TABLE: u64 = BASE + 0x5_0000;
/// Variables that the program writes in either ring.
pub const SHARED: u64 = BASE + 0x5_2000;
/// Where the program goes on after a fault.
pub const RESUME: u64 = SHARED;
/// How many instructions are stepped through once TF is set.
pub const STEPS: u64 = SHARED + 8;
/// GDT, TSS.
pub const TABLES: u64 = BASE + 0x6_0000;
/// IDT.
pub const IDT: u64 = BASE + 0x6_1000;
/// Entry points, 16 bytes each.
pub const ENTRIES: u64 = BASE + 0x6_2000;
/// What the entry points lead to.
pub const HANDLERS: u64 = BASE + 0x6_3000;
/// The handlers' variables.
pub const PRIVATE: u64 = BASE + 0x6_4000;
/// Events logged.
pub const LOGGED: u64 = PRIVATE;
/// System calls.
pub const CALLS: u64 = PRIVATE + 8;
/// Stack of exceptions.
pub const STACK: u64 = BASE + 0x6_5000;
/// Stack of calls from ring 3.
pub const CALL_STACK: u64 = BASE + 0x6_6000;
/// Stack and counter of interrupts from outside: not compared.
pub const OUTSIDE: u64 = BASE + 0x6_7000;
/// The log: a ring of records.
pub const LOG: u64 = BASE + 0x8_0000;
/// Bytes of a record.
pub const RECORD: u64 = 0x100;
/// Records in the log.
pub const RECORDS: u64 = 0x100;
/// After so many events the machine stops.
pub const MOST_EVENTS: u32 = 1500;

/// Guest-physical address of each stretch of pages: linear address, pages.
pub const PAGES: [(u64, u64, u64); 16] = [
    (crate::layout::CODE, 0x1_0000, 2),
    (crate::layout::STUB, 0x1_2000, 1),
    (crate::layout::READ_ONLY, 0x1_3000, 1),
    (crate::layout::SCRATCH, 0x1_4000, 2),
    (ALIAS, 0x1_0000, 2),
    (REMAPPED, 0x1_6000, 1),
    (GUARDED, 0x1_8000, 1),
    (FRAMES[0], 0x1_6000, 1),
    (FRAMES[1], 0x1_7000, 1),
    (TABLE, 0x4000, 1),
    (SHARED, 0x5000, 1),
    (TABLES, 0x6000, 2),
    (ENTRIES, 0x8000, 2),
    (PRIVATE, 0xa000, 3),
    (OUTSIDE, 0xd000, 1),
    (LOG, 0x2_0000, 16),
];

/// The guest-physical address behind a linear one.
pub fn physical(linear: u64) -> u64 {
    PAGES
        .iter()
        .find(|(l, _, n)| (*l..l + n * PAGE).contains(&linear))
        .map_or(0, |(l, p, _)| linear - l + p)
}

/// Linear address of the page-table entry of a page.
pub fn entry(linear: u64) -> u64 {
    TABLE + (linear >> 12 & 0x1ff) * 8
}

/// Selectors.
pub mod selector {
    /// 64-bit code of ring 0.
    pub const KERNEL: u16 = 0x10;
    /// Data of ring 0.
    pub const KERNEL_DATA: u16 = 0x18;
    /// Data of ring 3.
    pub const USER_DATA: u16 = 0x2b;
    /// 64-bit code of ring 3.
    pub const USER: u16 = 0x33;
    /// The task.
    pub const TASK: u16 = 0x40;
}

/// Vectors of the program's own calls, open to ring 3.
pub mod vector {
    /// Ends the run.
    pub const END: u8 = 0x81;
    /// Goes on in ring 0.
    pub const UP: u8 = 0x82;
    /// Goes on in ring 3.
    pub const DOWN: u8 = 0x83;
    /// Logs and goes on, on the stack of the ring-0 task.
    pub const CALL: u8 = 0x84;
    /// An interrupt from outside.
    pub const OUTSIDE: u8 = 0xf0;
}

/// Page-table entry bits.
pub mod page {
    /// Present.
    pub const P: u64 = 1;
    /// Writable.
    pub const W: u64 = 2;
    /// Open to ring 3.
    pub const U: u64 = 4;
    /// Accessed and dirty.
    pub const AD: u64 = 0x60;
    /// Not to be executed.
    pub const NX: u64 = 1 << 63;
}

/// Writing this MSR, one of the APIC's, raises an interrupt from outside.
pub const INTERRUPT_MSR: u32 = 0x83f;
