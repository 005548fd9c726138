//! Exceptions: priorities, error codes, double faults, faults half-way (Intel SDM vol. 3A ch. 6).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, rflags};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// Linear pages without memory.
const ABSENT: u64 = 0x7000_0000_0000;

fn long(code: &[u8]) -> Machine {
    let m = Machine::long();
    m.write(CODE, code);
    m
}

/// Table 6-1: faults save the address of the instruction, traps of the next.
#[test]
fn faults_and_traps() {
    for (code, vector, length) in [
        (&[0xf6u8, 0xf1][..], DE, 0), // div cl, by zero
        (&[0x0f, 0x0b], UD, 0),
        (&[0xcc], BP, 1),
        (&[0xf1], DB, 1),
        (&[0xcd, 0x55], 0x55, 2),
        (&[0xcd, 0x0d], GP, 2), // INT 13 pushes no error code
    ] {
        let mut m = long(code);
        m.set_gate64(GP, KERNEL64, HANDLERS + 0x55 * 16, 0x8e, 0);
        let t = m.traps();
        let vector = if vector == GP { 0x55 } else { vector };
        assert_eq!((t.vector, t.rip), (vector, CODE + length), "{code:x?}");
        // §18.3.1.1: RF is set in the image of a fault only.
        assert_eq!(t.flags & rflags::RF != 0, length == 0, "{code:x?}");
    }
}

/// §6.15, interrupt 17: alignment is checked at CPL 3 with CR0.AM and EFLAGS.AC.
#[test]
fn alignment_check() {
    let accesses: [(&[u8], u64); 7] = [
        (&[0x66, 0x8b, 0x03], 1), // mov ax, [rbx]
        (&[0x8b, 0x03], 2),       // mov eax, [rbx]
        (&[0x48, 0x8b, 0x03], 4), // mov rax, [rbx]
        (&[0x48, 0x89, 0x03], 1), // mov [rbx], rax
        (&[0x01, 0x03], 3),       // add [rbx], eax
        (&[0xf3, 0x48, 0xa5], 4), // rep movsq
        (&[0x8a, 0x03], 0),       // mov al, [rbx]: never
    ];
    for (code, off) in accesses {
        for (am, ac, user) in [
            (true, true, true),
            (false, true, true),
            (true, false, true),
            (true, true, false),
        ] {
            let mut m = Machine::long();
            m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
            if user {
                m.user();
            }
            m.state.rip = USER_CODE;
            m.state.cr0 |= if am { cr0_bits::AM } else { 0 };
            m.state.rflags |= if ac { rflags::AC } else { 0 };
            m.set(Rbx, DATA + off);
            m.set(Rsi, DATA + off);
            m.set(Rdi, DATA + 0x100);
            m.set(Rcx, 2);
            m.write(USER_CODE, &[code, &[0xcd, 0x80]].concat());
            let t = m.traps();
            if am && ac && user && off != 0 {
                assert_eq!((t.vector, t.code, t.rip), (AC, Some(0), USER_CODE), "{code:x?}");
            } else {
                assert_eq!(t.vector, 0x80, "{code:x?} {am} {ac} {user}");
            }
        }
    }
    // The stack counts too.
    let mut m = Machine::long();
    m.user();
    m.state.cr0 |= cr0_bits::AM;
    m.state.rflags |= rflags::AC;
    m.set(Rsp, USER_STACK - 4);
    m.code(USER_CODE, |a| a.push(rax));
    assert_eq!(m.faults(AC, 0).rsp, USER_STACK - 4);
}

/// Table 6-5: which pairs make a double fault.
#[test]
fn double_faults() {
    // The first exception, how its delivery fails, what comes of it. Each gate is spoilt in turn.
    let absent_stack = |m: &Machine, v: u8| m.set_gate64(v, KERNEL64, HANDLERS + v as u64 * 16, 0x8e, 7);
    let not_present = |m: &Machine, v: u8| m.set_gate64(v, KERNEL64, HANDLERS + v as u64 * 16, 0x0e, 0);
    let machine = |code: &[u8]| {
        let m = long(code);
        m.write64(TSS + 28 + 7 * 8, ABSENT);
        m
    };
    let ud: &[u8] = &[0x0f, 0x0b];
    let gp: &[u8] = &[0xcd, 0x40]; // INT 40 with a bad gate
    let pf: &[u8] = &[0xa1, 0, 0, 0, 0, 0, 0x70, 0, 0]; // mov eax, [700000000000]
    let de: &[u8] = &[0xf6, 0xf1];
    // Benign, then anything: the second.
    let mut m = machine(ud);
    not_present(&m, UD);
    m.faults(NP, 6 << 3 | 3);
    let mut m = machine(ud);
    absent_stack(&m, UD);
    m.faults(PF, 2);
    // Contributory, then contributory: double fault.
    for first in [de, gp] {
        let mut m = machine(first);
        m.set_gate64(0x40, 0, 0, 0x8e, 0);
        not_present(&m, DE);
        not_present(&m, GP);
        m.faults(DF, 0);
    }
    // Contributory, then page fault: the page fault.
    let mut m = machine(de);
    absent_stack(&m, DE);
    m.faults(PF, 2);
    assert_eq!(m.state.cr2 & !0xfff, ABSENT - 0x1000);
    // Page fault, then page fault or contributory: double fault.
    let mut m = machine(pf);
    absent_stack(&m, PF);
    m.faults(DF, 0);
    assert_eq!(m.state.cr2 & !0xfff, ABSENT - 0x1000);
    let mut m = machine(pf);
    not_present(&m, PF);
    assert_eq!(m.faults(DF, 0).rip, CODE);
    assert_eq!(m.state.cr2, ABSENT);
    // A double fault that cannot be delivered: shutdown, and it stays that way.
    for spoil in [&absent_stack as &dyn Fn(&Machine, u8), &not_present] {
        let mut m = machine(pf);
        not_present(&m, PF);
        spoil(&m, DF);
        assert_eq!(m.run(), Stopped::Shutdown);
        assert_eq!(m.state.activity, donjon_x86::Activity::Shutdown);
        assert_eq!(m.resume(), Stopped::Shutdown);
    }
    let mut m = machine(ud);
    m.state.idtr.limit = 0;
    assert_eq!(m.run(), Stopped::Shutdown);
    // An interrupt is benign whatever its vector, and pushes no error code.
    let mut m = machine(&[0x90]);
    m.state.rflags |= rflags::IF;
    m.set_gate64(0x2e, KERNEL64, HANDLERS + 0x2e * 16, 0x8e, 7);
    m.apics[0].inject(0x2e);
    m.faults(PF, 2);
}

/// Vol. 2, REP: a fault leaves the registers as after the last whole iteration.
#[test]
fn faults_inside_repeated_instructions() {
    // (opcode, element size, DF, RSI, RDI, iterations before the fault, write)
    let edge = DATA + 0x1000;
    for (code, size, down, from, to, before, write) in [
        (&[0xf3u8, 0xaa][..], 1u64, false, 0u64, edge - 100, 100u64, true), // rep stosb
        (&[0xf3, 0x48, 0xab], 8, false, 0, edge - 80, 10, true),            // rep stosq
        (&[0xf3, 0xa4], 1, false, DATA - 0x800, edge - 5, 5, true),         // rep movsb, destination
        (&[0xf3, 0xa5], 4, false, edge - 40, DATA - 0x800, 10, false),      // rep movsd, source
        (&[0xf3, 0x48, 0xa5], 8, true, DATA - 0x400, edge + 0x1008, 2, true), // downwards
        (&[0xf3, 0xac], 1, false, edge - 3, 0, 3, false),                   // rep lodsb
        (&[0xf2, 0xae], 1, false, 0, edge - 9, 9, false),                   // repne scasb
        (&[0xf3, 0xa6], 1, false, edge - 7, DATA - 0x800, 7, false),        // repe cmpsb
    ] {
        let mut m = Machine::long();
        m.map(edge, edge); // not present
        m.write(CODE, code);
        m.write(DATA - 0x800, &[0; 0x800]);
        m.set(Rsi, from);
        m.set(Rdi, to);
        m.set(Rcx, 1000);
        m.set(Rax, 0x55);
        m.state.rflags |= if down { rflags::DF } else { 0 };
        let t = m.faults(PF, if write { 2 } else { 0 });
        assert_eq!(t.rip, CODE, "{code:x?}");
        assert_eq!(m.reg(Rcx), 1000 - before, "{code:x?}");
        let moved = if down {
            (before * size).wrapping_neg()
        } else {
            before * size
        };
        let (uses_si, uses_di) = (from != 0, to != 0);
        assert_eq!(
            m.reg(Rsi),
            from.wrapping_add(if uses_si { moved } else { 0 }),
            "{code:x?}"
        );
        assert_eq!(
            m.reg(Rdi),
            to.wrapping_add(if uses_di { moved } else { 0 }),
            "{code:x?}"
        );
        let at = if write {
            m.reg(Rdi)
        } else if uses_si && m.reg(Rsi) & 0xfff == 0 {
            m.reg(Rsi)
        } else {
            m.reg(Rdi)
        };
        assert_eq!(m.state.cr2, at, "{code:x?}");
    }
}

/// Vol. 2A, LOCK: only some instructions, and only with a memory destination.
#[test]
fn lock_prefixes() {
    let refused: [&[u8]; 14] = [
        &[0x90],
        &[0x89, 0x03],       // mov [rbx], eax
        &[0x01, 0xc3],       // add ebx, eax
        &[0x03, 0x03],       // add eax, [rbx]
        &[0x39, 0x03],       // cmp [rbx], eax
        &[0x0f, 0xa3, 0x03], // bt [rbx], eax
        &[0x0f, 0xab, 0xc3], // bts ebx, eax
        &[0x87, 0xc3],       // xchg ebx, eax
        &[0xc1, 0x23, 0x01], // shl [rbx], 1
        &[0xf4],             // hlt
        &[0xff, 0x33],       // push [rbx]
        &[0x0f, 0xc1, 0xc3], // xadd ebx, eax
        &[0xa4],             // movsb
        &[0xf6, 0x03, 0x01], // test [rbx], 1
    ];
    for code in refused {
        let mut m = long(&[&[0xf0], code].concat());
        m.set(Rbx, DATA);
        assert_eq!(m.faults(UD, 0).rip, CODE, "{code:x?}");
    }
    let allowed: [&[u8]; 16] = [
        &[0x01, 0x03],
        &[0x11, 0x03],
        &[0x21, 0x03],
        &[0x09, 0x03],
        &[0x29, 0x03],
        &[0x19, 0x03],
        &[0x31, 0x03],
        &[0xff, 0x03],       // inc
        &[0xff, 0x0b],       // dec
        &[0xf7, 0x13],       // not
        &[0xf7, 0x1b],       // neg
        &[0x0f, 0xab, 0x03], // bts
        &[0x0f, 0xc1, 0x03], // xadd
        &[0x0f, 0xb1, 0x03], // cmpxchg
        &[0x0f, 0xc7, 0x0b], // cmpxchg8b
        &[0x87, 0x03],       // xchg
    ];
    for code in allowed {
        let mut m = long(&[&[0xf0], code, &[0xf4]].concat());
        m.set(Rbx, DATA);
        m.halts();
    }
}

/// Vol. 2A §2.3.11, vol. 3A §6.15: an instruction longer than 15 bytes is #GP(0).
#[test]
fn overlong_instructions() {
    for prefixes in 10..20 {
        let mut code = vec![0x66; prefixes];
        code.extend([0x90, 0xf4]);
        let mut m = long(&code);
        if prefixes <= 14 {
            m.halts()
        } else {
            assert_eq!(m.faults(GP, 0).rip, CODE)
        }
    }
    // Too long with the sixteenth byte on a missing page: #GP, as it is never needed.
    let mut m = Machine::long();
    m.map(DATA + 0x1000, 0);
    m.write(DATA + 0x1000 - 15, &[0x66; 15]);
    m.state.rip = DATA + 0x1000 - 15;
    m.faults(GP, 0);
    // Fewer bytes left than that: the page fault.
    m.write(DATA + 0x1000 - 14, &[0x66; 14]);
    m.state.rip = DATA + 0x1000 - 14;
    m.state.gpr[4] = STACK;
    m.faults(PF, 0x10);
    assert_eq!(m.state.cr2, DATA + 0x1000);
}

/// §2.5, §14.1: #NM and #UD of x87, MMX, SSE and AVX by CR0 and CR4.
#[test]
fn coprocessor_availability() {
    let (em, ts, mp) = (cr0_bits::EM, cr0_bits::TS, cr0_bits::MP);
    let x87: &[u8] = &[0xd9, 0xe8]; // fld1
    let wait: &[u8] = &[0x9b];
    let mmx: &[u8] = &[0x0f, 0xef, 0xc0]; // pxor mm0, mm0
    let sse: &[u8] = &[0x0f, 0x57, 0xc0]; // xorps xmm0, xmm0
    let avx: &[u8] = &[0xc5, 0xfc, 0x57, 0xc0]; // vxorps ymm0, ymm0, ymm0
    let fences: &[u8] = &[0x0f, 0xae, 0xf0]; // mfence
    // (code, CR0 bits set, CR4 bits cleared, XCR0, vector)
    for (code, cr0_set, cr4_clear, xcr0, vector) in [
        (x87, 0, 0, 7, None),
        (x87, ts, 0, 7, Some(NM)),
        (x87, em, 0, 7, Some(NM)),
        (wait, ts | mp, 0, 7, Some(NM)),
        (wait, ts, 0, 7, None),
        (wait, em | mp, 0, 7, None),
        (mmx, ts, 0, 7, Some(NM)),
        (mmx, em, 0, 7, Some(UD)),
        (sse, ts, 0, 7, Some(NM)),
        (sse, em, 0, 7, Some(UD)),
        (sse, em | ts, 0, 7, Some(UD)),
        (sse, 0, cr4_bits::OSFXSR, 7, Some(UD)),
        (avx, 0, 0, 7, None),
        (avx, ts, 0, 7, Some(NM)),
        (avx, em, 0, 7, None),
        (avx, 0, cr4_bits::OSFXSR, 7, None),
        (avx, 0, cr4_bits::OSXSAVE, 7, Some(UD)),
        (avx, 0, 0, 3, Some(UD)),
        (fences, em | ts, cr4_bits::OSFXSR, 7, None),
    ] {
        let mut m = long(&[code, &[0xf4]].concat());
        m.state.cr0 = m.state.cr0 & !mp | cr0_set;
        m.state.cr4 &= !cr4_clear;
        m.state.xcr0 = xcr0;
        match vector {
            None => m.halts(),
            Some(v) => assert_eq!(m.faults(v, 0).rip, CODE, "{code:x?} {cr0_set:x}"),
        }
    }
    // §6.15, interrupt 19: #XM, or #UD without CR4.OSXMMEXCPT.
    for (on, vector) in [(true, XM), (false, UD)] {
        let mut m = long(&[0xf3, 0x0f, 0x5e, 0xc1]); // divss xmm0, xmm1: 0/0
        m.state.mxcsr = 0x1f00;
        if !on {
            m.state.cr4 &= !cr4_bits::OSXMMEXCPT;
        }
        m.faults(vector, 0);
        assert_eq!(m.state.mxcsr & 0x3f, 1);
    }
    // Interrupt 16: a pending x87 exception at the next waiting instruction.
    let mut m = Machine::long();
    (m.state.fpu.control, m.state.fpu.tag) = (0x37b, 0xffff); // empty, zero divide unmasked
    let c = m.code(CODE, |a| {
        a.fld1()?;
        a.fldz()?;
        a.fdivp(st1, st0)?;
        a.nop()?;
        a.fld1()
    });
    assert_eq!(m.faults(MF, 0).rip, c.at[4]);
}

/// Vol. 2: encodings without meaning in 64-bit mode, and those never defined.
#[test]
fn undefined_encodings() {
    let encodings: [&[u8]; 16] = [
        &[0x0f, 0x0b],
        &[0x0f, 0xff, 0xc0],
        &[0x0f, 0xb9, 0xc0],
        &[0x06],
        &[0x27],
        &[0x60],
        &[0x62, 0xc0],
        &[0x9a, 0, 0, 0, 0, 0, 0],
        &[0xc4, 0x00],
        &[0xce],
        &[0xd4, 0x0a],
        &[0xd6],
        &[0xea, 0, 0, 0, 0, 0, 0],
        &[0x8e, 0xc8],       // mov cs, eax
        &[0x0f, 0x01, 0xc1], // vmcall
        &[0x0f, 0x01, 0xc8], // monitor: CPUID does not list it
    ];
    for e in encodings {
        assert_eq!(long(e).faults(UD, 0).rip, CODE, "{e:x?}");
    }
    // #UD comes before #GP for privilege.
    let mut m = Machine::long();
    m.user();
    m.write(USER_CODE, &[0x0f, 0x01, 0xff]);
    m.faults(UD, 0);
}

/// §6.9: the trap of one instruction before the fault of the next, the fetch before the decoding.
#[test]
fn priorities() {
    // Single-step trap before an interrupt that is already waiting.
    let mut m = long(&[0x9d, 0x90, 0x90]); // popfq; nop
    m.write64(STACK - 8, 2 | rflags::TF | rflags::IF);
    m.set(Rsp, STACK - 8);
    m.state.rflags |= rflags::TF;
    m.apics[0].inject(0x40);
    let t = m.faults(DB, 0);
    assert_eq!(t.rip, CODE + 1);
    // NMI before a maskable interrupt.
    let mut m = long(&[0x90]);
    m.state.rflags |= rflags::IF;
    m.apics[0].inject(0x40);
    m.attention[0].raise(donjon_engine::Attention::NMI);
    m.faults(NMI, 0);
    assert_eq!(m.apics[0].queue.lock().unwrap().len(), 1);
    // The code segment's limit before a page fault on what lies beyond.
    let mut m = Machine::protected();
    m.set_descriptor(SPARE, descriptor(0, 0x1_0fff, 0x9b, 4));
    m.load(Seg::Cs, SPARE);
    m.write(0x1_0fff, &[0x90, 0x90]);
    m.state.rip = 0x1_0fff;
    assert_eq!(m.faults(GP, 0).rip, 0x1_1000);
}
