//! What particular instructions need for their cases to be interesting.

use super::Builder;
use crate::case::Mode;
use crate::encode::{Bytes, Rm};
use crate::layout::*;
use crate::regs::Regs;
use crate::values::{self, Flavor};
use donjon_x86::bits::rflags;
use iced_x86::{Mnemonic, OpCodeOperandKind as Kind};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RBP: usize = 5;
const SS: usize = 2;

/// Selectors to load: usable ones twice, then code, null, a kernel's, and beyond the tables.
const SELECTORS: [u16; 20] = [
    selector::DATA,
    selector::DATA,
    selector::DATA16,
    selector::DATA16,
    selector::SHORT,
    selector::SHORT,
    selector::CODE32,
    selector::CODE64,
    selector::CODE16,
    0,
    1,
    3,
    0x28,
    0x29,
    0x10,
    0x18,
    0x1f,
    0x83,
    0xfff8,
    0x16,
];

impl Builder {
    /// Adjusts the case to its mnemonic.
    pub(super) fn special(&mut self) {
        use Mnemonic::*;
        let bytes = self.operand_bytes();
        if self.op.is_stack_instruction() && self.rng.chance(1, 5) {
            self.wild_stack(bytes);
        }
        match self.code.mnemonic() {
            Div | Idiv => self.dividend(bytes),
            Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => self.count(),
            Bt | Bts | Btr | Btc => self.bit_offset(),
            Cmpxchg => self.compare_exchange(bytes),
            Cmpxchg8b | Cmpxchg16b => self.compare_exchange_pair(),
            Movsb | Movsw | Movsd | Movsq | Lodsb | Lodsw | Lodsd | Lodsq | Stosb | Stosw | Stosd | Stosq
            | Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq | Insb | Insw | Insd | Outsb
            | Outsw | Outsd
                if self.op.can_use_rep_prefix() || self.op.can_use_repne_prefix() =>
            {
                self.string(bytes)
            }
            Enter | Leave => self.frame(),
            Ret => self.near_return(bytes),
            Retf => self.far_return(bytes),
            Iret | Iretd | Iretq => self.interrupt_return(bytes),
            Jmp | Call if matches!(self.op.op_kinds(), [Kind::mem]) => self.far_indirect(bytes),
            Jmp | Call => self.near_indirect(bytes),
            Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz => self.loop_count(),
            Popf | Popfd | Popfq => {
                let flags = self.random_flags();
                self.patch_stack(0, flags, bytes);
            }
            Mov if self.op.op_kinds().contains(&Kind::seg_reg) => self.selector_operand(),
            Lds | Les | Lfs | Lgs | Lss => {
                let s = self.selector() as u64;
                if let Some((address, _)) = self.memory {
                    self.patch_word(address.wrapping_add(bytes as u64), s, 2);
                }
            }
            Pop if matches!(
                self.op.op0_kind(),
                Kind::es | Kind::ss | Kind::ds | Kind::fs | Kind::gs
            ) =>
            {
                let s = self.selector() as u64 | self.rng.draw() << 16;
                self.patch_stack(0, s, 8);
            }
            Lar | Lsl | Verr | Verw => self.selector_operand(),
            Ldmxcsr | Vldmxcsr => self.memory_mxcsr(),
            Fldcw => self.memory_control(),
            Fldenv | Frstor => self.environment(),
            Fxrstor | Fxrstor64 | Xrstor | Xrstor64 => self.image(),
            Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 => self.save_area(),
            Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm | Vpcmpestri | Vpcmpestrm | Vpcmpistri
            | Vpcmpistrm => self.text(),
            Bextr | Bzhi => self.bit_field(),
            Int => {
                // 0x80 is the one vector the host's kernel opens to programs besides 3 and 4.
                let vector = loop {
                    let v = if self.rng.chance(1, 4) {
                        self.rng.below(5)
                    } else {
                        self.rng.below(256)
                    };
                    if v != 0x80 {
                        break v as u8;
                    }
                };
                self.immediate_byte(vector);
            }
            Aam | Aad => {
                let v = self.rng.pick(&[10, 10, 0, 1, 16, 255]);
                self.immediate_byte(v);
            }
            Bound => self.bounds(bytes),
            Wrfsbase | Wrgsbase => self.base_value(),
            Xgetbv => self.regs.gpr[RCX] = self.rng.pick(&[0, 0, 1, 2, 1 << 32, 7]),
            F2xm1 | Fptan | Fsin | Fcos | Fsincos | Fpatan | Fyl2x | Fyl2xp1 | Fscale | Fprem | Fprem1 => {
                self.moderate_x87()
            }
            _ => {}
        }
    }

    /// Bytes of the operand size.
    fn operand_bytes(&self) -> usize {
        let size = match self.op.operand_size() {
            0 => self.op.memory_size().size() as u32 * 8,
            n => n,
        };
        (size as usize / 8).max(1)
    }

    fn immediate_byte(&mut self, value: u8) {
        self.choice.immediate = Bytes::default();
        self.choice.immediate.push(value);
    }

    /// The linear address of the top of the stack.
    fn stack(&self) -> u64 {
        let rsp = self.regs.gpr[RSP];
        match (self.mode, self.regs.selectors[SS]) {
            (Mode::Long, _) => rsp,
            (_, selector::DATA16) => selector::WINDOW_BASE + (rsp & 0xffff),
            _ => rsp & 0xffff_ffff,
        }
    }

    fn patch_stack(&mut self, offset: u64, value: u64, bytes: usize) {
        let at = self.stack().wrapping_add(offset);
        self.patch_word(at, value, bytes);
    }

    /// A stack pointer at or over an edge.
    fn wild_stack(&mut self, bytes: usize) {
        let narrow = self.mode != Mode::Long && self.regs.selectors[SS] == selector::DATA16;
        if self.pinned(RSP as u8) && !narrow {
            return;
        }
        let linear = self.place(bytes * 2);
        self.regs.gpr[RSP] = match (self.mode, self.regs.selectors[SS]) {
            (Mode::Long, _) => linear,
            (_, selector::DATA16) => {
                linear.wrapping_sub(selector::WINDOW_BASE) & 0xffff | STATE & 0xffff_0000
            }
            _ => linear & 0xffff_ffff,
        };
    }

    /// Quotients that fit.
    fn dividend(&mut self, bytes: usize) {
        if self.rng.chance(1, 4) {
            return;
        }
        let negative = self.regs.gpr[RAX] >> (bytes * 8 - 1) & 1 != 0;
        let high = match self.rng.below(4) {
            0 => self.rng.below(8),
            1 => 0,
            _ if negative && self.code.mnemonic() == Mnemonic::Idiv => u64::MAX,
            _ => 0,
        };
        if bytes == 1 && self.pinned(RAX as u8) {
            return;
        }
        if bytes == 1 {
            let r = &mut self.regs.gpr[RAX];
            *r = *r & !0xff00 | (high & 0xff) << 8;
        } else if !self.pinned(RDX as u8) {
            self.regs.gpr[RDX] = if self.mode == Mode::Long {
                high
            } else {
                high & 0xffff_ffff
            };
        }
    }

    /// Small shift counts, and those around operand sizes.
    fn count(&mut self) {
        let count = match self.rng.below(6) {
            0 => self
                .rng
                .pick(&[0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]),
            1 => 1,
            2..=4 => self.rng.below(70) as u8,
            _ => return,
        };
        if self.op.op_kinds().contains(&Kind::cl) {
            if !self.pinned(RCX as u8) {
                let r = &mut self.regs.gpr[RCX];
                *r = *r & !0xff | count as u64;
            }
        } else if self.op.op_kinds().contains(&Kind::imm8) {
            self.immediate_byte(count);
        }
    }

    /// Bit strings in memory reach far; keep most within the scratch area.
    fn bit_offset(&mut self) {
        let register = self.choice.reg;
        let string = matches!(self.op.op1_kind(), Kind::r16_reg | Kind::r32_reg | Kind::r64_reg);
        if string && !self.pinned(register) && self.rng.chance(3, 4) {
            let v = self.rng.range(-600, 600) as u64;
            self.regs.gpr[register as usize] = if self.mode == Mode::Long {
                v
            } else {
                v & 0xffff_ffff
            };
        }
    }

    /// Half of the comparisons succeed.
    fn compare_exchange(&mut self, bytes: usize) {
        if self.rng.chance(1, 2) {
            return;
        }
        let rax = self.regs.gpr[RAX];
        match (self.choice.rm, self.memory) {
            (Rm::Memory(_), Some((address, _))) => self.patch_word(address, rax, bytes),
            (Rm::Register(r), _) if !self.pinned(r) && !(4..8).contains(&r) => {
                self.regs.gpr[r as usize] = rax;
            }
            _ => {}
        }
    }

    fn compare_exchange_pair(&mut self) {
        let Some((address, size)) = self.memory else {
            return;
        };
        if self.rng.chance(1, 2) {
            let half = size / 2;
            let (low, high) = (self.regs.gpr[RAX], self.regs.gpr[RDX]);
            self.patch_word(address, low, half);
            self.patch_word(address.wrapping_add(half as u64), high, half);
        }
    }

    /// Repeat prefixes, bounded counts, overlapping copies, runs of equal elements.
    fn string(&mut self, bytes: usize) {
        let compares = self.op.can_use_repne_prefix() && !self.op.is_input_output();
        if self.rng.chance(3, 5) {
            let repne = self.rng.chance(1, 2);
            self.prefixes.push(if compares && repne { 0xf2 } else { 0xf3 });
            if !self.rng.chance(1, 10) {
                let count = if self.rng.chance(1, 6) {
                    0
                } else {
                    self.rng.below(40)
                };
                let rest = self.regs.gpr[RCX] & !self.address_mask();
                self.regs.gpr[RCX] = rest | count;
            }
        }
        let (si, di) = (6, 7);
        let linear = |b: &Self, r: usize| {
            let segment = if r == di { 0 } else { 3 };
            (b.regs.gpr[r] & b.address_mask()).wrapping_add(b.segment_base(segment))
        };
        if self.op.op_kinds().contains(&Kind::seg_rSI)
            && self.op.op_kinds().contains(&Kind::es_rDI)
            && self.rng.chance(1, 4)
        {
            let at = linear(self, si).wrapping_add(self.rng.range(-20, 20) as u64);
            self.point(di as u8, 0, at);
        }
        if compares && self.rng.chance(1, 2) {
            // A run that is equal up to some point, in the direction of travel.
            let run = bytes * self.rng.below(12) as usize;
            let back = if self.regs.rflags & rflags::DF != 0 {
                run as u64
            } else {
                0
            };
            let rax = self.regs.gpr[RAX].to_le_bytes();
            let data: Vec<u8> = (0..run).map(|i| rax[i % bytes.min(8)]).collect();
            for r in [si, di] {
                let at = linear(self, r).wrapping_sub(back);
                self.patch(at, &data);
            }
        }
    }

    /// ENTER and LEAVE: a frame pointer that leads somewhere, few nested frames.
    fn frame(&mut self) {
        let ss = self.regs.selectors[SS];
        let linear = self.place(16);
        self.regs.gpr[RBP] = match (self.mode, ss) {
            (Mode::Long, _) => linear,
            (_, selector::DATA16) => {
                linear.wrapping_sub(selector::WINDOW_BASE) & 0xffff | STATE & 0xffff_0000
            }
            _ => linear & 0xffff_ffff,
        };
        if self.choice.immediate.len() == 3 {
            let size = if self.rng.chance(3, 4) {
                self.rng.below(0x200)
            } else {
                self.rng.below(0x1_0000)
            };
            let level = if self.rng.chance(3, 4) {
                self.rng.below(5)
            } else {
                self.rng.below(256)
            };
            self.choice.immediate = Bytes::default();
            self.choice.immediate.extend(&(size as u16).to_le_bytes());
            self.choice.immediate.push(level as u8);
        }
    }

    fn small_release(&mut self) {
        if self.choice.immediate.len() == 2 && self.rng.chance(3, 4) {
            let release = self.rng.below(64) as u16;
            self.choice.immediate = Bytes::default();
            self.choice.immediate.extend(&release.to_le_bytes());
        }
    }

    /// The offset to write for a target in the code segment of `mode`.
    fn code_offset(&self, linear: u64, mode: Mode) -> u64 {
        if mode == Mode::Compat16 {
            linear.wrapping_sub(CODE)
        } else {
            linear
        }
    }

    fn near_return(&mut self, bytes: usize) {
        let linear = self.target(self.mode);
        let mut offset = self.code_offset(linear, self.mode);
        if bytes == 8 && self.rng.chance(1, 30) {
            offset |= 1 << 62;
        }
        self.patch_stack(0, offset, bytes);
        self.small_release();
    }

    fn near_indirect(&mut self, bytes: usize) {
        let kinds = self.op.op_kinds();
        if !matches!(kinds, [Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem]) {
            return;
        }
        let linear = self.target(self.mode);
        let mut offset = self.code_offset(linear, self.mode);
        if bytes == 8 && self.rng.chance(1, 30) {
            offset = values::integer(&mut self.rng, 64) | 1 << 61;
        }
        match (self.choice.rm, self.memory) {
            (Rm::Register(r), _) if !(self.pinned(r)) => self.regs.gpr[r as usize] = offset,
            (_, Some((address, _))) => self.patch_word(address, offset, bytes),
            _ => {}
        }
    }

    /// A far pointer with an offset of `bytes`: to any of the three kinds of code, or a bad selector.
    pub(super) fn far_target(&mut self, bytes: usize) -> (u64, u16) {
        // A call pushes with the stack pointer of the old or of the new mode, as the vendor likes; with a
        // flat stack they are the same.
        let rsp = self.regs.gpr[RSP];
        let flat = self.mode == Mode::Long || (self.regs.selectors[SS] == selector::DATA && rsp > 0x100);
        let high = self.mode == Mode::Long && rsp >> 32 != 0;
        let mode = match bytes {
            2 if high => return (self.rng.draw() & 0xffff, self.bad_code_selector()),
            2 => Mode::Compat16,
            _ if high => Mode::Long,
            _ if flat => self.rng.pick(&Mode::ALL),
            _ => self.rng.pick(&[Mode::Compat16, Mode::Compat32]),
        };
        let linear = self.target(mode);
        let selector = match mode {
            _ if self.rng.chance(1, 6) => self.bad_code_selector(),
            Mode::Long => selector::CODE64,
            Mode::Compat32 => selector::CODE32,
            Mode::Compat16 => selector::CODE16,
        };
        (self.code_offset(linear, mode), selector)
    }

    fn far_indirect(&mut self, bytes: usize) {
        let (offset, selector) = self.far_target(bytes);
        if let Some((address, _)) = self.memory {
            self.patch_word(address, offset, bytes);
            self.patch_word(address.wrapping_add(bytes as u64), selector as u64, 2);
        }
    }

    fn far_return(&mut self, bytes: usize) {
        let (offset, selector) = self.far_target(bytes);
        self.patch_stack(0, offset, bytes);
        self.patch_stack(bytes as u64, selector as u64, 2);
        self.small_release();
    }

    fn interrupt_return(&mut self, bytes: usize) {
        if self.rng.chance(7, 8) {
            self.regs.rflags &= !rflags::NT;
        }
        let (offset, selector) = self.far_target(bytes);
        let flags = self.random_flags();
        let stack = SCRATCH + 0x100 + self.rng.below(SCRATCH_SIZE - 0x200);
        let ss = if self.rng.chance(1, 8) {
            self.selector()
        } else {
            selector::DATA
        };
        for (i, v) in [offset, selector as u64, flags, stack, ss as u64]
            .into_iter()
            .enumerate()
        {
            self.patch_stack((i * bytes) as u64, v, bytes);
        }
    }

    fn loop_count(&mut self) {
        let rest = self.regs.gpr[RCX] & !self.address_mask();
        if self.rng.chance(3, 4) {
            self.regs.gpr[RCX] = rest | self.rng.below(3);
        }
    }

    fn random_flags(&mut self) -> u64 {
        let mut f = self.rng.draw() & 0x3f_ffff & !(rflags::TF | rflags::NT | rflags::AC);
        for (bit, of) in [(rflags::TF, 16), (rflags::NT, 8), (rflags::AC, 8)] {
            if self.rng.chance(1, of) {
                f |= bit;
            }
        }
        f
    }

    fn selector(&mut self) -> u16 {
        self.rng.pick(&SELECTORS)
    }

    /// Any but one of code of another kind than the target's.
    fn bad_code_selector(&mut self) -> u16 {
        loop {
            let s = self.selector();
            if !matches!(s, selector::CODE16 | selector::CODE32 | selector::CODE64) {
                return s;
            }
        }
    }

    fn selector_operand(&mut self) {
        let s = self.selector() as u64;
        match (self.choice.rm, self.memory) {
            (Rm::Register(r), _) if !self.pinned(r) => {
                let r = &mut self.regs.gpr[r as usize];
                *r = *r & !0xffff | s;
            }
            (_, Some((address, _))) => self.patch_word(address, s, 2),
            _ => {}
        }
    }

    fn memory_mxcsr(&mut self) {
        let Some((address, _)) = self.memory else { return };
        let legal = 0xffff;
        // Misaligned-SSE mode, which only AMD has (AMD APM vol. 2, "MXCSR").
        let misaligned = 1 << 17;
        let v = if self.rng.chance(1, 16) {
            self.rng.draw() as u32
        } else {
            self.rng.draw() as u32 & legal
        };
        self.patch_word(address, (v & !misaligned) as u64, 4);
    }

    fn memory_control(&mut self) {
        let Some((address, _)) = self.memory else { return };
        let precision = self.rng.pick(&[0u64, 2, 3]);
        let v = self.rng.draw() & 0xfc7f | precision << 8;
        self.patch_word(address, v, 2);
    }

    /// x87 state to load: that of another random case.
    fn other_state(&mut self) -> Regs {
        let mut other = Builder::new(self.rng.clone(), self.form());
        other.rng.draw();
        other.state();
        self.rng.draw();
        other.regs
    }

    fn form(&self) -> crate::forms::Form {
        crate::forms::Form {
            code: self.code,
            mode: self.mode,
            named: None,
        }
    }

    /// FLDENV and FRSTOR (Intel SDM vol. 1 figures 8-9 to 8-12).
    fn environment(&mut self) {
        let Some((address, size)) = self.memory else {
            return;
        };
        let f = self.other_state().fpu;
        let wide = size == 28 || size == 108;
        let mut image = Vec::with_capacity(size);
        for word in [f.control as u32, f.status as u32, f.tag as u32] {
            if wide {
                image.extend((word | 0xffff_0000).to_le_bytes());
            } else {
                image.extend((word as u16).to_le_bytes());
            }
        }
        let environment = if wide { 28 } else { 14 };
        while image.len() < environment {
            image.push(self.rng.draw() as u8);
        }
        if size > environment {
            let top = f.status as usize >> 11 & 7;
            for i in 0..8 {
                let r = (top + i) & 7;
                image.extend(f.significand[r].to_le_bytes());
                image.extend(f.sign_exponent[r].to_le_bytes());
            }
        }
        self.patch(address, &image);
    }

    /// FXRSTOR and XRSTOR.
    fn image(&mut self) {
        let Some((address, size)) = self.memory else {
            return;
        };
        let mut image = self.other_state().to_xsave();
        // Reserved bits of MXCSR: #GP.
        if self.rng.chance(1, 16) {
            image[26] = 1;
        }
        self.regs.gpr[RDX] = 0;
        let unpinned = !self.pinned(RAX as u8);
        if size > 512 && unpinned {
            self.regs.gpr[RAX] = self.rng.below(8);
        }
        image[512] = self.rng.below(8) as u8;
        match self.rng.below(16) {
            // XCOMP_BV: a compacted image of at least those components.
            0 => {
                image[520] = image[512] | self.rng.below(8) as u8;
                image[527] = 0x80;
            }
            // Reserved header bits: #GP.
            1 => image[528 + self.rng.below(48) as usize] = 1,
            _ => {}
        }
        self.patch(address, &image[..size.min(image.len())]);
    }

    /// XSAVE and its like: which components, over a header that says none.
    fn save_area(&mut self) {
        if !self.pinned(RAX as u8) {
            self.regs.gpr[RAX] = self.rng.below(8);
        }
        self.regs.gpr[RDX] = 0;
        if let Some((address, _)) = self.memory {
            self.patch(address.wrapping_add(512), &[0; 64]);
        }
    }

    /// Strings with ends inside, and explicit lengths around them.
    fn text(&mut self) {
        for y in 0..16 {
            for q in 0..2 {
                self.regs.ymm[y][q] = Flavor::Text.word(&mut self.rng);
            }
        }
        if let Some((address, 16)) = self.memory
            && self.rng.chance(3, 4)
        {
            for at in [address, address.wrapping_add(8)] {
                let w = Flavor::Text.word(&mut self.rng);
                self.patch_word(at, w, 8);
            }
        }
        for r in [RAX, RDX] {
            if !self.pinned(r as u8) && self.rng.chance(7, 8) {
                let v = self.rng.range(-20, 20);
                let high = if self.rng.chance(1, 4) {
                    self.rng.draw() << 32
                } else {
                    0
                };
                self.regs.gpr[r] = v as u32 as u64 | high;
            }
        }
    }

    fn bit_field(&mut self) {
        let r = self.choice.vvvv;
        if !self.pinned(r) && self.rng.chance(3, 4) {
            let (start, length) = (self.rng.below(70), self.rng.below(70));
            self.regs.gpr[r as usize] = self.rng.draw() & 0xffff_0000 | length << 8 | start;
        }
    }

    fn bounds(&mut self, bytes: usize) {
        let Some((address, _)) = self.memory else { return };
        if self.rng.chance(3, 4) {
            let value = self.regs.gpr[(self.choice.reg & 7) as usize];
            let slack = self.rng.range(-2, 50) as u64;
            self.patch_word(address, value.wrapping_sub(slack), bytes);
            self.patch_word(
                address.wrapping_add(bytes as u64),
                value.wrapping_add(slack),
                bytes,
            );
        }
    }

    fn base_value(&mut self) {
        if let Rm::Register(r) = self.choice.rm
            && self.rng.chance(3, 4)
        {
            self.regs.gpr[r as usize] = (self.rng.draw() as i64 >> 17) as u64;
        }
    }

    /// Arguments in range: exponents near that of 1.
    fn moderate_x87(&mut self) {
        if self.rng.chance(1, 3) {
            return;
        }
        let f = &mut self.regs.fpu;
        for i in 0..8 {
            if f.sign_exponent[i] & 0x7fff != 0 && f.significand[i] >> 63 == 1 {
                let e = 0x3fff - 40 + self.rng.below(100) as u16;
                f.sign_exponent[i] = f.sign_exponent[i] & 0x8000 | e;
            }
        }
    }
}
