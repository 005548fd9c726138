//! Transfers through gates in 32-bit protected mode, and the way back (Intel SDM vol. 3A §5.8, §6.12).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

const GATE: u16 = SPARE;
const TARGET: u16 = SPARE + 8;

/// User code that calls through a gate to `TARGET`, code of the given access byte.
fn with(gate_: u64, target: u64) -> Machine {
    let mut m = Machine::protected();
    m.set_descriptor(GATE, gate_);
    m.set_descriptor(TARGET, target);
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.user();
    m
}

const RING0: u64 = 0x00cf_9b00_0000_ffff;
const RING3: u64 = 0x00cf_fb00_0000_ffff;

/// §5.8.5: a call inwards switches to the stack in the TSS and copies parameters.
#[test]
fn a_call_gate_switches_stacks_and_copies_parameters() {
    for (kind, size) in [(0xec, 4u64), (0xe4, 2)] {
        // A 16-bit gate has a 16-bit offset.
        let entry = if size == 2 { 0x7c00 } else { CODE };
        let mut m = with(gate(TARGET, entry, kind, 2), RING0);
        let c = m.code(USER_CODE, |a| {
            a.push(0x1111)?;
            a.push(0x2222)?;
            a.call_far(GATE | 3, 0)
        });
        m.code(entry, |a| a.hlt());
        m.halts();
        assert_eq!(
            (m.seg(Seg::Cs).selector, m.seg(Seg::Ss).selector),
            (TARGET, KERNEL_DATA)
        );
        assert_eq!(m.reg(Rsp), STACK0 - 6 * size);
        let frame: Vec<u64> = (0..6)
            .map(|n| m.read(STACK0 - 6 * size + n * size, size as usize))
            .collect();
        let cut = |v: u64| if size == 2 { v & 0xffff } else { v };
        // A 16-bit gate copies words: the two halves of the last parameter.
        let parameters = if size == 4 { [0x2222, 0x1111] } else { [0x2222, 0] };
        let want = [
            cut(c.end),
            USER32 as u64,
            parameters[0],
            parameters[1],
            cut(USER_STACK - 8),
            USER_DATA as u64,
        ];
        assert_eq!(frame, want);
    }
}

/// §5.8.6: a far return outwards takes the outer stack, drops the parameters on both, and makes data
/// segments null that the outer level may not use.
#[test]
fn a_far_return_outwards() {
    let mut m = with(gate(TARGET, CODE, 0xec, 1), RING0);
    m.set_descriptor(TARGET + 8, descriptor(0, 0xf_ffff, 0x9f, 0xc));
    m.code(USER_CODE, |a| {
        a.push(0x1111)?;
        a.call_far(GATE, 0)?;
        a.int(0x80)
    });
    m.code(CODE, |a| {
        a.mov(eax, KERNEL_DATA as u32)?;
        a.mov(ds, ax)?;
        a.mov(eax, USER_DATA as u32)?;
        a.mov(es, ax)?;
        a.mov(eax, TARGET as u32 + 8)?;
        a.mov(fs, ax)?; // conforming code may stay
        a.mov(eax, TARGET as u32)?;
        a.mov(gs, ax)?;
        a.db(&[0xca, 4, 0]) // retf 4
    });
    let t = m.traps();
    assert_eq!(
        (t.vector, t.cs, t.ss, t.rsp),
        (0x80, USER32, USER_DATA, USER_STACK)
    );
    let selectors = [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs].map(|n| m.seg(n).selector);
    assert_eq!(selectors, [USER_DATA, 0, TARGET + 8, 0]);
    assert!(m.seg(Seg::Ds).attributes.unusable() && m.seg(Seg::Gs).attributes.unusable());
}

/// §5.8.4: privilege of gate and target.
#[test]
fn privilege_of_call_gates() {
    // (gate access, gate RPL, target, call, fault)
    let conforming: u64 = 0x00cf_9f00_0000_ffff;
    for (access, rpl, target, call, want) in [
        (0xec, 3, RING0, true, None),
        (0xec, 3, RING3, true, None),
        (0xec, 3, conforming, true, None),
        (0xec, 3, RING0, false, Some((GP, TARGET))),
        (0xec, 3, RING3, false, None),
        (0xec, 3, conforming, false, None),
        (0x8c, 3, RING0, true, Some((GP, GATE))),
        (0xcc, 3, RING0, true, Some((GP, GATE))),
        (0x6c, 3, RING0, true, Some((NP, GATE))),
        (0xec, 3, 0x00cf_1b00_0000_ffff, true, Some((NP, TARGET))),
        (0xec, 3, 0x00cf_9300_0000_ffff, true, Some((GP, TARGET))),
        (0xee, 3, RING0, true, Some((GP, GATE))),
    ] {
        let mut m = with(gate(TARGET, CODE, access, 0), target);
        m.code(USER_CODE, |a| {
            if call {
                a.call_far(GATE | rpl, 0)
            } else {
                a.jmp_far(GATE | rpl, 0)
            }
        });
        m.code(CODE, |a| a.int(0x80));
        let t = m.traps();
        match want {
            None => {
                let cpl = if target == RING0 && call { 0 } else { 3 };
                assert_eq!(
                    (t.vector, t.cs),
                    (0x80, TARGET | cpl),
                    "{access:x} {target:x} {call}"
                );
            }
            Some((v, e)) => assert_eq!(
                (t.vector, t.code),
                (v, Some(e as u64)),
                "{access:x} {target:x} {call}"
            ),
        }
    }
    // From CPL 0 a gate's RPL counts against its DPL.
    let mut m = with(gate(TARGET, CODE, 0x8c, 0), RING0);
    m.load(Seg::Cs, KERNEL32);
    m.load(Seg::Ss, KERNEL_DATA);
    m.code(USER_CODE, |a| a.call_far(GATE | 1, 0));
    m.faults(GP, GATE as u64);
    // A null target.
    let mut m = with(gate(0, CODE, 0xec, 0), RING0);
    m.code(USER_CODE, |a| a.call_far(GATE | 3, 0));
    m.faults(GP, 0);
    // Inside the target's limit?
    let mut m = with(gate(TARGET, CODE, 0xec, 0), descriptor(0, 0xffff, 0x9b, 4));
    m.code(USER_CODE, |a| a.call_far(GATE | 3, 0));
    m.faults(GP, 0);
}

/// §6.15, #TS and #SS: a bad inner stack.
#[test]
fn bad_inner_stacks() {
    let stack = TARGET + 8;
    for (selector, d, vector, error) in [
        (0, 0, TS, 0),
        (stack | 3, descriptor(0, 0xf_ffff, 0x93, 0xc), TS, stack),
        (stack, descriptor(0, 0xf_ffff, 0xf3, 0xc), TS, stack),
        (stack, descriptor(0, 0xf_ffff, 0x91, 0xc), TS, stack),
        (stack, descriptor(0, 0xf_ffff, 0x13, 0xc), SS, stack),
        (stack, descriptor(0, 0x100, 0x93, 4), SS, stack),
        (0x200, 0, TS, 0x200),
    ] {
        let mut m = with(gate(TARGET, CODE, 0xec, 0), RING0);
        m.set_descriptor(stack, d);
        m.write16(TSS + 8, selector);
        // The handlers are conforming code and stay on the outer stack; nothing follows them.
        m.set_descriptor(stack + 8, descriptor(0, 0xf_ffff, 0x9f, 0xc));
        for v in 0..32 {
            m.set_gate(v, 0);
        }
        for v in [TS, SS] {
            m.set_gate(v, gate(stack + 8, HANDLERS + v as u64 * 16, 0x8e, 0));
        }
        m.code(USER_CODE, |a| a.call_far(GATE | 3, 0));
        assert_eq!(m.run(), Stopped::Shutdown);
        let at = USER_STACK - 16;
        assert_eq!(
            (m.state.rip, m.reg(Rsp)),
            (HANDLERS + vector as u64 * 16, at),
            "{selector:x} {d:x}"
        );
        assert_eq!(
            (m.read16(at), m.read32(at + 4)),
            (error, USER_CODE as u32),
            "{selector:x} {d:x}"
        );
    }
    // A TSS too short to hold the stack.
    let mut m = with(gate(TARGET, CODE, 0xec, 0), RING0);
    m.state.tr.limit = 8;
    m.code(USER_CODE, |a| a.call_far(GATE | 3, 0));
    // #TS cannot be delivered inwards either: double fault, shutdown.
    assert_eq!(m.run(), Stopped::Shutdown);
}

/// §6.12.1: interrupt gates clear IF, trap gates do not; both clear TF, NT, RF.
#[test]
fn interrupt_and_trap_gates() {
    for (access, clears) in [(0xee, true), (0xef, false)] {
        let mut m = Machine::protected();
        m.user();
        m.state.rflags |= rflags::IF | rflags::NT | rflags::CF;
        m.set_gate(0x40, gate(KERNEL32, HANDLERS + 0x40 * 16, access, 0));
        let c = m.code(USER_CODE, |a| a.int(0x40));
        let t = m.traps();
        assert_eq!((t.rip, t.cs, t.ss, t.rsp), (c.end, USER32, USER_DATA, USER_STACK));
        assert_eq!(t.flags, 2 | rflags::IF | rflags::NT | rflags::CF);
        let want = 2 | rflags::CF | if clears { 0 } else { rflags::IF };
        assert_eq!(m.state.rflags, want);
        assert_eq!(m.reg(Rsp), STACK0 - 20);
    }
}

/// §6.12.1.2: software interrupts need CPL <= gate DPL; exceptions and external interrupts do not.
#[test]
fn privilege_of_interrupt_gates() {
    for (code, error) in [
        (&[0xcdu8, 0x40][..], 0x202),
        (&[0xcc], 0x1a),
        (&[0xcd, 0x03], 0x1a),
    ] {
        let mut m = Machine::protected();
        m.user();
        m.write(USER_CODE, code);
        assert_eq!(m.faults(GP, error).rip, USER_CODE);
    }
    let mut m = Machine::protected();
    m.user();
    m.write(USER_CODE, &[0xf1]); // int1 asks nobody
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, t.flags & rflags::RF), (USER_CODE + 1, 0));
    let mut m = Machine::protected();
    m.user();
    m.write(USER_CODE, &[0x0f, 0x0b]);
    let t = m.faults(UD, 0);
    assert_eq!((t.rip, t.flags & rflags::RF), (USER_CODE, rflags::RF));
}

/// §6.13: error codes of gates: the vector and IDT, with EXT unless a software interrupt asked for them.
#[test]
fn error_codes_of_bad_gates() {
    for (entry, vector, error) in [
        (gate(KERNEL32, HANDLERS, 0x6e, 0), NP, 0x202),
        (gate(KERNEL32, HANDLERS, 0xe0, 0), GP, 0x202),
        (gate(KERNEL32, HANDLERS, 0xec, 0), GP, 0x202),
        (gate(0, HANDLERS, 0xee, 0), GP, 0),
        (gate(KERNEL_DATA, HANDLERS, 0xee, 0), GP, KERNEL_DATA as u64),
        (gate(USER32, HANDLERS, 0xee, 0), GP, USER32 as u64 & !3),
        (gate(0x200, HANDLERS, 0xee, 0), GP, 0x200),
    ] {
        for external in [false, true] {
            let mut m = Machine::protected();
            m.set_gate(0x40, entry);
            m.state.rflags |= rflags::IF;
            m.code(CODE, |a| if external { a.nop() } else { a.int(0x40) });
            if external {
                m.apics[0].inject(0x40);
            }
            assert_eq!(m.faults(vector, error | external as u64).rip, CODE, "{entry:x}");
        }
    }
    // Beyond the table.
    let mut m = Machine::protected();
    m.state.idtr.limit = 0x1ff;
    m.code(CODE, |a| a.int(0x40));
    m.faults(GP, 0x202);
    // INT1 counts as external (§6.13).
    let mut m = Machine::protected();
    m.set_gate(DB, gate(KERNEL32, HANDLERS, 0x6e, 0));
    m.write(CODE, &[0xf1]);
    m.faults(NP, 1 << 3 | 3);
}

/// §6.12: a 16-bit gate pushes words.
#[test]
fn sixteen_bit_interrupt_gates() {
    let mut m = Machine::protected();
    m.state.rflags |= rflags::CF;
    m.set_gate(GP, gate(KERNEL32, 0x7000, 0x86, 0));
    m.write(0x7000, &[0xf4]);
    m.code(0x7100, |a| a.int(0x40));
    m.set_gate(0x40, 0);
    m.state.rip = 0x7100;
    m.halts();
    assert_eq!(m.reg(Rsp), STACK - 8);
    let frame: Vec<u16> = (0..4).map(|n| m.read16(STACK - 8 + n * 2)).collect();
    assert_eq!(frame, [0x202, 0x7100, KERNEL32, 3]);
}

/// Vol. 2A, IRET: to an outer level, same level, and what it refuses.
#[test]
fn iret_in_protected_mode() {
    let outward = |m: &mut Machine, frame: [u32; 5]| {
        m.code(CODE, |a| {
            for v in frame.iter().rev() {
                a.push(*v as i32)?;
            }
            a.iretd()
        })
    };
    let mut m = Machine::protected();
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.code(USER_CODE, |a| a.int(0x80));
    outward(
        &mut m,
        [
            USER_CODE as u32,
            USER32 as u32,
            0x3ed7,
            USER_STACK as u32,
            USER_DATA as u32,
        ],
    );
    let t = m.traps();
    assert_eq!(
        (t.vector, t.cs, t.rsp, t.flags),
        (0x80, USER32, USER_STACK, 0x3ed7)
    );
    assert_eq!(m.seg(Seg::Ds).selector, 0, "kernel data is not for user code");
    for (frame, error) in [
        ([USER_CODE as u32, 0, 2, 0, 0], 0),
        ([USER_CODE as u32, KERNEL_DATA as u32, 2, 0, 0], KERNEL_DATA),
        ([USER_CODE as u32, USER32 as u32 & !3, 2, 0, 0], USER32 & !3),
        ([USER_CODE as u32, KERNEL32 as u32 | 3, 2, 0, 0], KERNEL32),
        ([USER_CODE as u32, USER32 as u32, 2, 0, 0], 0),
        (
            [USER_CODE as u32, USER32 as u32, 2, 0, KERNEL_DATA as u32],
            KERNEL_DATA,
        ),
        (
            [USER_CODE as u32, USER32 as u32, 2, 0, USER32 as u32],
            USER32 & !3,
        ),
        ([USER_CODE as u32, 0x200, 2, 0, 0], 0x200),
    ] {
        let mut m = Machine::protected();
        let c = outward(&mut m, frame);
        let t = m.faults(GP, error as u64);
        assert_eq!((t.rip, m.reg(Rsp)), (c.at[5], STACK - 20 - 16), "{frame:x?}");
    }
    // From CPL 3 neither IOPL nor, with IOPL 0, IF change.
    let mut m = Machine::protected();
    m.user();
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.code(USER_CODE + 0x100, |a| a.int(0x80));
    m.code(USER_CODE, |a| {
        a.push(0x3ed7)?;
        a.push(USER32 as i32)?;
        a.push(USER_CODE as i32 + 0x100)?;
        a.iretd()
    });
    assert_eq!(m.traps().flags, 0x3ed7 & !(rflags::IOPL | rflags::IF));
}

/// §6.12.1: inner stacks of 16 bits wrap at 64 KiB.
#[test]
fn an_interrupt_to_a_sixteen_bit_stack() {
    let mut m = Machine::protected();
    m.user();
    m.set_descriptor(SPARE, descriptor(0x5_0000, 0xffff, 0x93, 0));
    m.write16(TSS + 8, SPARE);
    m.write32(TSS + 4, 0x0007_0008);
    m.set_gate(0x40, gate(KERNEL32, HANDLERS + 0x40 * 16, 0xee, 0));
    m.set(Rsp, 0x0006_8000);
    m.code(USER_CODE, |a| a.int(0x40));
    m.run();
    assert_eq!(m.reg(Rsp), 0x0007_fff4);
    assert_eq!(
        (m.read32(0x5_0004), m.read32(0x5_0000)),
        (USER_DATA as u32, 0x0006_8000)
    );
    assert_eq!(m.read32(0x5_fff4), USER_CODE as u32 + 2);
}
