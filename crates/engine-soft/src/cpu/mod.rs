//! The state of one interpreted processor.

mod debug;
mod descriptor;
mod device;
mod fault;
mod flags;
mod interrupt;
mod memory;
mod segmentation;
mod stack;
mod state;
mod system;
mod task;
mod tlb;
mod translation;

pub(crate) use descriptor::{Loaded, NewStack, is_null};
pub(crate) use fault::{Fault, R, Software, Stop};
pub use flags::Flags;
pub(crate) use memory::{Kind, Place};
pub(crate) use tlb::perm;

use crate::decode::Op;
use crate::lockstep::Deck;
use crate::translate::Direct;
use donjon_engine::{Attention, Clock, CpuIo, LocalApic};
use donjon_memory::{Ram, Word};
use donjon_x86::bits::{cr0, cr4, rflags};
use donjon_x86::cpuid::CpuModel;
use donjon_x86::{
    Activity, CpuState, DescriptorTable, Fpu, Msrs, PendingEvent, Seg, Segment, Xmm, exception,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use tlb::Tlb;

/// What the processor is connected to.
pub(crate) struct Board {
    pub ram: Arc<Ram>,
    pub io: Arc<dyn CpuIo>,
    pub apic: Arc<dyn LocalApic>,
    pub attention: Arc<Attention>,
    pub clock: Arc<Clock>,
    pub model: Arc<CpuModel>,
    /// This vCPU's APIC ID.
    pub apic_id: u32,
    /// vCPUs of the domain.
    pub vcpus: u32,
    /// Where the time and random numbers come from, if not from the host.
    pub deck: Option<Deck>,
}

impl Board {
    /// Nanoseconds since power-on.
    pub fn nanoseconds(&self) -> u64 {
        let now = || self.clock.nanoseconds();
        self.deck.as_ref().map_or_else(now, |deck| deck.time(now))
    }

    /// The time-stamp counter before adjustment.
    pub fn tsc(&self) -> u64 {
        self.clock.tsc_at(self.nanoseconds())
    }

    /// A random number; `None` if there is none at the moment.
    pub fn random(&self) -> Option<u64> {
        let draw = || {
            let mut bytes = [0; 8];
            let full = getrandom(&mut bytes, GetRandomFlags::NONBLOCK) == Ok(bytes.len());
            full.then(|| u64::from_le_bytes(bytes))
        };
        self.deck.as_ref().map_or_else(draw, |deck| deck.random(draw))
    }
}

/// Width of the code being executed: CS.L, CS.D and the mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum CodeSize {
    Bits16 = 0,
    Bits32 = 1,
    Bits64 = 2,
}

impl CodeSize {
    pub fn bits(self) -> u32 {
        16 << self as u32
    }
}

/// One processor.
pub(crate) struct Cpu {
    /// General registers, [`Op::ZERO`] and [`Op::RIP`].
    pub regs: [u64; 32],
    /// Where execution goes on after the current instruction.
    pub next_rip: u64,
    /// Status flags.
    pub flags: Flags,
    /// RFLAGS without the status flags.
    pub rflags: u64,
    /// Segment registers.
    pub seg: [Segment; 6],
    /// Bases that address generation adds: in 64-bit mode zero for all but FS and GS.
    pub seg_base: [u64; 8],
    pub cpl: u8,
    pub code: CodeSize,
    /// The bits of RSP that stack accesses use.
    pub stack_mask: u64,
    tlb: Tlb,
    /// The TLB permission bit that loads, stores and fetches need in the present mode; zero sends every
    /// access down the slow path.
    need_read: u8,
    need_write: u8,
    need_fetch: u8,
    /// Page tables walked.
    pub walks: u64,
    /// What translated code reaches by itself.
    pub direct: Direct,
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub xcr0: u64,
    pub msrs: Msrs,
    pub pdpte: [u64; 4],
    pub fpu: Fpu,
    pub mxcsr: u32,
    pub ymm: [Xmm; 16],
    pub activity: Activity,
    /// Interrupts and debug traps wait for one more instruction.
    pub shadow: bool,
    pub nmi_blocked: bool,
    pub pending: Option<PendingEvent>,
    /// The fault behind [`Stop::Fault`].
    pub fault: Fault,
    /// DR6 bits of data breakpoints that the current instruction met.
    pub debug_hits: u64,
    /// The current instruction loaded SS: no single-step trap behind it.
    pub skip_step: bool,
    /// Instructions retired.
    pub instructions: u64,
    pub board: Board,
}

impl Cpu {
    pub fn new(board: Board) -> Self {
        let mut cpu = Self {
            regs: [0; 32],
            next_rip: 0,
            flags: Flags::default(),
            rflags: rflags::ONE,
            seg: [Segment::default(); 6],
            seg_base: [0; 8],
            cpl: 0,
            code: CodeSize::Bits16,
            stack_mask: 0xffff,
            tlb: Tlb::new(),
            need_read: 0,
            need_write: 0,
            need_fetch: 0,
            walks: 0,
            direct: Direct::default(),
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            xcr0: 1,
            msrs: Msrs::default(),
            pdpte: [0; 4],
            fpu: Fpu::default(),
            mxcsr: 0x1f80,
            ymm: [[0; 4]; 16],
            activity: Activity::Active,
            shadow: false,
            nmi_blocked: false,
            pending: None,
            fault: Fault::default(),
            debug_hits: 0,
            skip_step: false,
            instructions: 0,
            board,
        };
        cpu.load(&CpuState::reset()).expect("the reset state is valid");
        cpu
    }

    /// The instruction pointer.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[Op::RIP as usize]
    }

    /// Sets the instruction pointer.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[Op::RIP as usize] = rip;
    }

    /// A whole general register.
    #[inline(always)]
    pub fn reg(&self, n: u8) -> u64 {
        self.regs[(n & 31) as usize]
    }

    /// Sets a whole general register.
    #[inline(always)]
    pub fn set_reg(&mut self, n: u8, v: u64) {
        self.regs[(n & 31) as usize] = v;
    }

    /// Reads a general register of size `T`.
    #[inline(always)]
    pub fn get<T: Word>(&self, n: u8) -> T {
        if T::SIZE == 1 && n >= Op::HIGH_BYTE {
            return T::from_u64(self.regs[((n - Op::HIGH_BYTE) & 3) as usize] >> 8);
        }
        T::from_u64(self.regs[(n & 31) as usize])
    }

    /// Writes a general register of size `T`: 32-bit writes clear the upper half, smaller ones keep the
    /// rest (Intel SDM vol. 1 §3.4.1.1).
    #[inline(always)]
    pub fn set<T: Word>(&mut self, n: u8, v: T) {
        let v = v.to_u64();
        if T::SIZE == 1 && n >= Op::HIGH_BYTE {
            let r = &mut self.regs[((n - Op::HIGH_BYTE) & 3) as usize];
            *r = *r & !0xff00 | v << 8;
            return;
        }
        let r = &mut self.regs[(n & 31) as usize];
        *r = match T::SIZE {
            1 => *r & !0xff | v,
            2 => *r & !0xffff | v,
            _ => v,
        };
    }

    /// Effective address of an op's memory operand, within its address size.
    #[inline(always)]
    pub fn ea(&self, op: &Op) -> u64 {
        let sum = self
            .reg(op.base)
            .wrapping_add(self.reg(op.index) << (op.scale & 3))
            .wrapping_add(op.disp);
        match op.address_size {
            2 => sum,
            1 => sum as u32 as u64,
            _ => sum as u16 as u64,
        }
    }

    /// Address `by` bytes into an op's memory operand, within its address size.
    pub fn ea_plus(&self, op: &Op, by: u64) -> u64 {
        self.ea(op).wrapping_add(by) & crate::insn::moves::address_mask(op.address_size)
    }

    /// All of RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.rflags | self.flags.bits()
    }

    /// Sets all of RFLAGS; undefined bits are dropped.
    pub fn set_rflags(&mut self, v: u64) {
        const DEFINED: u64 = rflags::STATUS
            | rflags::TF
            | rflags::IF
            | rflags::DF
            | rflags::IOPL
            | rflags::NT
            | rflags::RF
            | rflags::VM
            | rflags::AC
            | rflags::VIF
            | rflags::VIP
            | rflags::ID;
        self.flags = Flags::from_bits(v);
        self.rflags = v & DEFINED & !rflags::STATUS | rflags::ONE;
        self.access_mode_changed();
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        (self.rflags >> 12) as u8 & 3
    }

    /// CR0.PE set.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// IA-32e mode: EFER.LMA.
    pub fn long_mode(&self) -> bool {
        self.msrs.efer & donjon_x86::bits::efer::LMA != 0
    }

    /// 64-bit code.
    #[inline(always)]
    pub fn is64(&self) -> bool {
        self.code == CodeSize::Bits64
    }

    /// Checks that an SSE instruction (legacy encoding) may run: #UD or #NM otherwise
    /// (Intel SDM vol. 3A table 14-1).
    #[inline(always)]
    pub fn sse(&mut self) -> R {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 && self.cr4 & cr4::OSFXSR != 0 {
            return Ok(());
        }
        Err(self.sse_unavailable())
    }

    #[cold]
    fn sse_unavailable(&mut self) -> Stop {
        if self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0 {
            return self.raise(exception::UD);
        }
        self.raise(exception::NM)
    }

    /// Checks that a VEX-encoded vector instruction may run: not in real-address or virtual-8086 mode
    /// (Intel SDM vol. 2A §2.3.1).
    #[inline(always)]
    pub fn avx(&mut self) -> R {
        let real = !self.is64() && (!self.protected() || self.rflags & rflags::VM != 0);
        if self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & 6 != 6 || real {
            return Err(self.raise(exception::UD));
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(exception::NM));
        }
        Ok(())
    }

    /// Checks that an MMX instruction may run: #UD, #NM, or a pending x87 exception.
    pub fn mmx(&mut self) -> R {
        if self.cr0 & cr0::EM != 0 {
            return Err(self.raise(exception::UD));
        }
        self.x87()
    }

    /// Checks that a waiting x87 instruction may run: #NM, or a pending x87 exception.
    pub fn x87(&mut self) -> R {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(exception::NM));
        }
        if self.fpu.status & 0x80 != 0 {
            // With CR0.NE clear the exception goes out on FERR# instead; boards without the DOS-era
            // wiring never see it, so it is delivered as #MF as well.
            return Err(self.raise(exception::MF));
        }
        Ok(())
    }

    /// Delivers SIMD floating-point exceptions: records `flags` in MXCSR and, if one is unmasked, #XM
    /// (#UD without CR4.OSXMMEXCPT) before the destination is written.
    #[inline]
    pub fn simd_exceptions(&mut self, flags: u32) -> R {
        self.mxcsr |= flags & 0x3f;
        if flags & 0x3f & !(self.mxcsr >> 7) == 0 {
            return Ok(());
        }
        let vector = if self.cr4 & cr4::OSXMMEXCPT != 0 {
            exception::XM
        } else {
            exception::UD
        };
        Err(self.raise(vector))
    }

    /// Recomputes what depends on CS, SS, CR0 and EFER.
    pub fn mode_changed(&mut self) {
        let cs = &self.seg[Seg::Cs as usize];
        self.code = if self.long_mode() && cs.attributes.long() {
            CodeSize::Bits64
        } else if cs.attributes.big() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let ss = &self.seg[Seg::Ss as usize];
        self.stack_mask = if self.is64() {
            u64::MAX
        } else if ss.attributes.big() {
            0xffff_ffff
        } else {
            0xffff
        };
        for n in 0..6 {
            let flat = self.is64() && n < Seg::Fs as usize;
            self.seg_base[n] = if flat { 0 } else { self.seg[n].base };
        }
        self.access_mode_changed();
    }

    /// Changes a segment register's hidden and visible part.
    pub fn set_segment(&mut self, n: Seg, s: Segment) {
        self.seg[n as usize] = s;
        match n {
            Seg::Cs | Seg::Ss => self.mode_changed(),
            _ => {
                let flat = self.is64() && (n as usize) < Seg::Fs as usize;
                self.seg_base[n as usize] = if flat { 0 } else { s.base };
            }
        }
    }

    /// Changes the privilege level.
    pub fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
        self.access_mode_changed();
    }
}
