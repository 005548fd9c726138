//! Where registers are and what is in them (NVM Express Base 1.4 §3.1).

/// Offsets.
pub mod at {
    pub const CAP: u64 = 0x00;
    pub const VS: u64 = 0x08;
    pub const INTMS: u64 = 0x0c;
    pub const INTMC: u64 = 0x10;
    pub const CC: u64 = 0x14;
    pub const CSTS: u64 = 0x1c;
    pub const AQA: u64 = 0x24;
    pub const ASQ: u64 = 0x28;
    pub const ACQ: u64 = 0x30;
    pub const DOORBELLS: u64 = 0x1000;
}

/// The version that is kept to: 1.4.
pub const VERSION: u32 = 0x0001_0400;
/// Entries of the largest I/O queue.
pub const MAX_ENTRIES: u16 = 1024;

/// Controller Capabilities.
pub const CAPABILITIES: u64 = {
    let contiguous_queues = 1 << 16;
    // In units of 500 ms: what is under way when the controller is disabled is finished first.
    let timeout = 60 << 24;
    let nvm_command_set = 1 << 37;
    (MAX_ENTRIES as u64 - 1) | contiguous_queues | timeout | nvm_command_set
};

/// Controller Configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cc(pub u32);

impl Cc {
    /// What is not reserved.
    pub const MASK: u32 = 0x00ff_fff1;

    pub fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// The NVM command set, pages of 4 KiB and round-robin arbitration: all else is not supported.
    pub fn is_supported(self) -> bool {
        self.0 & 0x3ff0 == 0
    }

    /// Shutdown notification.
    pub fn shutdown(self) -> u32 {
        self.0 >> 14 & 3
    }

    /// Whether I/O submission queue entries have 64 bytes.
    pub fn has_sqe_size(self) -> bool {
        self.0 >> 16 & 15 == 6
    }

    /// Whether I/O completion queue entries have 16 bytes.
    pub fn has_cqe_size(self) -> bool {
        self.0 >> 20 & 15 == 4
    }
}

/// Controller Status.
pub mod csts {
    pub const READY: u32 = 1 << 0;
    /// Controller fatal status.
    pub const FATAL: u32 = 1 << 1;
    /// Shutdown status.
    pub const SHUTDOWN: u32 = 3 << 2;
    /// Shutdown processing complete.
    pub const SHUTDOWN_COMPLETE: u32 = 2 << 2;
}

/// The bits of a register at `base` that a read or write of four bytes at `offset` is about.
pub fn half(value: u64, base: u64, offset: u64) -> u32 {
    (value >> (8 * (offset - base))) as u32
}

/// Replaces them.
pub fn set_half(register: &mut u64, base: u64, offset: u64, value: u32) {
    let shift = 8 * (offset - base);
    *register = *register & !(0xffff_ffff << shift) | u64::from(value) << shift;
}
