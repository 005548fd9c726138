//! Makes random instructions, one behind the other.

use super::known::{Known, written};
use super::place::Reach;
use super::pool::{Class, Pool};
use super::{Branch, Item, Label, Layout, Program, taint};
use crate::case::{Mode, Patch};
use crate::encode::{self, Choice, Rm};
use crate::forms::Form;
use crate::layout::*;
use crate::regs::{Regs, full_tag};
use crate::rng::Rng;
use crate::values::{self, Flavor};
use donjon_x86::bits::rflags;
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, Instruction, OpCodeOperandKind as Kind};

pub const RAX: u8 = 0;
pub const RCX: u8 = 1;
pub const RDX: u8 = 2;
pub const RSP: u8 = 4;
pub const RBP: u8 = 5;
pub const RSI: u8 = 6;
pub const RDI: u8 = 7;

/// Offsets in the scratch area: data below, then the tables of indirect jumps, then the stack.
pub const DATA_END: u64 = 0x1800;
pub const TABLES: u64 = 0x1c00;
pub const STACK: u64 = 0x1e00;

/// How often what is used, in parts of the sum.
pub type Weights = &'static [(Class, u64)];

/// What compilers emit; what kernels and mathematics add.
pub const STYLES: [Weights; 6] = [
    &[
        (Class::Alu, 30),
        (Class::Move, 30),
        (Class::Stack, 6),
        (Class::Shift, 6),
        (Class::Multiply, 3),
        (Class::Bits, 6),
        (Class::Conditional, 10),
        (Class::Exchange, 2),
    ],
    &[
        (Class::Alu, 20),
        (Class::Move, 20),
        (Class::Shift, 10),
        (Class::Bits, 14),
        (Class::Conditional, 20),
        (Class::Exchange, 8),
        (Class::Multiply, 6),
        (Class::Other, 3),
    ],
    &[
        (Class::Alu, 12),
        (Class::Move, 14),
        (Class::Sse, 50),
        (Class::Conditional, 6),
    ],
    &[
        (Class::Alu, 12),
        (Class::Move, 14),
        (Class::Avx, 40),
        (Class::Sse, 8),
        (Class::Conditional, 6),
    ],
    &[
        (Class::Alu, 14),
        (Class::Move, 14),
        (Class::X87, 40),
        (Class::Mmx, 4),
        (Class::Sse, 4),
    ],
    &[
        (Class::Alu, 10),
        (Class::Move, 10),
        (Class::Stack, 4),
        (Class::Shift, 6),
        (Class::Multiply, 4),
        (Class::Bits, 8),
        (Class::Conditional, 10),
        (Class::Exchange, 6),
        (Class::Sse, 10),
        (Class::Avx, 10),
        (Class::Mmx, 6),
        (Class::X87, 8),
        (Class::Other, 4),
    ],
];

/// A program in the making.
pub struct Emitter<'a> {
    pub rng: Rng,
    pub mode: Mode,
    pub pool: &'a Pool,
    pub items: Vec<Item>,
    pub before: Regs,
    pub known: Known,
    /// Registers that only idioms write.
    pub fixed: u16,
    /// Bytes at the stack pointer that belong to the program; `None` if the stack may be used at will.
    pub frame: Option<u64>,
    /// Faulting places, of 1000.
    pub edge: u64,
    /// Ring 0 may run it: HLT is no fault then.
    pub kernel: bool,
    /// What the program is made of.
    pub weights: Weights,
    pub focus: Vec<u64>,
    hot: Vec<u8>,
    labels: usize,
}

impl<'a> Emitter<'a> {
    /// Nothing yet, in a random state.
    pub fn new(mut rng: Rng, mode: Mode, pool: &'a Pool) -> Self {
        let weights = match rng.below(10) {
            0..=3 => STYLES[0],
            4..=5 => STYLES[1],
            n => STYLES[n as usize - 4],
        };
        let focus: Vec<u64> = (0..3)
            .map(|_| match rng.below(4) {
                0 => SCRATCH + PAGE - rng.below(64),
                _ => SCRATCH + 64 + rng.below(DATA_END - 128),
            } & !7)
            .collect();
        let n = mode.registers() as u64;
        let hot = (0..5).map(|_| rng.below(n) as u8).collect();
        let mut e = Self {
            before: state(&mut rng, mode, weights, &focus),
            rng,
            mode,
            pool,
            items: Vec::new(),
            known: Known::new(mode, &[0; 16]),
            fixed: 0,
            frame: None,
            edge: 0,
            kernel: false,
            weights,
            focus,
            hot,
            labels: 0,
        };
        e.known = Known::new(mode, &e.before.gpr);
        e
    }

    /// A label that is nowhere yet.
    pub fn label(&mut self) -> Label {
        self.labels += 1;
        self.labels - 1
    }

    /// Puts a label here. What was known of registers that change is forgotten.
    pub fn here(&mut self, label: Label) {
        self.items.push(Item::Label(label));
        self.known.forget(self.fixed | 1 << RSP);
    }

    /// A branch.
    pub fn branch(&mut self, branch: Branch, label: Label) {
        let short = self.rng.chance(3, 4);
        self.items.push(Item::Branch { branch, label, short });
    }

    /// A register, mostly one of those this program uses a lot.
    pub fn register(&mut self) -> u8 {
        if self.rng.chance(2, 3) {
            self.rng.pick(&self.hot)
        } else {
            self.rng.below(self.mode.registers() as u64) as u8
        }
    }

    /// A register to write to.
    pub fn free(&mut self) -> u8 {
        loop {
            let r = self.register();
            if r != RSP && self.fixed >> r & 1 == 0 {
                return r;
            }
        }
    }

    /// Whether registers may be written.
    pub fn may_write(&self, set: u16) -> bool {
        set & self.fixed == 0
    }

    /// Appends an item.
    pub fn push(&mut self, item: Item) {
        let (Item::Plain(bytes) | Item::Relative { bytes, .. } | Item::Address { bytes, .. }) = item else {
            self.items.push(item);
            return;
        };
        let ip = if let Item::Relative { at, to, .. } = item {
            // So that the decoder sees the address that will be meant.
            let d = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            to.wrapping_sub(d as i32 as u64).wrapping_sub(bytes.len() as u64)
        } else {
            0
        };
        self.known.step(&self.decode(&bytes, ip));
        self.items.push(item);
    }

    fn decode(&self, bytes: &[u8], ip: u64) -> Instruction {
        Decoder::with_ip(self.mode.bits(), bytes, ip, DecoderOptions::NONE).decode()
    }

    /// An instruction of this form with these operands.
    pub fn emit(&mut self, code: Code, f: impl FnOnce(&mut Choice)) {
        let mut c = Choice::default();
        f(&mut c);
        let bytes = encode::encode(code.op_code(), self.mode, &c).bytes;
        self.push(Item::Plain(bytes));
    }

    /// The same with a memory operand.
    pub fn emit_at(&mut self, code: Code, reach: Reach, f: impl FnOnce(&mut Choice)) {
        let mut c = Choice::default();
        f(&mut c);
        let item = self.item(code, reach, c);
        self.push(item);
    }

    fn item(&self, code: Code, reach: Reach, mut c: Choice) -> Item {
        c.rm = reach.rm;
        reach.prefix.iter().for_each(|&p| c.prefixes.push(p));
        let e = encode::encode(code.op_code(), self.mode, &c);
        match reach.relative {
            Some(to) => Item::Relative {
                bytes: e.bytes,
                at: e.displacement_at,
                to,
            },
            None => Item::Plain(e.bytes),
        }
    }

    /// MOV of a constant into a register.
    pub fn load(&mut self, register: u8, value: u64) {
        let small = value == value as u32 as u64;
        let code = match (small, self.mode) {
            (false, Mode::Long) => Code::Mov_r64_imm64,
            _ => Code::Mov_r32_imm32,
        };
        let bytes = if code == Code::Mov_r64_imm64 { 8 } else { 4 };
        self.emit(code, |c| {
            c.opcode_register = register;
            c.immediate.extend(&value.to_le_bytes()[..bytes]);
        });
    }

    /// A random instruction.
    pub fn random(&mut self) {
        let total: u64 = self.weights.iter().map(|w| w.1).sum();
        let mut n = self.rng.below(total);
        let class = self.weights.iter().find(|w| {
            let here = n < w.1;
            n = n.saturating_sub(w.1);
            here
        });
        let class = class.map_or(Class::Alu, |c| c.0);
        self.of(class);
    }

    /// A random instruction of a class.
    pub fn of(&mut self, class: Class) {
        for _ in 0..60 {
            let form = self.rng.pick(self.pool.of(class));
            if let Some(item) = self.attempt(form) {
                self.push(item);
                return;
            }
        }
    }

    /// One with random operands, unless it would do what must not be done.
    fn attempt(&mut self, form: Form) -> Option<Item> {
        let op = form.info();
        let mut c = Choice::default();
        let mut reach = None;
        if self.mode == Mode::Long && self.rng.chance(1, 4) {
            c.rex = 0x40;
        }
        for &kind in op.op_kinds() {
            let eight = matches!(
                kind,
                Kind::mm_reg | Kind::mm_or_mem | Kind::mm_rm | Kind::sti_opcode
            );
            let vector = matches!(
                kind,
                Kind::xmm_reg
                    | Kind::ymm_reg
                    | Kind::xmm_or_mem
                    | Kind::ymm_or_mem
                    | Kind::xmm_rm
                    | Kind::ymm_rm
                    | Kind::xmm_vvvv
                    | Kind::ymm_vvvv
            );
            let register = match kind {
                Kind::seg_reg => self.rng.below(6) as u8,
                _ if eight => self.rng.below(8) as u8,
                _ if vector && self.rng.chance(2, 3) => self.rng.below(4) as u8,
                _ if vector => self.rng.below(self.mode.registers() as u64) as u8,
                _ => self.register(),
            };
            if encode::is_reg(kind) {
                c.reg = register;
            } else if encode::is_vvvv(kind) {
                c.vvvv = register;
            } else if encode::is_opcode_register(kind) {
                c.opcode_register = register;
            } else if encode::can_be_memory(kind) && (!encode::can_be_register(kind) || self.rng.chance(1, 2))
            {
                let size = op.memory_size().size().clamp(1, 64) as u64;
                reach = Some(self.reach(size));
            } else if encode::can_be_register(kind) {
                c.rm = Rm::Register(register);
            }
        }
        let address_bytes = encode::address_size(op, self.mode) as usize / 8;
        for &kind in op.op_kinds() {
            let n = encode::immediate_size(kind, address_bytes);
            if n > 0 {
                let v = values::integer(&mut self.rng, n as u32 * 8);
                c.immediate.extend(&v.to_le_bytes()[..n]);
            }
        }
        if op.can_use_lock_prefix() && reach.is_some() && self.rng.chance(1, 4) {
            c.prefixes.push(0xf0);
        }
        if op.encoding() == EncodingKind::VEX {
            c.long_vex = self.rng.chance(1, 4);
            c.w = self.rng.chance(1, 2);
            c.l = self.rng.chance(1, 4);
            if c.immediate.len() == 1 && self.mode != Mode::Long && op.op_kinds().contains(&Kind::xmm_is4) {
                c.immediate[0] &= 0x7f;
            }
        }
        let item = match reach {
            Some(reach) => self.item(form.code, reach, c),
            None => Item::Plain(encode::encode(op, self.mode, &c).bytes),
        };
        let (Item::Plain(bytes) | Item::Relative { bytes, .. }) = item else {
            return None;
        };
        let i = self.decode(&bytes, 0);
        if i.code() != form.code || i.len() != bytes.len() {
            return None;
        }
        let set = written(&i);
        if !self.may_write(set) || self.kernel && taint::undefines(&i) {
            return None;
        }
        // Addresses are worth keeping.
        let pointer = |r: u8| {
            self.known
                .get(r)
                .is_some_and(|v| (SCRATCH..SCRATCH_END).contains(&v))
        };
        let precious = (0..16).filter(|&r| pointer(r)).fold(0u16, |s, r| s | 1 << r);
        let own = if i.is_stack_instruction() { 1 << RSP } else { 0 };
        let lost = set & precious & !own;
        if lost != 0 && !self.rng.chance(1, if lost >> RSP & 1 != 0 { 40 } else { 7 }) {
            return None;
        }
        Some(item)
    }

    /// Puts what is done so far together, with flags defined for whoever reads them.
    pub fn finish(mut self, index: u64, patches: Vec<Patch>) -> Program {
        let room = CODE_SIZE - 0x200 - MOST_BYTES;
        let start = match self.rng.below(4) {
            0 => CODE + PAGE - self.rng.below(64),
            _ => CODE + 0x100 + self.rng.below(room),
        };
        let mut program = Program {
            index,
            mode: self.mode,
            start,
            items: std::mem::take(&mut self.items),
            before: self.before.clone(),
            patches,
        };
        loop {
            let layout = Layout::of(&program);
            let taint = taint::Taint::of(&program, &layout);
            if taint.readers.is_empty() {
                return program;
            }
            for &at in taint.readers.iter().rev() {
                let mut b = encode::Bytes::default();
                if taint.lacks_codes(at) && taint::reads_codes(&taint::decode(&program, &layout)[at]) {
                    // FXAM.
                    b.extend(&[0xd9, 0xe5]);
                } else {
                    // CMP of two registers.
                    let rm = 0xc0 | (self.rng.draw() as u8 & 0x3f);
                    let wide = self.mode == Mode::Long && self.rng.chance(1, 2);
                    if wide {
                        b.push(0x48 | self.rng.draw() as u8 & 5);
                    }
                    b.extend(&[0x38 | self.rng.draw() as u8 & 3, rm]);
                }
                program.items.insert(layout.places[at].item, Item::Plain(b));
            }
        }
    }
}

/// The most bytes of a program.
pub const MOST_BYTES: u64 = 0xd00;

/// A random state: three pointers at least, and a stack.
fn state(rng: &mut Rng, mode: Mode, weights: Weights, focus: &[u64]) -> Regs {
    use selector::*;
    let mut r = Regs::default();
    for v in &mut r.gpr {
        *v = match rng.below(4) {
            0 => rng.pick(focus) + rng.below(16) * 8,
            1 => rng.below(64),
            _ => values::integer(rng, 64),
        };
    }
    r.gpr[RSP as usize] =
        SCRATCH + STACK - rng.below(8) * 8 - if rng.chance(1, 24) { rng.below(8) } else { 0 };
    let f = rng.draw();
    r.rflags = rflags::ONE | rflags::IF | f & rflags::STATUS;
    if rng.chance(1, 12) {
        r.rflags |= rflags::ID;
    }
    r.selectors = [0, CODE64, DATA, 0, 0, 0];
    if mode != Mode::Long {
        r.selectors = [DATA, CODE32, DATA, DATA, DATA, DATA];
        r.gpr[..8].iter_mut().for_each(|r| *r &= 0xffff_ffff);
        r.gpr[8..].fill(0);
    } else if rng.chance(1, 3) {
        r.fs_base = rng.below(0x1000) * 8;
        r.gs_base = (rng.range(-0x1000, 0x1000) * 8) as u64;
    }
    let uses = |c: &[Class]| weights.iter().any(|w| c.contains(&w.0));
    for y in &mut r.ymm {
        let flavor = Flavor::any(rng);
        for q in y {
            *q = flavor.word(rng);
        }
    }
    let masks = if rng.chance(15, 16) {
        0x1f80
    } else {
        rng.draw() as u32 & 0x1f80
    };
    r.mxcsr = masks;
    if uses(&[Class::Sse, Class::Avx]) && rng.chance(1, 3) {
        // DAZ and FTZ together.
        let zeros = if rng.chance(1, 8) { 0x8040 } else { 0 };
        r.mxcsr |= zeros | (rng.below(4) as u32) << 13 | rng.draw() as u32 & 0x3f;
    }
    let f = &mut r.fpu;
    let unmasked = if rng.chance(15, 16) {
        0
    } else {
        rng.draw() as u16 & 0x3f
    };
    f.control = (0x7f & !unmasked) | rng.pick(&[3u16, 3, 3, 2, 0]) << 8 | (rng.below(8) as u16 / 6) << 10;
    f.tag = 0xffff;
    if uses(&[Class::X87, Class::Mmx]) {
        f.status = (rng.below(8) as u16) << 11;
        for n in 0..8 {
            (f.significand[n], f.sign_exponent[n]) = values::extended(rng);
        }
        let full = rng.draw() as u8 | rng.draw() as u8;
        f.tag = full_tag(full, &f.significand, &f.sign_exponent);
    }
    r
}
