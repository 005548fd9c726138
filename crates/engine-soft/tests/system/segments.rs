//! Segmentation in 32-bit protected mode (Intel SDM vol. 3A ch. 5).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Seg;
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// A protected-mode machine with a test descriptor at [`SPARE`].
fn with(d: u64) -> Machine {
    let m = Machine::protected();
    m.set_descriptor(SPARE, d);
    m
}

/// Runs `MOV ES, selector` and says what came of it.
#[track_caller]
fn load_es(m: &mut Machine, selector: u16) -> Stopped {
    let at = if m.seg(Seg::Cs).selector & 3 == 3 {
        USER_CODE
    } else {
        CODE
    };
    m.code(at, |a| {
        a.mov(eax, selector as u32)?;
        a.mov(es, ax)?;
        if at == CODE { a.hlt() } else { a.int(0x80) }
    });
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.state.rip = at;
    m.run()
}

/// §5.3: the last byte of an operand must be inside the limit; §6.15: #SS for the stack segment, else #GP.
#[test]
fn limits() {
    // (limit, address, bytes, allowed)
    for (limit, at, size, ok) in [
        (0xfff, 0xffc, 4, true),
        (0xfff, 0xffd, 4, false),
        (0xfff, 0xfff, 1, true),
        (0xfff, 0x1000, 1, false),
        (0, 0, 1, true),
        (0, 0, 2, false),
    ] {
        for seg in [Seg::Es, Seg::Ss] {
            let mut m = with(descriptor(DATA as u32, limit, 0x93, 4));
            m.load(seg, SPARE);
            let override_ = if seg == Seg::Es { 0x26 } else { 0x36 };
            let c = m.code(CODE, |a| {
                a.mov(ebx, at as u32)?;
                match size {
                    1 => a.db(&[override_, 0x8a, 0x03])?,
                    2 => a.db(&[0x66, override_, 0x8b, 0x03])?,
                    _ => a.db(&[override_, 0x8b, 0x03])?,
                }
                a.hlt()
            });
            // A stack segment that small cannot take the frame of its own fault.
            if ok {
                m.halts();
            } else if seg == Seg::Es {
                assert_eq!(m.faults(GP, 0).rip, c.at[1]);
            } else {
                m.user();
                m.set_descriptor(SPARE, descriptor(DATA as u32, limit, 0xf3, 4));
                m.load(Seg::Ss, SPARE | 3);
                m.state.rip = CODE;
                assert_eq!(m.faults(SS, 0).rip, c.at[1]);
            }
        }
    }
}

/// §5.3: page granularity; and expand-down segments, whose valid offsets lie above the limit.
#[test]
fn granularity_and_expand_down() {
    let cases: [(u64, u32, bool); 10] = [
        (descriptor(DATA as u32, 0, 0x93, 0xc), 0xfff, true),
        (descriptor(DATA as u32, 0, 0x93, 0xc), 0x1000, false),
        // Expand-down, 16-bit upper bound.
        (descriptor(DATA as u32, 0xfff, 0x97, 0), 0xfff, false),
        (descriptor(DATA as u32, 0xfff, 0x97, 0), 0x1000, true),
        (descriptor(DATA as u32, 0xfff, 0x97, 0), 0xffff, true),
        (descriptor(DATA as u32, 0xfff, 0x97, 0), 0x1_0000, false),
        // Expand-down, 32-bit upper bound, page granular.
        (descriptor(0, 0, 0x97, 0xc), 0xfff, false),
        (descriptor(0, 0, 0x97, 0xc), 0x1000, true),
        (descriptor(0, 0, 0x97, 0xc), 0x10_0000, true),
        (descriptor(0, 0xf_ffff, 0x97, 0xc), 0xffff_ffff, false),
    ];
    for (d, at, ok) in cases {
        let mut m = with(d);
        m.load(Seg::Es, SPARE);
        m.code(CODE, |a| {
            a.mov(ebx, at)?;
            a.mov(al, byte_ptr(ebx).es())?;
            a.hlt()
        });
        match m.run() {
            Stopped::Halted => assert!(ok, "{d:x} {at:x}"),
            Stopped::Trapped(t) => assert!(!ok && (t.vector, t.code) == (GP, Some(0)), "{d:x} {at:x}"),
            Stopped::Shutdown => panic!(),
        }
    }
}

/// §5.5: types: read-only data, execute-only and readable code.
#[test]
fn types() {
    // (access byte, store, allowed)
    for (access, store, ok) in [
        (0x91u8, false, true),
        (0x91, true, false),
        (0x93, true, true),
        (0x9b, false, true),
        (0x9b, true, false),
    ] {
        let mut m = with(descriptor(DATA as u32, 0xfff, access, 4));
        m.load(Seg::Es, SPARE);
        let c = m.code(CODE, |a| {
            if store {
                a.mov(byte_ptr(0).es(), al)?
            } else {
                a.mov(al, byte_ptr(0).es())?
            }
            a.hlt()
        });
        if ok {
            m.halts()
        } else {
            assert_eq!(m.faults(GP, 0).rip, c.at[0])
        }
    }
    // Reading an execute-only code segment through CS.
    let mut m = with(descriptor(0, 0xf_ffff, 0x99, 0xc));
    m.load(Seg::Cs, SPARE);
    let c = m.code(CODE, |a| a.mov(al, byte_ptr(0x100).cs()));
    assert_eq!(m.faults(GP, 0).rip, c.at[0]);
    // Storing through CS, even a readable one.
    let mut m = Machine::protected();
    let c = m.code(CODE, |a| a.mov(byte_ptr(0x100).cs(), al));
    assert_eq!(m.faults(GP, 0).rip, c.at[0]);
}

/// §5.4.1: a null selector loads but cannot be used; SS and CS cannot be null.
#[test]
fn null_selectors() {
    for selector in 0..4 {
        let mut m = Machine::protected();
        assert_eq!(load_es(&mut m, selector), Stopped::Halted);
        assert!(m.seg(Seg::Es).attributes.unusable() && m.seg(Seg::Es).selector == selector);
        let c = m.code(CODE, |a| a.mov(eax, dword_ptr(0).es()));
        m.state.rip = CODE;
        assert_eq!(m.faults(GP, 0).rip, c.at[0]);
    }
    let mut m = Machine::protected();
    let c = m.code(CODE, |a| {
        a.xor(eax, eax)?;
        a.mov(ss, ax)
    });
    assert_eq!(m.faults(GP, 0).rip, c.at[1]);
    let mut m = Machine::protected();
    m.code(CODE, |a| a.jmp_far(3, CODE as u32));
    m.faults(GP, 0);
}

/// §5.6, vol. 2 MOV: data segments need max(CPL, RPL) <= DPL, unless conforming code.
#[test]
fn privilege_of_data_segments() {
    // (access byte, selector's RPL, CPL 3, allowed)
    for (access, rpl, user, ok) in [
        (0x93, 0, false, true),
        (0x93, 3, false, false),
        (0x93, 0, true, false),
        (0xb3, 1, false, true),
        (0xb3, 2, false, false),
        (0xf3, 3, true, true),
        (0xf3, 0, true, true),
        (0x9f, 3, true, true), // conforming
        (0x9b, 3, true, false),
        (0x99, 0, false, false), // execute-only
        (0x82, 0, false, false), // system
        (0x00, 0, false, false),
    ] {
        let mut m = with(descriptor(DATA as u32, 0xfff, access, 4));
        if user {
            m.user();
        }
        let selector = SPARE | rpl;
        match load_es(&mut m, selector) {
            Stopped::Trapped(t) if t.vector == GP => {
                assert!(
                    !ok && t.code == Some(SPARE as u64),
                    "{access:x} {rpl} {user} {t:?}"
                );
            }
            _ => assert!(
                ok && m.seg(Seg::Es).selector == selector,
                "{access:x} {rpl} {user}"
            ),
        }
    }
}

/// §6.15: #NP(selector) for segments that are not present, #SS(selector) for SS; #GP(selector) beyond the
/// table; the accessed bit is set by loading (§3.4.5.1).
#[test]
fn presence_and_table_limits() {
    let mut m = with(descriptor(DATA as u32, 0xfff, 0x13, 4));
    let t = load_es(&mut m, SPARE);
    let t = m.trapped(t);
    assert_eq!((t.vector, t.code), (NP, Some(SPARE as u64)));
    let mut m = with(descriptor(0, 0xf_ffff, 0x13, 0xc));
    m.code(CODE, |a| {
        a.mov(eax, SPARE as u32)?;
        a.mov(ss, ax)
    });
    m.faults(SS, SPARE as u64);
    for selector in [0x200, 0x1fc | 3, 0xfff8] {
        let mut m = Machine::protected();
        let t = load_es(&mut m, selector);
        let t = m.trapped(t);
        assert_eq!(
            (t.vector, t.code),
            (GP, Some(selector as u64 & 0xfffc)),
            "{selector:x}"
        );
    }
    let mut m = with(descriptor(DATA as u32, 0xfff, 0x92, 4));
    assert_eq!(load_es(&mut m, SPARE), Stopped::Halted);
    assert_eq!(m.descriptor(SPARE).attributes().0 & 0xff, 0x93);
    assert_eq!(m.seg(Seg::Es).attributes.0 & 0xff, 0x93);
}

/// §5.7: SS needs RPL = CPL = DPL and a writable data segment.
#[test]
fn stack_segments() {
    for (access, rpl, ok) in [
        (0x93, 0, true),
        (0x93, 1, false),
        (0xb3, 0, false),
        (0x91, 0, false),
        (0x9b, 0, false),
    ] {
        let mut m = with(descriptor(0, 0xf_ffff, access, 0xc));
        m.code(CODE, |a| {
            a.mov(eax, (SPARE | rpl) as u32)?;
            a.mov(ss, ax)?;
            a.hlt()
        });
        if ok {
            m.halts()
        } else {
            assert_eq!(m.faults(GP, SPARE as u64).cs, KERNEL32)
        }
    }
}

/// §5.8.1.1, §5.8.1.2: direct far jumps to nonconforming and conforming code.
#[test]
fn far_jumps_to_code() {
    // (access byte, RPL, CPL 3, error code or none)
    for (access, rpl, user, error) in [
        (0x9b, 0, false, None),
        (0x9b, 3, false, Some(GP)),
        (0xfb, 0, false, Some(GP)),
        (0xfb, 3, true, None),
        (0xfb, 0, true, None),
        (0x9b, 3, true, Some(GP)),
        (0x9f, 3, true, None),
        (0x9f, 0, true, None),
        (0xff, 0, false, Some(GP)),
        (0x93, 0, false, Some(GP)),
        (0x1b, 0, false, Some(NP)),
    ] {
        let mut m = with(descriptor(0, 0xf_ffff, access, 0xc));
        if user {
            m.user();
        }
        m.state.rip = CODE;
        m.code(CODE, |a| a.jmp_far(SPARE | rpl, USER_CODE as u32));
        m.code(USER_CODE, |a| a.int(0x80));
        m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
        let t = m.traps();
        match error {
            None => {
                assert_eq!(t.vector, 0x80, "{access:x} {rpl} {user}");
                // The selector's RPL becomes the CPL.
                assert_eq!(t.cs, SPARE | if user { 3 } else { 0 });
            }
            Some(v) => assert_eq!(
                (t.vector, t.code),
                (v, Some(SPARE as u64)),
                "{access:x} {rpl} {user}"
            ),
        }
    }
    // Beyond the target's limit: #GP(0), still in the old segment.
    let mut m = with(descriptor(0, 0xfff, 0x9b, 4));
    let c = m.code(CODE, |a| a.jmp_far(SPARE, 0x1000));
    let t = m.faults(GP, 0);
    assert_eq!((t.cs, t.rip), (KERNEL32, c.at[0]));
}
