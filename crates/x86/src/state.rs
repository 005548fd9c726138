//! Everything one logical processor remembers, as plain data, the same for every engine.

use crate::bits::{cr0, rflags};
use crate::msr;

/// General-purpose register numbers, in encoding order.
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// Segment register numbers, in encoding order.
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// The attribute bits of a descriptor, as bits 8-23 of its high doubleword shifted down by 8
/// (Intel SDM vol. 3A §3.4.5): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15.
/// Bit 16 says the register holds a null selector ("unusable").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct SegmentAttributes(pub u32);

impl SegmentAttributes {
    /// Set when the register was loaded with a null selector.
    pub const UNUSABLE: u32 = 1 << 16;
    /// A present, accessed read/write data segment of privilege level 0.
    pub const DATA: Self = Self(0x93);
    /// A present, accessed, readable code segment of privilege level 0.
    pub const CODE: Self = Self(0x9b);

    /// The type field.
    pub const fn kind(self) -> u8 {
        self.0 as u8 & 15
    }
    /// Code or data, not system.
    pub const fn is_code_or_data(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// A code segment.
    pub const fn is_code(self) -> bool {
        self.0 & 0x18 == 0x18
    }
    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        (self.0 >> 5) as u8 & 3
    }
    /// Present.
    pub const fn present(self) -> bool {
        self.0 & 0x80 != 0
    }
    /// 64-bit code segment.
    pub const fn long(self) -> bool {
        self.0 & 1 << 13 != 0
    }
    /// D/B: default operand size, or stack-pointer size, or upper bound.
    pub const fn big(self) -> bool {
        self.0 & 1 << 14 != 0
    }
    /// Limit counts 4 KiB units.
    pub const fn granular(self) -> bool {
        self.0 & 1 << 15 != 0
    }
    /// Loaded with a null selector.
    pub const fn unusable(self) -> bool {
        self.0 & Self::UNUSABLE != 0
    }
    /// Data segment, or readable code segment.
    pub const fn readable(self) -> bool {
        self.is_code_or_data() && (!self.is_code() || self.0 & 2 != 0)
    }
    /// Writable data segment.
    pub const fn writable(self) -> bool {
        self.0 & 0x1a == 0x12
    }
    /// Conforming code segment.
    pub const fn conforming(self) -> bool {
        self.0 & 0x1c == 0x1c
    }
    /// Expand-down data segment.
    pub const fn expand_down(self) -> bool {
        self.0 & 0x1c == 0x14
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (already scaled by G).
    pub limit: u32,
    /// Descriptor attributes.
    pub attributes: SegmentAttributes,
}

impl Segment {
    /// A register loaded with a null selector. `attributes` are the bits that still mean something: the DPL of
    /// a null SS, the type of a null LDTR.
    pub const fn null(selector: u16, attributes: u32) -> Self {
        Self {
            selector,
            base: 0,
            limit: 0,
            attributes: SegmentAttributes(SegmentAttributes::UNUSABLE | attributes),
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// A 256-bit vector register as four quadwords, the low one first; XMM is the low half.
pub type Xmm = [u64; 4];

/// x87 state, in physical register order (`st[0]` is R0, not ST(0)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fpu {
    /// Control word.
    pub control: u16,
    /// Status word, TOP in bits 11-13.
    pub status: u16,
    /// Full tag word, two bits a register, 3 = empty.
    pub tag: u16,
    /// Last non-control opcode, 11 bits.
    pub opcode: u16,
    /// Address of the last non-control instruction.
    pub instruction: u64,
    /// Its code selector.
    pub instruction_selector: u16,
    /// Address of its memory operand.
    pub data: u64,
    /// Its data selector.
    pub data_selector: u16,
    /// Significands of R0-R7.
    pub significand: [u64; 8],
    /// Signs and exponents of R0-R7.
    pub sign_exponent: [u16; 8],
}

impl Default for Fpu {
    /// The state FNINIT leaves (Intel SDM vol. 1 §8.1.5).
    fn default() -> Self {
        Self {
            control: 0x37f,
            status: 0,
            tag: 0xffff,
            opcode: 0,
            instruction: 0,
            instruction_selector: 0,
            data: 0,
            data_selector: 0,
            significand: [0; 8],
            sign_exponent: [0; 8],
        }
    }
}

/// The MSRs an engine keeps; the local APIC keeps its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    pub tsc_adjust: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub xss: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    /// Base and mask of each variable range.
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
    pub kvm_system_time: u64,
    pub kvm_wall_clock: u64,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            pat: msr::PAT_RESET,
            // Fast strings.
            misc_enable: 1,
            spec_ctrl: 0,
            xss: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            mcg_status: 0,
            kvm_system_time: 0,
            kvm_wall_clock: 0,
        }
    }
}

/// What a logical processor is doing between instructions (Intel SDM vol. 3C §25.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activity {
    /// Executing.
    #[default]
    Active,
    /// HLT executed; an interrupt resumes it.
    Halted,
    /// An application processor that waits for a start-up IPI.
    WaitForSipi,
    /// Triple fault; only INIT or a reset helps.
    Shutdown,
}

/// An event whose delivery was interrupted and must be tried again on resume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingEvent {
    /// Vector.
    pub vector: u8,
    /// Error code to push.
    pub error_code: Option<u32>,
}

/// One logical processor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuState {
    /// RAX … R15 in encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES CS SS DS FS GS.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Paging root and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Task priority, bits 4-7 of the local APIC's TPR.
    pub cr8: u64,
    /// DR0-DR3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Enabled XSAVE components.
    pub xcr0: u64,
    /// x87.
    pub fpu: Fpu,
    /// SSE control and status.
    pub mxcsr: u32,
    /// YMM0-YMM15.
    pub ymm: [Xmm; 16],
    /// Model-specific registers.
    pub msrs: Msrs,
    /// The page-directory-pointer registers of PAE paging (Intel SDM vol. 3A §4.4.1).
    pub pdpte: [u64; 4],
    /// What it is doing.
    pub activity: Activity,
    /// Interrupts are held off for one instruction (after STI or a load of SS).
    pub interrupt_shadow: bool,
    /// An NMI is being handled; no other before IRET.
    pub nmi_blocked: bool,
    /// An event to deliver first.
    pub pending: Option<PendingEvent>,
}

impl Default for CpuState {
    fn default() -> Self {
        Self::reset()
    }
}

impl CpuState {
    /// The state after power-up or RESET (Intel SDM vol. 3A table 9-1): real mode at F000:FFF0.
    pub fn reset() -> Self {
        let data = Segment {
            limit: 0xffff,
            attributes: SegmentAttributes::DATA,
            ..Segment::default()
        };
        let code = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            attributes: SegmentAttributes::CODE,
        };
        let system = |kind| Segment {
            limit: 0xffff,
            attributes: SegmentAttributes(kind),
            ..Segment::default()
        };
        let mut gpr = [0; 16];
        gpr[Gpr::Rdx as usize] = 0x600;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: rflags::ONE,
            segments: [data, code, data, data, data, data],
            ldtr: system(0x82),
            tr: system(0x8b),
            gdtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            xcr0: 1,
            fpu: Fpu {
                control: 0x40,
                tag: 0x5555,
                ..Fpu::default()
            },
            mxcsr: 0x1f80,
            ymm: [[0; 4]; 16],
            msrs: Msrs::default(),
            pdpte: [0; 4],
            activity: Activity::Active,
            interrupt_shadow: false,
            nmi_blocked: false,
            pending: None,
        }
    }

    /// The state in which an application processor waits for its start-up IPI.
    pub fn wait_for_sipi() -> Self {
        Self {
            activity: Activity::WaitForSipi,
            ..Self::reset()
        }
    }

    /// What INIT does (Intel SDM vol. 3A table 9-1): as RESET, but x87, vector registers, most MSRs and
    /// the time-stamp counter keep their values, and CR0.CD/NW theirs.
    pub fn init(&mut self) {
        let keep = self.cr0 & (cr0::CD | cr0::NW);
        let msrs = Msrs { efer: 0, ..self.msrs };
        *self = Self {
            fpu: self.fpu,
            mxcsr: self.mxcsr,
            ymm: self.ymm,
            xcr0: self.xcr0,
            msrs,
            cr0: keep | cr0::ET,
            ..Self::reset()
        };
    }
}
