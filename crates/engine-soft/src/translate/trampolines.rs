//! The ways into translated code, out of it, and to the functions it calls.

use super::asm::host::*;
use super::asm::{Asm, Map, Mem, NARROW, Rm, WIDE, alu, cc};
use super::frame::{live, offset};
use super::registers::{HOST, SPILLED, T, W};

/// Arena offsets of the trampolines.
#[derive(Clone, Copy, Default)]
pub struct Trampolines {
    /// C function of a frame and the address of code to run.
    pub enter: usize,
    /// Where an exit jumps, its number in EAX and the status flags in the frame.
    pub exit: usize,
    /// Called with a linear address in [`W`] and a request in EAX; returns ZF clear if the page is now in
    /// its table. Destroys [`T`], [`W`] and flags.
    pub fill: usize,
    /// Called to have the vector registers in host registers; returns ZF set if that is not possible, with
    /// the bits of [`live`] needed in EAX. Destroys [`T`], [`W`] and flags.
    pub load_vectors: usize,
    /// Called with the number of a [`super::step::Step`] in EAX and the status flags in the frame. The
    /// interpreter runs it; comes back with the flags in the frame, goes elsewhere, or leaves.
    pub step: usize,
}

impl Trampolines {
    /// Name, place and size of each; `end` is where the last one ends.
    pub fn named(&self, end: usize) -> Vec<(&'static str, usize, usize)> {
        let mut all = [
            ("enter", self.enter),
            ("exit", self.exit),
            ("fill", self.fill),
            ("load-vectors", self.load_vectors),
            ("step", self.step),
        ];
        all.sort_by_key(|t| t.1);
        let ends: Vec<_> = all.iter().skip(1).map(|t| t.1).chain([end]).collect();
        let sized = all.iter().zip(ends);
        sized.map(|((name, at), end)| (*name, *at, end - at)).collect()
    }
}

const CALLEE_SAVED: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];

/// The trampolines, for arena offset zero.
pub fn emit() -> (Vec<u8>, Trampolines) {
    let mut a = Asm::new(0, 0);
    let (exit, left) = exit(&mut a);
    let t = Trampolines {
        enter: enter(&mut a),
        exit,
        fill: fill(&mut a),
        load_vectors: load_vectors(&mut a),
        step: step(&mut a, left),
    };
    let [code, _] = a.finish();
    (code, t)
}

fn frame(disp: i32) -> Mem {
    Mem::at(RSP, disp)
}

fn enter(a: &mut Asm) -> usize {
    let at = a.here();
    for r in CALLEE_SAVED {
        a.push(r);
    }
    a.store(Mem::at(RDI, offset::HOST_RSP), RSP);
    a.mov(RSP, RDI);
    a.store(frame(offset::SCRATCH), RSI);
    load_registers(a);
    a.jmp_rm(Rm::Mem(frame(offset::SCRATCH)));
    at
}

/// Loads the guest's registers. Destroys [`T`] and [`W`].
fn load_registers(a: &mut Asm) {
    a.load(T, frame(offset::REGS));
    for (n, r) in SPILLED {
        a.load(W, Mem::at(T, n as i32 * 8));
        a.store(frame(r), W);
    }
    for (guest, host) in HOST.iter().enumerate() {
        if let Some(host) = host {
            a.load(*host, Mem::at(T, guest as i32 * 8));
        }
    }
}

/// Stores the guest's registers. Destroys [`T`], [`W`] and flags.
fn store_registers(a: &mut Asm) {
    a.load(T, frame(offset::REGS));
    for (guest, host) in HOST.iter().enumerate() {
        if let Some(host) = host {
            a.store(Mem::at(T, guest as i32 * 8), *host);
        }
    }
    for (n, r) in SPILLED {
        a.load(W, frame(r));
        a.store(Mem::at(T, n as i32 * 8), W);
    }
    let (plain, dead) = (a.label(), a.label());
    test_live(a, RSP, live::VECTORS);
    a.jcc(cc::E, plain);
    save_vectors(a, RSP, plain);
    a.bind(plain);
    test_live(a, RSP, live::X87);
    a.jcc(cc::E, dead);
    a.legacy(NARROW, Map::One, 0xdd, 6, Rm::Mem(frame(offset::X87))); // FNSAVE
    a.store32_imm(frame(offset::X87_SAVED), 1);
    a.bind(dead);
    a.store32_imm(frame(offset::LIVE), 0);
}

fn exit(a: &mut Asm) -> (usize, usize) {
    let at = a.here();
    a.store32(frame(offset::EXIT), T);
    store_registers(a);
    let left = a.here();
    a.load(RSP, frame(offset::HOST_RSP));
    for r in CALLEE_SAVED.iter().rev() {
        a.pop(*r);
    }
    a.bytes(&[0xc3]);
    (at, left)
}

fn step(a: &mut Asm, left: usize) -> usize {
    let at = a.here();
    a.pop(W);
    a.store(frame(offset::SCRATCH), W);
    a.store32(frame(offset::EXIT), T);
    store_registers(a);
    a.mov(RDI, RSP);
    a.load(RSI, frame(offset::SCRATCH));
    a.mov(RBX, RSP);
    a.load(RSP, frame(offset::HOST_RSP));
    a.alu_imm(WIDE, alu::AND, Rm::Reg(RSP), -16);
    a.call_rm(Rm::Mem(Mem::at(RBX, offset::STEP)));
    a.mov(RSP, RBX);
    let go = a.label();
    a.legacy(WIDE, Map::One, 0x85, T, Rm::Reg(T));
    a.jcc(cc::NE, go);
    a.jmp(left);
    a.bind(go);
    a.store(frame(offset::SCRATCH), T);
    load_registers(a);
    a.load(T, frame(offset::TARGET));
    a.jmp_rm(Rm::Mem(frame(offset::SCRATCH)));
    at
}

/// Stores the live vector registers, with the frame at `[base]`, and restores the host's MXCSR. Goes on
/// at `done`. Destroys [`T`].
fn save_vectors(a: &mut Asm, base: u8, done: super::asm::Label) {
    let sse = a.label();
    a.load(T, Mem::at(base, offset::YMM));
    a.legacy(NARROW, Map::Two, 0xae, 3, Rm::Mem(Mem::at(base, offset::MXCSR)));
    a.legacy(
        NARROW,
        Map::Two,
        0xae,
        2,
        Rm::Mem(Mem::at(base, offset::HOST_MXCSR)),
    );
    test_live(a, base, live::AVX);
    a.jcc(cc::E, sse);
    for n in 0..16 {
        // VMOVDQU m256, ymm
        a.vex(
            2,
            false,
            true,
            Map::Two,
            0x7f,
            n,
            0,
            Rm::Mem(Mem::at(T, n as i32 * 32)),
        );
    }
    a.bytes(&[0xc5, 0xf8, 0x77]); // VZEROUPPER
    a.jmp_label(done);
    a.bind(sse);
    for n in 0..16 {
        // MOVUPS m128, xmm
        a.legacy(NARROW, Map::Two, 0x11, n, Rm::Mem(Mem::at(T, n as i32 * 32)));
    }
}

/// Loads the vector registers that [`live`] says, and the guest's MXCSR. Destroys [`T`] and flags.
///
/// A legacy instruction leaves the upper half of its register alone, and so waits for whoever wrote that last,
/// unless the processor knows that all upper halves are zero. Loading zeroes does not tell it; VZEROUPPER does.
fn restore_vectors(a: &mut Asm, base: u8) {
    let (sse, done) = (a.label(), a.label());
    a.load(T, Mem::at(base, offset::YMM));
    a.legacy(NARROW, Map::Two, 0xae, 2, Rm::Mem(Mem::at(base, offset::MXCSR)));
    test_live(a, base, live::AVX);
    a.jcc(cc::E, sse);
    let register = |n: u8| Rm::Mem(Mem::at(T, n as i32 * 32));
    a.vex(2, false, true, Map::Two, 0x6f, 0, 0, register(0));
    for n in 1..16 {
        a.vex(0, false, true, Map::Two, 0x56, 0, 0, register(n)); // VORPS ymm0, ymm0, m256
    }
    a.vex(1, false, true, Map::T3A, 0x39, 0, 0, Rm::Reg(0)); // VEXTRACTI128 xmm0, ymm0, 1
    a.bytes(&[1]);
    a.vex(1, false, false, Map::T38, 0x17, 0, 0, Rm::Reg(0)); // VPTEST xmm0, xmm0
    a.bytes(&[0xc5, 0xf8, 0x77]); // VZEROUPPER
    a.jcc(cc::E, sse);
    for n in 0..16 {
        a.vex(
            2,
            false,
            true,
            Map::Two,
            0x6f,
            n,
            0,
            Rm::Mem(Mem::at(T, n as i32 * 32)),
        );
    }
    a.jmp_label(done);
    a.bind(sse);
    for n in 0..16 {
        a.legacy(NARROW, Map::Two, 0x10, n, Rm::Mem(Mem::at(T, n as i32 * 32)));
    }
    a.bind(done);
}

fn test_live(a: &mut Asm, base: u8, bits: u8) {
    a.legacy(NARROW, Map::One, 0xf6, 0, Rm::Mem(Mem::at(base, offset::LIVE)));
    a.bytes(&[bits]);
}

fn fill(a: &mut Asm) -> usize {
    const SAVED: [u8; 8] = [RCX, RDX, RSI, RDI, R8, 9, 10, R11];
    let at = a.here();
    for r in SAVED {
        a.push(r);
    }
    // The return address and what was just pushed lie below the frame.
    a.lea(RDI, frame(8 + 8 * SAVED.len() as i32));
    a.mov(RSI, W);
    a.mov32(RDX, T);
    a.push(RBX);
    a.mov(RBX, RDI);
    a.mov(W, RSP);
    let (clean, saved) = (a.label(), a.label());
    test_live(a, RBX, live::VECTORS);
    a.jcc(cc::E, clean);
    save_vectors(a, RBX, saved);
    a.bind(saved);
    a.bind(clean);
    a.load(RSP, Mem::at(RBX, offset::HOST_RSP));
    a.alu_imm(WIDE, alu::AND, Rm::Reg(RSP), -16);
    a.call_rm(Rm::Mem(Mem::at(RBX, offset::FILL)));
    // R15, which is W, is callee-saved.
    a.mov(RSP, W);
    a.mov32(W, T);
    let clean = a.label();
    test_live(a, RBX, live::VECTORS);
    a.jcc(cc::E, clean);
    restore_vectors(a, RBX);
    a.bind(clean);
    a.pop(RBX);
    for r in SAVED.iter().rev() {
        a.pop(*r);
    }
    a.legacy(NARROW, Map::One, 0x85, W, Rm::Reg(W));
    a.bytes(&[0xc3]);
    at
}

fn load_vectors(a: &mut Asm) -> usize {
    let at = a.here();
    // Called: the frame is one return address higher.
    let up = |disp| frame(disp + 8);
    let refuse = a.label();
    let ready = a.label();
    a.mov32(W, T);
    a.alu(NARROW, alu::AND, W, Rm::Mem(up(offset::ALLOWED)));
    a.jcc(cc::E, refuse);
    // They may be live for less than this unit needs.
    a.lea(W, up(0));
    test_live(a, W, live::VECTORS);
    a.jcc(cc::NE, ready);
    a.load32(T, up(offset::ALLOWED));
    a.alu_imm(NARROW, alu::AND, Rm::Reg(T), live::VECTORS as i32);
    a.legacy(NARROW, Map::One, 0x09, T, Rm::Mem(up(offset::LIVE)));
    restore_vectors(a, W);
    a.bind(ready);
    a.alu_imm(NARROW, alu::OR, Rm::Reg(W), 1);
    a.bind(refuse);
    a.bytes(&[0xc3]);
    at
}
