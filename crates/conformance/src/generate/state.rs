//! The random part of the registers.

use super::Builder;
use crate::case::Mode;
use crate::layout::*;
use crate::regs::full_tag;
use crate::values::{self, Flavor};
use donjon_x86::bits::rflags::*;
use iced_x86::{CpuidFeature, EncodingKind, MemorySize, Mnemonic, OpCodeOperandKind as Kind};

impl Builder {
    /// Fills in every register. Operands, addresses and special cases overwrite some of them later.
    pub(super) fn state(&mut self) {
        self.start = self.code_address();
        for r in 0..16 {
            self.regs.gpr[r] = self.general();
        }
        let align = if self.rng.chance(1, 8) { 1 } else { 8 };
        self.regs.gpr[4] = (SCRATCH + 0x400 + self.rng.below(SCRATCH_SIZE - 0x800)) / align * align;
        self.regs.rflags = self.flags();
        self.segments();
        if self.mode != Mode::Long {
            self.regs.gpr[..8].iter_mut().for_each(|r| *r &= 0xffff_ffff);
            self.regs.gpr[8..].fill(0);
        }
        self.flavor = self.pick_flavor();
        let vector = self.uses_vectors();
        for y in 0..16 {
            let flavor = if self.rng.chance(1, 8) {
                Flavor::any(&mut self.rng)
            } else {
                self.flavor
            };
            for q in 0..4 {
                self.regs.ymm[y][q] = if vector {
                    flavor.word(&mut self.rng)
                } else {
                    self.rng.draw()
                };
            }
        }
        self.regs.mxcsr = if vector { self.mxcsr() } else { 0x1f80 };
        self.x87();
    }

    /// Mostly well inside code memory; sometimes across its pages, or so near its end that the
    /// instruction is cut off.
    fn code_address(&mut self) -> u64 {
        let r = &mut self.rng;
        // How many bytes of UD1 are fetched before it faults is up to the vendor.
        let whole = self.code.mnemonic() == Mnemonic::Ud1;
        match r.below(64) {
            _ if whole => CODE + 0x300 + r.below(CODE_SIZE - 0x600),
            0..=1 => CODE + PAGE - 1 - r.below(15),
            2 => CODE + CODE_SIZE - 1 - r.below(20),
            _ => CODE + 0x300 + r.below(CODE_SIZE - 0x600),
        }
    }

    fn general(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => SCRATCH + self.rng.below(SCRATCH_SIZE),
            1 => values::integer(&mut self.rng, 32),
            2 => values::integer(&mut self.rng, 8) as i8 as u64,
            _ => values::integer(&mut self.rng, 64),
        }
    }

    fn flags(&mut self) -> u64 {
        let r = &mut self.rng;
        let mut f = ONE | IF | r.draw() & STATUS;
        for (bit, of) in [(DF, 6), (ID, 4), (AC, 48), (NT, 64), (TF, 96)] {
            if r.chance(1, of) {
                f |= bit;
            }
        }
        // Whether a misaligned access of more than 8 bytes raises #AC is up to the processor (Intel SDM
        // vol. 2, MOVUPS, LDDQU; vol. 3A table 6-7).
        if self.wide_memory() {
            f &= !AC;
        }
        // A gather may stop half-way for a trap that is pending.
        if self.op.op_kinds().iter().any(|&k| crate::encode::is_vsib(k)) {
            f &= !TF;
        }
        f
    }

    fn segments(&mut self) {
        use selector::*;
        let r = &mut self.rng;
        // ES, CS, SS, DS, FS, GS.
        self.regs.selectors = match self.mode {
            Mode::Long => [0, CODE64, DATA, 0, 0, 0],
            Mode::Compat32 => [
                DATA,
                CODE32,
                if r.chance(1, 8) { DATA16 } else { DATA },
                DATA,
                SHORT,
                DATA16,
            ],
            Mode::Compat16 => [
                DATA16,
                CODE16,
                if r.chance(1, 8) { DATA } else { DATA16 },
                DATA16,
                SHORT,
                DATA,
            ],
        };
        if self.mode == Mode::Long {
            let mut base = || match r.below(4) {
                0 => 0,
                1 => SCRATCH,
                _ => (r.draw() as i64 >> 17) as u64,
            };
            self.regs.fs_base = base();
            self.regs.gs_base = base();
        } else {
            self.regs.fs_base = super::address::base_of(self.regs.selectors[4]);
            self.regs.gs_base = super::address::base_of(self.regs.selectors[5]);
            if self.regs.selectors[2] == DATA16 {
                self.regs.gpr[4] = self.regs.gpr[4].wrapping_sub(WINDOW_BASE) & 0xffff;
                // IRET to a 16-bit stack leaves the upper half of ESP as it was, and the native worker enters
                // a case by IRETQ from its state block.
                self.regs.gpr[4] |= STATE & 0xffff_0000;
                self.pin(4);
            }
        }
    }

    fn wide_memory(&self) -> bool {
        self.op.memory_size().size() > 8
            || self.op.is_save_restore()
            || matches!(
                self.code.mnemonic(),
                Mnemonic::Enter | Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
            )
    }

    fn uses_vectors(&self) -> bool {
        let vector = |k: &Kind| {
            matches!(
                k,
                Kind::xmm_reg
                    | Kind::xmm_rm
                    | Kind::xmm_or_mem
                    | Kind::xmm_vvvv
                    | Kind::ymm_reg
                    | Kind::ymm_or_mem
            )
        };
        self.op.encoding() == EncodingKind::VEX
            || self.op.op_kinds().iter().any(vector)
            || self.op.is_save_restore()
    }

    fn pick_flavor(&mut self) -> Flavor {
        use MemorySize as M;
        let element = self.op.memory_size().element_type();
        let by_element = match element {
            M::Float16 => Some(Flavor::Half),
            M::Float32 => Some(Flavor::Single),
            M::Float64 => Some(Flavor::Double),
            M::UInt8 | M::Int8 => Some(Flavor::Integer(8)),
            M::UInt16 | M::Int16 => Some(Flavor::Integer(16)),
            M::UInt32 | M::Int32 => Some(Flavor::Integer(32)),
            _ => None,
        };
        match by_element {
            Some(f) if self.rng.chance(7, 8) => f,
            _ => Flavor::any(&mut self.rng),
        }
    }

    fn mxcsr(&mut self) -> u32 {
        let r = &mut self.rng;
        let mut m = (r.below(4) as u32) << 13;
        if r.chance(1, 4) {
            m |= 1 << 6;
        }
        if r.chance(1, 4) {
            m |= 1 << 15;
        }
        if r.chance(1, 2) {
            m |= r.draw() as u32 & 0x3f;
        }
        m | if r.chance(7, 8) {
            0x1f80
        } else {
            r.draw() as u32 & 0x1f80
        }
    }

    fn x87(&mut self) {
        let uses = self.code.cpuid_features().iter().any(|f| {
            use CpuidFeature::*;
            matches!(*f, FPU | FPU287 | FPU387 | MMX | FXSR | XSAVE | XSAVEC | XSAVEOPT)
        }) || self
            .op
            .op_kinds()
            .iter()
            .any(|k| matches!(k, Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem))
            || self.code == iced_x86::Code::Wait;
        if !uses {
            return;
        }
        let r = &mut self.rng;
        let f = &mut self.regs.fpu;
        let masks = if r.chance(7, 8) {
            0x3f
        } else {
            r.draw() as u16 & 0x3f
        };
        // Precision control 01 is reserved and left out.
        let precision = r.pick(&[0u16, 2, 3, 3]);
        f.control = 0x40 | masks | precision << 8 | (r.below(4) as u16) << 10;
        f.status = r.draw() as u16 & 0x7f00;
        if r.chance(1, 2) {
            f.status |= r.draw() as u16 & 0x7f;
        }
        if !r.chance(1, 8) {
            // No exception pending.
            f.status &= f.control | !0x3f;
        }
        if f.status & !f.control & 0x3f != 0 {
            f.status |= 0x8080;
        }
        for i in 0..8 {
            (f.significand[i], f.sign_exponent[i]) = values::extended(r);
        }
        let full = match r.below(8) {
            0 => r.draw() as u8,
            1 => 0,
            2 => 1 << (f.status >> 11 & 7),
            _ => 0xff,
        };
        f.tag = full_tag(full, &f.significand, &f.sign_exponent);
        f.opcode = r.draw() as u16 & 0x7ff;
        f.instruction = CODE + r.below(CODE_SIZE);
        f.data = SCRATCH + r.below(SCRATCH_SIZE);
    }
}
