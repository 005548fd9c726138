//! Instructions that belong together, as compilers and kernels write them.

use super::emit::*;
use super::pool::Class;
use super::{Branch, Item};
use crate::case::Mode;
use crate::encode::{Bytes, Rm};
use crate::layout::*;
use donjon_x86::bits::rflags;
use iced_x86::Code;

impl Emitter<'_> {
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut b = Bytes::default();
        b.extend(bytes);
        self.push(Item::Plain(b));
    }

    fn long(&self) -> bool {
        self.mode == Mode::Long
    }

    /// Any of them, or a single random instruction.
    pub fn something(&mut self) {
        match self.rng.below(100) {
            0..=7 => self.flags_over_memory(),
            8..=10 => self.saved(),
            11..=13 => self.string(),
            14..=15 if !self.kernel => self.division(),
            16 => self.flags_from_stack(),
            17 => self.control_word(),
            18..=19 => self.position(),
            20..=21 => self.store_and_load(),
            22 => self.flags_image(),
            23 if self.long() => self.segment_base(),
            24..=25 => self.vector_to_integer(),
            26..=27 => self.high_bytes(),
            28 => self.stack_frame(),
            29 if self.edge > 0 && self.rng.chance(1, 4) => self.fault(),
            31 => self.skip(),
            32 => self.odds(),
            33 if self.edge > 0 && self.rng.chance(1, 3) => self.stray(),
            30 => {
                let r = self.free();
                let v = self.rng.pick(&self.focus.clone()) + self.rng.below(64);
                self.load(r, v);
            }
            _ => self.random(),
        }
    }

    /// Flags, then a memory access that must not lose them, then a reader.
    fn flags_over_memory(&mut self) {
        let class = self
            .rng
            .pick(&[Class::Alu, Class::Alu, Class::Shift, Class::Bits]);
        self.of(class);
        for _ in 0..=self.rng.below(2) {
            let size = self.rng.pick(&[1u64, 2, 4, 8]);
            let size = if self.long() { size } else { size.min(4) };
            let (store, load) = match size {
                1 => (Code::Mov_rm8_r8, Code::Mov_r8_rm8),
                2 => (Code::Mov_rm16_r16, Code::Mov_r16_rm16),
                4 => (Code::Mov_rm32_r32, Code::Mov_r32_rm32),
                _ => (Code::Mov_rm64_r64, Code::Mov_r64_rm64),
            };
            let reach = self.reach(size);
            if self.rng.chance(1, 2) {
                let r = self.register();
                self.emit_at(store, reach, |c| c.reg = r);
            } else {
                let r = self.free();
                // As a byte register 4 to 7 would be parts of others.
                let r = if size == 1 && (4..8).contains(&r) {
                    return;
                } else {
                    r
                };
                self.emit_at(load, reach, |c| c.reg = r);
            }
        }
        match self.rng.below(4) {
            0 => {
                // ADC or SBB of registers.
                let (to, from) = (self.free(), self.register());
                let code = self.rng.pick(&[Code::Adc_rm32_r32, Code::Sbb_rm32_r32]);
                self.emit(code, |c| {
                    c.rm = Rm::Register(to);
                    c.reg = from;
                });
            }
            1 => {
                let cc = self.rng.below(16) as u8;
                let over = self.label();
                self.branch(Branch::If(cc), over);
                self.random();
                self.here(over);
            }
            _ => self.of(Class::Conditional),
        }
    }

    fn push_register(&mut self, r: u8) {
        let code = if self.long() {
            Code::Push_r64
        } else {
            Code::Push_r32
        };
        self.emit(code, |c| c.opcode_register = r);
    }

    fn pop_register(&mut self, r: u8) {
        let code = if self.long() { Code::Pop_r64 } else { Code::Pop_r32 };
        self.emit(code, |c| c.opcode_register = r);
    }

    /// Registers saved and restored, mostly into themselves, around others.
    fn saved(&mut self) {
        let n = 1 + self.rng.below(3);
        let saved: Vec<u8> = (0..n).map(|_| self.register()).collect();
        saved.iter().for_each(|&r| self.push_register(r));
        let frame = self.frame;
        // What was pushed is the program's now.
        let size = if self.long() { 8 } else { 4 };
        self.frame = frame.map(|_| n * size);
        for _ in 0..self.rng.below(4) {
            self.random();
        }
        self.frame = frame;
        for &r in saved.iter().rev() {
            let to = if r != RSP && self.may_write(1 << r) && self.rng.chance(2, 3) {
                r
            } else {
                self.free()
            };
            self.pop_register(to);
        }
    }

    /// A string instruction with a bounded count.
    fn string(&mut self) {
        if !self.may_write(1 << RCX | 1 << RSI | 1 << RDI | 1 << RAX) {
            return;
        }
        let backward = self.rng.chance(1, 5);
        let size = self.rng.below(if self.long() { 4 } else { 3 });
        let bytes = 1 << size;
        let count = match self.rng.below(8) {
            0 => 0,
            1 => 1,
            2 => self.rng.below(300) / bytes,
            _ => self.rng.below(24),
        };
        let reach = count * bytes;
        for r in [RSI, RDI] {
            let low = SCRATCH + self.rng.below(DATA_END - reach - 8);
            let edge = self.rng.below(1000) < 3 * self.edge;
            let low = if edge {
                SCRATCH_END - self.rng.below(reach + 8)
            } else {
                low
            };
            self.load(r, if backward { low + reach } else { low });
        }
        if self.rng.chance(1, 4) {
            // Overlapping.
            let from = self.known.get(RSI).unwrap_or(SCRATCH);
            let v = from.wrapping_add(self.rng.range(-12, 12) as u64);
            self.load(RDI, v);
        }
        if backward {
            self.bytes(&[0xfd]);
        }
        let opcode = self.rng.pick(&[0xa4u8, 0xa4, 0xa4, 0xaa, 0xaa, 0xac, 0xa6, 0xae]);
        let prefix = match (opcode, self.rng.below(6)) {
            (_, 0) => None,
            (0xa6 | 0xae, 1..=3) => Some(0xf2),
            _ => Some(0xf3),
        };
        if prefix.is_some() {
            self.load(RCX, count);
        }
        let mut b: Vec<u8> = prefix.into_iter().collect();
        match size {
            0 => {}
            1 => b.insert(0, 0x66),
            2 => {}
            _ => b.push(0x48),
        }
        b.push(opcode | (size != 0) as u8);
        self.bytes(&b);
        if backward {
            self.bytes(&[0xfc]);
        }
    }

    /// A division, mostly one whose quotient fits.
    fn division(&mut self) {
        if !self.may_write(1 << RAX | 1 << RDX) {
            return;
        }
        let by = self.free();
        if self.rng.chance(4, 5) {
            // OR by, 1.
            self.emit(Code::Or_rm32_imm8, |c| {
                c.rm = Rm::Register(by);
                c.immediate.push(1);
            });
        }
        let wide = self.long() && self.rng.chance(1, 2);
        let signed = self.rng.chance(1, 2);
        match (signed, wide) {
            _ if self.rng.chance(1, 12) => {}
            (true, true) => self.bytes(&[0x48, 0x99]),
            (true, false) => self.bytes(&[0x99]),
            _ => self.load(RDX, 0),
        }
        let code = match (signed, wide) {
            (true, true) => Code::Idiv_rm64,
            (true, false) => Code::Idiv_rm32,
            (false, true) => Code::Div_rm64,
            (false, false) => Code::Div_rm32,
        };
        self.emit(code, |c| c.rm = Rm::Register(by));
    }

    fn push_constant(&mut self, v: u32) {
        let code = if self.long() {
            Code::Pushq_imm32
        } else {
            Code::Pushd_imm32
        };
        self.emit(code, |c| c.immediate.extend(&v.to_le_bytes()));
    }

    /// POPF of chosen flags.
    fn flags_from_stack(&mut self) {
        let mut f = self.rng.draw() & (rflags::STATUS | rflags::ID) | rflags::IF;
        if self.edge > 0 && self.rng.chance(1, 16) {
            f |= rflags::TF;
        }
        self.push_constant(f as u32);
        self.bytes(&[0x9d]);
    }

    /// LDMXCSR or FLDCW of a legal value.
    fn control_word(&mut self) {
        let reach = self.reach(4);
        // The address must not change before it is used again.
        let sse = self.rng.chance(1, 2);
        let v = if sse {
            let masks = if self.rng.chance(7, 8) {
                0x1f80
            } else {
                self.rng.draw() & 0x1f80
            };
            masks | self.rng.below(4) << 13 | self.rng.below(2) << 15 | self.rng.below(2) << 6
        } else {
            let masks = if self.rng.chance(7, 8) {
                0x3f
            } else {
                self.rng.draw() & 0x3f
            };
            0x40 | masks | self.rng.pick(&[3, 3, 2, 0]) << 8 | self.rng.below(4) << 10
        };
        self.emit_at(Code::Mov_rm32_imm32, reach, |c| {
            c.immediate.extend(&(v as u32).to_le_bytes());
        });
        let code = if sse {
            Code::Ldmxcsr_m32
        } else {
            Code::Fldcw_m2byte
        };
        self.emit_at(code, reach, |_| {});
    }

    /// The address of the next instruction, as code that does not know where it is gets it; or a return
    /// that nobody called for.
    fn position(&mut self) {
        let next = self.label();
        if self.rng.chance(1, 2) {
            self.branch(Branch::Call, next);
            self.here(next);
            let r = self.free();
            self.pop_register(r);
        } else {
            let mut b = Bytes::default();
            b.extend(&[0x68, 0, 0, 0, 0]);
            self.push(Item::Address {
                bytes: b,
                at: 1,
                label: next,
                plus: 0,
            });
            self.bytes(&[0xc3]);
            // Not reached.
            if self.rng.chance(1, 2) {
                self.random();
            }
            self.here(next);
        }
    }

    /// A store, and a load of parts of it.
    fn store_and_load(&mut self) {
        let reach = self.reach(if self.long() { 8 } else { 4 });
        let from = self.register();
        let store = match (self.long(), self.rng.below(3)) {
            (true, 0..=1) => Code::Mov_rm64_r64,
            _ => Code::Mov_rm32_r32,
        };
        self.emit_at(store, reach, |c| c.reg = from);
        let mut reach = reach;
        if let Rm::Memory(a) = &mut reach.rm
            && a.displacement_size == 4
            && reach.relative.is_none()
        {
            a.displacement = a.displacement.wrapping_add(self.rng.below(8) as i32 - 2);
        }
        let to = self.free();
        let code = self.rng.pick(&[
            Code::Movzx_r32_rm8,
            Code::Movsx_r32_rm16,
            Code::Mov_r32_rm32,
            Code::Movzx_r32_rm16,
        ]);
        self.emit_at(code, reach, |c| c.reg = to);
    }

    /// PUSHF and POP, or LAHF and SAHF.
    fn flags_image(&mut self) {
        if self.rng.chance(1, 2) || !self.may_write(1 << RAX) {
            self.bytes(&[0x9c]);
            let r = self.free();
            self.pop_register(r);
        } else {
            self.bytes(&[0x9f]);
            self.of(Class::Alu);
            self.bytes(&[0x9e]);
        }
    }

    /// WRFSBASE or WRGSBASE: later accesses know only the base before, so it is put back.
    fn segment_base(&mut self) {
        let gs = self.rng.chance(1, 2);
        let r = self.free();
        let code = if gs {
            Code::Wrgsbase_r64
        } else {
            Code::Wrfsbase_r64
        };
        let read = if gs {
            Code::Rdgsbase_r64
        } else {
            Code::Rdfsbase_r64
        };
        let v = self.rng.pick(&self.focus.clone());
        self.load(r, v);
        self.emit(code, |c| c.rm = Rm::Register(r));
        let to = self.free();
        // MOV to, seg:[displacement].
        let at = self.rng.range(-32, 32) as i32 as u32;
        let mut b = vec![if gs { 0x65 } else { 0x64 }, 0x48 | (to >> 3) << 2, 0x8b];
        b.extend([(to & 7) << 3 | 4, 0x25]);
        b.extend(at.to_le_bytes());
        self.bytes(&b);
        let base = if gs {
            self.before.gs_base
        } else {
            self.before.fs_base
        };
        self.load(r, base);
        self.emit(code, |c| c.rm = Rm::Register(r));
        if self.rng.chance(1, 3) {
            self.emit(read, |c| c.rm = Rm::Register(to));
        }
    }

    /// Vector registers meet general ones.
    fn vector_to_integer(&mut self) {
        let (x, r) = (self.rng.below(4) as u8, self.free());
        let code = self.rng.pick(&[
            Code::Movd_rm32_xmm,
            Code::Cvttsd2si_r32_xmmm64,
            Code::Pmovmskb_r32_xmm,
            Code::Movmskpd_r32_xmm,
            Code::Ucomisd_xmm_xmmm64,
            Code::Ptest_xmm_xmmm128,
            Code::Cvtsi2sd_xmm_rm32,
            Code::Movd_xmm_rm32,
        ]);
        self.emit(code, |c| {
            let to_memory_operand = matches!(code, Code::Movd_rm32_xmm);
            let from_general = matches!(code, Code::Cvtsi2sd_xmm_rm32 | Code::Movd_xmm_rm32);
            let vectors = matches!(code, Code::Ucomisd_xmm_xmmm64 | Code::Ptest_xmm_xmmm128);
            (c.reg, c.rm) = match () {
                _ if to_memory_operand || from_general => (x, Rm::Register(r)),
                _ if vectors => (x, Rm::Register(x + 1)),
                _ => (r, Rm::Register(x)),
            };
        });
        if matches!(code, Code::Ucomisd_xmm_xmmm64 | Code::Ptest_xmm_xmmm128) {
            self.of(Class::Conditional);
        }
    }

    /// AH to BH.
    fn high_bytes(&mut self) {
        let high = 4 + self.rng.below(4) as u8;
        if !self.may_write(1 << (high - 4)) {
            return;
        }
        let opcode = self
            .rng
            .pick(&[0x00u8, 0x02, 0x08, 0x28, 0x30, 0x38, 0x86, 0x88, 0x8a]);
        let other = self.rng.below(4) as u8;
        if !self.may_write(1 << other) {
            return;
        }
        let rm = if self.rng.chance(1, 2) {
            high << 3 | other
        } else {
            other << 3 | high
        };
        self.bytes(&[opcode, 0xc0 | rm]);
    }

    /// A function's beginning and end.
    fn stack_frame(&mut self) {
        if !self.may_write(1 << RBP) || !self.long() {
            return;
        }
        self.push_register(RBP);
        // MOV RBP, RSP; SUB RSP, n.
        self.bytes(&[0x48, 0x89, 0xe5]);
        let n = self.rng.below(8) as u8 * 8 + 16;
        self.bytes(&[0x48, 0x83, 0xec, n]);
        let (frame, fixed) = (self.frame, self.fixed);
        self.frame = Some(n as u64);
        self.fixed |= 1 << RBP | 1 << RSP;
        for _ in 0..self.rng.below(5) {
            self.random();
        }
        (self.frame, self.fixed) = (frame, fixed);
        if self.rng.chance(1, 2) {
            self.bytes(&[0xc9]);
        } else {
            self.bytes(&[0x48, 0x83, 0xc4, n]);
            self.pop_register(RBP);
        }
    }

    /// A branch on the counter over something.
    fn skip(&mut self) {
        if !self.may_write(1 << RCX) {
            return;
        }
        if self.rng.chance(2, 3) {
            let n = self.rng.pick(&[0, 1, 2, 1 << 32, 1 << 16, (1 << 32) + 1]);
            self.load(RCX, if self.long() { n } else { n & 0xffff_ffff });
        }
        let over = self.label();
        let kind = self.rng.below(4) as u8;
        let half = self.rng.chance(1, 2);
        self.branch_short(
            if half {
                Branch::CountHalf(kind)
            } else {
                Branch::Count(kind)
            },
            over,
        );
        for _ in 0..=self.rng.below(2) {
            self.random();
        }
        self.here(over);
    }

    fn branch_short(&mut self, branch: Branch, label: super::Label) {
        self.push(Item::Branch {
            branch,
            label,
            short: true,
        });
    }

    /// Forms that no random choice of operands makes sense for.
    fn odds(&mut self) {
        match self.rng.below(5) {
            // MOV between RAX and an absolute address.
            0..=1 => {
                let opcode = self.rng.pick(&[0xa0u8, 0xa1, 0xa2, 0xa3]);
                let at = self.rng.pick(&self.focus.clone());
                let mut b = vec![opcode];
                let size = if self.long() { 8 } else { 4 };
                b.extend(&at.to_le_bytes()[..size]);
                self.bytes(&b);
            }
            // XLATB.
            2 if self.may_write(1 << 3) => {
                let at = self.rng.pick(&self.focus.clone());
                self.load(3, at);
                self.bytes(&[0xd7]);
            }
            // ENTER with a few frames, LEAVE.
            3 if self.may_write(1 << RBP) => {
                let at = self.rng.pick(&self.focus.clone()) & !7;
                self.load(RBP, at);
                let (size, level) = (self.rng.below(6) as u8 * 8, self.rng.below(3) as u8);
                self.bytes(&[0xc8, size, 0, level]);
                if self.fixed >> RSP & 1 != 0 || self.rng.chance(3, 4) {
                    self.bytes(&[0xc9]);
                }
            }
            // MASKMOVDQU.
            4 if self.may_write(1 << RDI) => {
                let at = self.rng.pick(&self.focus.clone());
                self.load(RDI, at);
                let rm = 0xc0 | self.rng.below(64) as u8;
                self.bytes(&[0x66, 0x0f, 0xf7, rm]);
            }
            _ => {}
        }
    }

    /// A branch to where nothing is.
    fn stray(&mut self) {
        let to = match self.rng.below(4) {
            0 => SCRATCH + self.rng.below(PAGE),
            1 => SCRATCH_END + self.rng.below(64),
            2 if self.long() => 0x8000_0000_0000 + self.rng.below(2) * 0x1234,
            _ if self.long() => self.rng.draw() | 1 << 62,
            _ => self.rng.below(PAGE),
        };
        let r = self.free();
        self.load(r, to);
        match self.rng.below(3) {
            0 => {
                self.push_register(r);
                self.bytes(&[0xc3]);
            }
            n => {
                let code = match (self.long(), n) {
                    (true, 1) => Code::Jmp_rm64,
                    (true, _) => Code::Call_rm64,
                    (false, 1) => Code::Jmp_rm32,
                    (false, _) => Code::Call_rm32,
                };
                self.emit(code, |c| c.rm = Rm::Register(r));
            }
        }
    }

    /// An instruction that always faults.
    pub fn fault(&mut self) {
        match self.rng.below(8) {
            0 => self.bytes(&[0x0f, 0x0b]),
            1 => self.bytes(&[0xcc]),
            2 if !self.kernel => self.bytes(&[0xf4]),
            3 => self.bytes(&[0xec]),
            4 => self.bytes(&[0xcd, 0x21]),
            5 => {
                // DIV by zero.
                self.bytes(&[0x31, 0xc9]);
                self.bytes(&[0xf7, 0xf1]);
            }
            6 => {
                // MOV EAX, [just behind the scratch area].
                let mut b = vec![0x8b, 0x04, 0x25];
                b.extend(((SCRATCH_END - self.rng.below(4)) as u32).to_le_bytes());
                self.bytes(&b);
            }
            _ => {
                // MOVAPS at an odd address.
                let mut b = vec![0x0f, 0x28, 0x04, 0x25];
                b.extend(((SCRATCH + 8) as u32).to_le_bytes());
                self.bytes(&b);
            }
        }
    }
}
