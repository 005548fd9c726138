//! What translated code keeps in memory: RSP points here while it runs.
//!
//! The layout is known to the code that is emitted ([`offset`]), so its parts are addressed as RSP plus a
//! constant; the small ones come first to be in reach of an 8-bit displacement.

use std::mem::offset_of;

/// Entries of each translation table.
pub const TLB_ENTRIES: usize = 1024;
/// Slots for jumps from one page to another.
pub const LINKS: usize = 1 << 17;
/// Entries of each cache of indirect jump targets.
pub const TARGETS: usize = 1 << 14;

/// The privilege that code runs with, which decides what its accesses may reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    User = 0,
    Supervisor = 1,
    /// With RFLAGS.AC set: SMAP does not apply.
    SupervisorAc = 2,
}

impl Mode {
    /// The mode in the low bits of a key.
    pub fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::User,
            1 => Self::Supervisor,
            _ => Self::SupervisorAc,
        }
    }
}

/// A page that translated code may access directly.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Page {
    /// Its linear address; in an unused entry that of a page that belongs in another one.
    pub linear: u64,
    /// Its host address.
    pub host: u64,
}

/// Where a linear address continues in the arena.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Target {
    pub linear: u64,
    pub code: u64,
}

#[repr(C)]
pub struct Tlb {
    pub read: [Page; TLB_ENTRIES],
    pub write: [Page; TLB_ENTRIES],
}

/// Kinds of state that are in host registers only when some code asks for them: bits of [`Frame::live`].
pub mod live {
    /// XMM registers and MXCSR, and the legacy instructions on them are allowed.
    pub const SSE: u8 = 1;
    /// The upper halves as well, and VEX-encoded instructions are allowed.
    pub const AVX: u8 = 2;
    /// The x87 state, all its exceptions masked.
    pub const X87: u8 = 4;
    /// Either kind of vector registers.
    pub const VECTORS: u8 = SSE | AVX;
}

#[repr(C, align(64))]
pub struct Frame {
    /// Guest R13 to R15, which have no host register.
    pub spilled: [u64; 3],
    /// Status flags while they are not in RFLAGS: OF in bit 0, and in bits 8-15 what LAHF gives.
    pub flags: u32,
    /// What is in host registers: bits of [`live`].
    pub live: u32,
    /// Linear address of the page that the running code comes from.
    pub page: u64,
    /// The attention word.
    pub attention: u64,
    /// The attention bits that concern the vCPU at present.
    pub interest: u32,
    /// Which exit was taken.
    pub exit: u32,
    /// RFLAGS without the status flags.
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub kernel_gs_base: u64,
    pub scratch: u64,
    /// Guest instructions run, if they are counted.
    pub instructions: u64,
    /// Pages looked up in the tables, where that is counted.
    pub lookups: u64,
    /// Linear address that an indirect jump went to.
    pub target: u64,
    /// What [`Frame::live`] may become.
    pub allowed: u32,
    pub mxcsr: u32,
    pub host_mxcsr: u32,
    /// The x87 state has been stored to [`Frame::x87`].
    pub x87_saved: u32,
    /// Host addresses: the guest's general registers, its vector registers, the host's stack, the functions
    /// that fill and step, and their argument.
    pub regs: u64,
    pub ymm: u64,
    pub host_rsp: u64,
    pub fill: u64,
    pub step: u64,
    pub fill_with: u64,
    /// FNSAVE image.
    pub x87: [u8; 112],
    pub tlb: [Tlb; 3],
    pub targets: [[Target; TARGETS]; 3],
    /// For each link the page it was made from, ones if none.
    pub links: [u64; LINKS],
}

/// Offsets of the fields.
pub mod offset {
    use super::*;
    pub const SPILLED: i32 = offset_of!(Frame, spilled) as i32;
    pub const FLAGS: i32 = offset_of!(Frame, flags) as i32;
    pub const LIVE: i32 = offset_of!(Frame, live) as i32;
    pub const PAGE: i32 = offset_of!(Frame, page) as i32;
    pub const ATTENTION: i32 = offset_of!(Frame, attention) as i32;
    pub const INTEREST: i32 = offset_of!(Frame, interest) as i32;
    pub const EXIT: i32 = offset_of!(Frame, exit) as i32;
    pub const RFLAGS: i32 = offset_of!(Frame, rflags) as i32;
    pub const FS_BASE: i32 = offset_of!(Frame, fs_base) as i32;
    pub const GS_BASE: i32 = offset_of!(Frame, gs_base) as i32;
    pub const KERNEL_GS_BASE: i32 = offset_of!(Frame, kernel_gs_base) as i32;
    pub const SCRATCH: i32 = offset_of!(Frame, scratch) as i32;
    pub const INSTRUCTIONS: i32 = offset_of!(Frame, instructions) as i32;
    pub const LOOKUPS: i32 = offset_of!(Frame, lookups) as i32;
    pub const TARGET: i32 = offset_of!(Frame, target) as i32;
    pub const ALLOWED: i32 = offset_of!(Frame, allowed) as i32;
    pub const MXCSR: i32 = offset_of!(Frame, mxcsr) as i32;
    pub const HOST_MXCSR: i32 = offset_of!(Frame, host_mxcsr) as i32;
    pub const REGS: i32 = offset_of!(Frame, regs) as i32;
    pub const YMM: i32 = offset_of!(Frame, ymm) as i32;
    pub const HOST_RSP: i32 = offset_of!(Frame, host_rsp) as i32;
    pub const FILL: i32 = offset_of!(Frame, fill) as i32;
    pub const STEP: i32 = offset_of!(Frame, step) as i32;
    pub const X87: i32 = offset_of!(Frame, x87) as i32;
    pub const X87_SAVED: i32 = offset_of!(Frame, x87_saved) as i32;

    /// A mode's translation table for loads or stores.
    pub const fn tlb(mode: Mode, write: bool) -> i32 {
        (offset_of!(Frame, tlb)
            + mode as usize * size_of::<Tlb>()
            + if write { offset_of!(Tlb, write) } else { 0 }) as i32
    }

    /// A mode's cache of indirect jump targets.
    pub const fn targets(mode: Mode) -> i32 {
        (offset_of!(Frame, targets) + mode as usize * size_of::<[Target; TARGETS]>()) as i32
    }

    /// A link's slot.
    pub const fn link(n: usize) -> i32 {
        (offset_of!(Frame, links) + n * 8) as i32
    }
}

/// The entry of a page that is unused: a linear address whose own entry is another.
pub fn unused(n: usize) -> Page {
    Page {
        linear: ((n ^ 1) << 12) as u64,
        host: 0,
    }
}

/// The entry of a jump target that is unused: a linear address that belongs in another one.
pub fn no_target(n: usize) -> Target {
    Target {
        // The pages of such small numbers fold into bits 0 and 1 only, so bit 2 keeps it in another entry.
        linear: (n ^ 4) as u64,
        code: 0,
    }
}

/// Where the target cache keeps a linear address.
pub fn target_slot(linear: u64) -> usize {
    (linear ^ linear >> 12) as usize % TARGETS
}

impl Frame {
    /// Empties every table.
    pub fn reset_tables(&mut self) {
        for t in &mut self.tlb {
            for n in 0..TLB_ENTRIES {
                t.read[n] = unused(n);
                t.write[n] = unused(n);
            }
        }
        for t in &mut self.targets {
            for (n, e) in t.iter_mut().enumerate() {
                *e = no_target(n);
            }
        }
        self.links.fill(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_belongs_in_an_entry_that_is_unused() {
        for n in 0..TARGETS {
            assert_ne!(target_slot(no_target(n).linear), n, "{n:#x}");
        }
        for n in 0..TLB_ENTRIES {
            assert_ne!((unused(n).linear >> 12) as usize % TLB_ENTRIES, n, "{n:#x}");
        }
    }
}
