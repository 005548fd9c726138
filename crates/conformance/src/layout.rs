//! Where things lie. The native worker and the guest map the same linear addresses with the same rights,
//! all below 2 GiB so that 32-bit displacements, the address-size prefix and compatibility mode reach them.
//!
//! ```text
//! 1000_1000  code       2 pages  read, write, execute   filled with HLT between cases
//! 1001_2000  stub       1 page   read, execute          where a completed case ends up
//! 1002_1000  read-only  1 page   read
//! 1002_2000  scratch    2 pages  read, write
//! ```
//! Everything else there is unmapped, so an access that runs over an edge faults.

/// Bytes in a page.
pub const PAGE: u64 = 0x1000;
/// First byte that may hold tested code.
pub const CODE: u64 = 0x1000_1000;
/// Bytes of it.
pub const CODE_SIZE: u64 = 2 * PAGE;
/// What code memory holds where no case put anything: HLT, which is #GP(0) at CPL 3.
pub const CODE_FILL: u8 = 0xf4;
/// The page a completed case leaves through: beyond the reach of a 16-bit code segment, because the guest's
/// and the worker's differ.
pub const STUB: u64 = 0x1001_2000;
/// Where the jump after the tested instruction leads.
pub const STUB_FALL: u64 = STUB + 0x400;
/// Where the jump at a taken branch's target leads.
pub const STUB_TAKEN: u64 = STUB + 0x480;
/// Read-only data.
pub const READ_ONLY: u64 = 0x1002_1000;
/// Writable data.
pub const SCRATCH: u64 = 0x1002_2000;
/// Bytes of it.
pub const SCRATCH_SIZE: u64 = 2 * PAGE;
/// The first byte after it.
pub const SCRATCH_END: u64 = SCRATCH + SCRATCH_SIZE;

/// The native worker's register block (nothing is mapped there in a guest).
pub const STATE: u64 = 0x1010_9000;

/// Selectors Linux gives user programs; the guest's GDT has the same entries (Linux, asm/segment.h).
pub mod selector {
    /// 64-bit code.
    pub const CODE64: u16 = 0x33;
    /// 32-bit code.
    pub const CODE32: u16 = 0x23;
    /// Flat data.
    pub const DATA: u16 = 0x2b;
    /// LDT: 16-bit code, base [`super::CODE`], limit 64 KiB.
    pub const CODE16: u16 = 0x07;
    /// LDT: 16-bit data (and stack), base [`WINDOW_BASE`], limit 64 KiB.
    pub const DATA16: u16 = 0x0f;
    /// LDT: 32-bit data, base [`WINDOW_BASE`], limit [`SHORT_LIMIT`].
    pub const SHORT: u16 = 0x17;
    /// Base of the LDT's data segments: 64 KiB that hold both data areas.
    pub const WINDOW_BASE: u64 = 0x1002_0000;
    /// Limit of [`SHORT`]: the last 16 bytes of the writable area are outside.
    pub const SHORT_LIMIT: u32 = (super::SCRATCH_END - WINDOW_BASE - 17) as u32;
}
