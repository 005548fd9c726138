//! Configuration space registers: offsets and bits (PCI Local Bus 3.0 §6.1, PCI Express Base 5.0 §7.5).

/// Bytes that exist in a function's 4 KiB of configuration space. The rest, where PCI Express has extended
/// capabilities, reads as zero: there are none.
pub const SIZE: usize = 256;

pub const VENDOR: usize = 0x00;
pub const DEVICE: usize = 0x02;
pub const COMMAND: usize = 0x04;
pub const STATUS: usize = 0x06;
pub const REVISION: usize = 0x08;
pub const INTERFACE: usize = 0x09;
pub const CACHE_LINE: usize = 0x0c;
pub const HEADER_TYPE: usize = 0x0e;
pub const BAR: usize = 0x10;
pub const SUBSYSTEM_VENDOR: usize = 0x2c;
pub const SUBSYSTEM: usize = 0x2e;
pub const CAPABILITIES: usize = 0x34;
pub const INTERRUPT_LINE: usize = 0x3c;
pub const INTERRUPT_PIN: usize = 0x3d;
/// End of the header.
pub const HEADER_END: usize = 0x40;

/// Command register (PCI Local Bus 3.0 table 6-1).
pub mod command {
    pub const IO: u16 = 1 << 0;
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const PARITY: u16 = 1 << 6;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Status register (PCI Local Bus 3.0 table 6-2).
pub mod status {
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES: u16 = 1 << 4;
    /// Error bits, cleared by writing ones.
    pub const ERRORS: u16 = 1 << 8 | 0x1f << 11;
}

/// Header type: this device has several functions.
pub const MULTI_FUNCTION: u8 = 1 << 7;

/// Low bits of a BAR (PCI Local Bus 3.0 §6.2.5.1).
pub mod bar {
    pub const IO: u32 = 1;
    pub const MEMORY_64: u32 = 0b10 << 1;
    pub const PREFETCHABLE: u32 = 1 << 3;
}

/// Power management (PCI Express Base 5.0 §7.5.2).
pub mod power {
    pub const ID: u8 = 0x01;
    pub const LEN: usize = 8;
    /// PMC: version 3, no PME, no D1, no D2.
    pub const CAPABILITIES: u16 = 3;
    /// Offset of PMCSR.
    pub const CONTROL: usize = 4;
    pub const STATE: u16 = 3;
    pub const D0: u16 = 0;
    pub const D3_HOT: u16 = 3;
    pub const NO_SOFT_RESET: u16 = 1 << 3;
}

/// PCI Express (PCI Express Base 5.0 §7.5.3).
pub mod express {
    pub const ID: u8 = 0x10;
    /// Version 2 has all registers; those of a link, a slot and a root are zero for an integrated endpoint.
    pub const LEN: usize = 0x3c;
    /// Version 2, root complex integrated endpoint.
    pub const CAPABILITIES: u16 = 2 | 9 << 4;
    pub const DEVICE_CAPABILITIES: usize = 0x04;
    pub const ROLE_BASED_ERRORS: u32 = 1 << 15;
    pub const FUNCTION_RESET: u32 = 1 << 28;
    pub const DEVICE_CONTROL: usize = 0x08;
    /// Error reporting, relaxed ordering, no snoop, maximum read request size.
    pub const CONTROL_WRITABLE: u16 = 0x781f;
    /// Relaxed ordering and no snoop may be used; requests of 512 bytes.
    pub const CONTROL_INITIAL: u16 = 1 << 4 | 1 << 11 | 2 << 12;
    /// In the second byte of device control: reads as zero.
    pub const INITIATE_RESET: u8 = 1 << 7;
    pub const DEVICE_STATUS: usize = 0x0a;
    /// Detected errors, cleared by writing ones.
    pub const STATUS_ERRORS: u16 = 0xf;
}

/// MSI-X (PCI Local Bus 3.0 §6.8.2).
pub mod msix {
    pub const ID: u8 = 0x11;
    pub const LEN: usize = 12;
    pub const CONTROL: usize = 2;
    pub const ENABLE: u16 = 1 << 15;
    pub const FUNCTION_MASK: u16 = 1 << 14;
    pub const TABLE: usize = 4;
    pub const PENDING: usize = 8;
}
