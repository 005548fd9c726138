//! Segmentation in 32-bit protected mode (Intel SDM vol. 3A ch. 5).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
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

/// §3.5.1: the local descriptor table; a selector with TI set and no table is #GP(selector).
#[test]
fn local_descriptors() {
    let mut m = Machine::protected();
    m.write64(LDT + 8, descriptor(DATA as u32, 0xf, 0x93, 4));
    m.write32(DATA, 0x1122_3344);
    m.code(CODE, |a| {
        a.mov(eax, 0xc)?;
        a.mov(fs, ax)?;
        a.mov(edx, dword_ptr(0).fs())?;
        a.sldt(ecx)?;
        a.xor(eax, eax)?;
        a.lldt(ax)?;
        a.mov(eax, 0xc)?;
        a.mov(fs, ax)
    });
    m.faults(GP, 0xc);
    assert_eq!((m.reg(Rdx), m.reg(Rcx)), (0x1122_3344, LOCAL as u64));
    assert_eq!(m.seg(Seg::Fs).selector, 0xc, "a failed load changes nothing");
    // LLDT: not an LDT, in the LDT, not present.
    for (selector, d, vector) in [
        (SPARE, descriptor(0, 0xff, 0x89, 0), GP),
        (SPARE | 4, 0, GP),
        (SPARE, descriptor(0, 0xff, 0x02, 0), NP),
    ] {
        let mut m = with(d);
        m.code(CODE, |a| {
            a.mov(eax, selector as u32)?;
            a.lldt(ax)
        });
        m.faults(vector, selector as u64);
    }
}

/// Vol. 2A, LTR: an available TSS becomes busy; anything else is #GP(selector).
#[test]
fn loading_the_task_register() {
    let mut m = with(descriptor(TSS2 as u32, 0x67, 0x89, 0));
    m.code(CODE, |a| {
        a.mov(eax, SPARE as u32)?;
        a.ltr(ax)?;
        a.str(ecx)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(
        (m.state.tr.selector, m.state.tr.base, m.reg(Rcx)),
        (SPARE, TSS2, SPARE as u64)
    );
    assert_eq!(m.descriptor(SPARE).attributes().kind(), 11);
    m.state.rip = CODE;
    m.faults(GP, SPARE as u64);
    let mut m = Machine::protected();
    m.code(CODE, |a| {
        a.xor(eax, eax)?;
        a.ltr(ax)
    });
    m.faults(GP, 0);
}

/// Vol. 2A, LAR and LSL: which descriptors they describe, and to whom.
#[test]
fn lar_and_lsl() {
    // (descriptor, RPL, CPL 3, LAR, LSL)
    for (d, rpl, user, lar, lsl) in [
        (
            descriptor(0x1234_5678, 0xf_ffff, 0xfb, 0xc),
            3,
            true,
            Some(0x00c0_fb00),
            Some(0xffff_ffff),
        ),
        (
            descriptor(0, 0x1_2345, 0x93, 0x4),
            0,
            false,
            Some(0x0040_9300),
            Some(0x1_2345),
        ),
        (descriptor(0, 0x1_2345, 0x93, 0x4), 3, false, None, None),
        (
            descriptor(0, 0x123, 0x9f, 0x4),
            3,
            true,
            Some(0x0040_9f00),
            Some(0x123),
        ),
        (descriptor(0, 0x67, 0xeb, 0), 3, true, Some(0xeb00), Some(0x67)),
        (descriptor(0, 0xff, 0xe2, 0), 3, true, Some(0xe200), Some(0xff)),
        (descriptor(0, 0x2b, 0x81, 0), 0, false, Some(0x8100), Some(0x2b)),
        (gate(8, 0, 0xec, 0), 3, true, Some(0xec00), None), // call gate
        (gate(8, 0, 0xe4, 0), 3, true, Some(0xe400), None),
        (gate(8, 0, 0xe5, 0), 3, true, Some(0xe500), None), // task gate
        (gate(8, 0, 0xee, 0), 3, true, None, None),         // interrupt gate
        (descriptor(0, 0, 0xe0, 0), 3, true, None, None),
        // Presence is not asked for.
        (
            descriptor(0, 0xfff, 0x13, 0x4),
            0,
            false,
            Some(0x0040_1300),
            Some(0xfff),
        ),
    ] {
        let mut m = with(d);
        if user {
            m.user();
        }
        m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
        m.state.rip = CODE;
        m.code(CODE, |a| {
            a.mov(edx, (SPARE | rpl) as u32)?;
            a.mov(eax, 0x5555)?;
            a.mov(ecx, 0x5555)?;
            a.lar(eax, edx)?;
            a.setz(bl)?;
            a.lsl(ecx, edx)?;
            a.setz(bh)?;
            a.int(0x80)
        });
        m.traps();
        let (zl, zs) = (m.reg(Rbx) & 1 != 0, m.reg(Rbx) & 0x100 != 0);
        let mask = 0x00f0_ff00; // bits 16-19 are undefined
        let got = (zl.then_some(m.reg(Rax) & mask), zs.then_some(m.reg(Rcx)));
        assert_eq!(got, (lar, lsl), "{d:x} {rpl} {user}");
        assert!((zl || m.reg(Rax) == 0x5555) && (zs || m.reg(Rcx) == 0x5555));
    }
    // Null and beyond the table: ZF clear, no fault.
    for selector in [0u32, 3, 0x200, 0xffff] {
        let mut m = Machine::protected();
        m.code(CODE, |a| {
            a.mov(edx, selector)?;
            a.xor(ebx, ebx)?;
            a.lar(eax, edx)?;
            a.setz(bl)?;
            a.lsl(eax, edx)?;
            a.setz(bh)?;
            a.hlt()
        });
        m.halts();
        assert_eq!(m.reg(Rbx), 0, "{selector:x}");
    }
}

/// Vol. 2B, VERR and VERW; vol. 2A, ARPL.
#[test]
fn verr_verw_and_arpl() {
    for (d, rpl, readable, writable) in [
        (descriptor(0, 0xfff, 0x93, 4), 0, true, true),
        (descriptor(0, 0xfff, 0x91, 4), 0, true, false),
        (descriptor(0, 0xfff, 0x99, 4), 0, false, false),
        (descriptor(0, 0xfff, 0x9b, 4), 0, true, false),
        (descriptor(0, 0xfff, 0x93, 4), 1, false, false),
        (descriptor(0, 0xfff, 0x9f, 4), 3, true, false),
        (descriptor(0, 0xfff, 0x82, 0), 0, false, false),
        (descriptor(0, 0xfff, 0x13, 4), 0, true, true),
    ] {
        let mut m = with(d);
        m.code(CODE, |a| {
            a.mov(edx, (SPARE | rpl) as u32)?;
            a.xor(ebx, ebx)?;
            a.verr(dx)?;
            a.setz(bl)?;
            a.verw(dx)?;
            a.setz(bh)?;
            a.hlt()
        });
        m.halts();
        assert_eq!(
            m.reg(Rbx),
            readable as u64 | (writable as u64) << 8,
            "{d:x} {rpl}"
        );
    }
    for (a_, b, out, zf) in [
        (0x10u32, 3u32, 0x13u64, true),
        (0x12, 1, 0x12, false),
        (0x13, 3, 0x13, false),
    ] {
        let mut m = Machine::protected();
        m.code(CODE, |a| {
            a.mov(eax, a_)?;
            a.mov(ebx, b)?;
            a.arpl(ax, bx)?;
            a.hlt()
        });
        m.halts();
        assert_eq!((m.reg(Rax), m.state.rflags & rflags::ZF != 0), (out, zf));
    }
}

/// Vol. 1 §19.5.2: the I/O permission map decides when CPL > IOPL.
#[test]
fn ports_of_user_code() {
    // (map offset, TSS limit, port, size, allowed); the map has port 0x21 and 0x23 forbidden.
    for (map, limit, port, size, ok) in [
        (0x68u16, 0x6f, 0x20, 1, true),
        (0x68, 0x6f, 0x21, 1, false),
        (0x68, 0x6f, 0x22, 1, true),
        (0x68, 0x6f, 0x20, 2, false),
        (0x68, 0x6f, 0x24, 4, true),
        (0x68, 0x6f, 0x1d, 4, true),
        (0x68, 0x6f, 0x1e, 4, false),
        // Two bytes are always read: the second must be inside the limit.
        (0x68, 0x6f, 0x30, 1, true),
        (0x68, 0x6f, 0x38, 1, false),
        (0x70, 0x6f, 0x20, 1, false),
        (0xffff, 0x6f, 0x20, 1, false),
        (0x68, 0x66, 0x20, 1, false),
    ] {
        let mut m = Machine::protected();
        m.user();
        m.state.tr.limit = limit;
        m.write16(TSS + 102, map);
        m.write(TSS + 0x68, &[0, 0, 0, 0, 0b1010, 0, 0, 0, 0xff]);
        m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
        let c = m.code(USER_CODE, |a| {
            a.mov(edx, port as u32)?;
            match size {
                1 => a.in_(al, dx)?,
                2 => a.in_(ax, dx)?,
                _ => a.in_(eax, dx)?,
            }
            a.int(0x80)
        });
        let t = m.traps();
        if ok {
            assert_eq!(t.vector, 0x80, "{map:x} {port:x} {size}");
            assert_eq!(*m.ports.read.lock().unwrap(), [(port, size)]);
        } else {
            assert_eq!(
                (t.vector, t.code, t.rip),
                (GP, Some(0), c.at[1]),
                "{map:x} {port:x} {size}"
            );
            assert!(m.ports.read.lock().unwrap().is_empty());
        }
    }
    // REP INS needs the permission even with nothing to do. IOPL 3 needs no map.
    let mut m = Machine::protected();
    m.user();
    m.write16(TSS + 102, 0xffff);
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.code(USER_CODE, |a| {
        a.xor(ecx, ecx)?;
        a.rep().insb()?;
        a.int(0x80)
    });
    m.faults(GP, 0);
    m.user();
    m.state.rflags |= rflags::IOPL;
    m.code(USER_CODE, |a| {
        a.in_(al, 0x21)?;
        a.cli()?;
        a.sti()?;
        a.int(0x80)
    });
    assert_eq!(m.traps().vector, 0x80);
}

/// Vol. 2: what only CPL 0 may do, and what IOPL allows.
#[test]
fn privileged_instructions() {
    let encodings: [&[u8]; 22] = [
        &[0xf4],                         // hlt
        &[0x0f, 0x06],                   // clts
        &[0x0f, 0x08],                   // invd
        &[0x0f, 0x09],                   // wbinvd
        &[0x0f, 0x20, 0xc0],             // mov eax, cr0
        &[0x0f, 0x22, 0xd8],             // mov cr3, eax
        &[0x0f, 0x21, 0xc0],             // mov eax, dr0
        &[0x0f, 0x23, 0xf8],             // mov dr7, eax
        &[0x0f, 0x30],                   // wrmsr
        &[0x0f, 0x32],                   // rdmsr
        &[0x0f, 0x33],                   // rdpmc
        &[0x0f, 0x01, 0x10],             // lgdt [eax]
        &[0x0f, 0x01, 0x18],             // lidt [eax]
        &[0x0f, 0x00, 0xd0],             // lldt ax
        &[0x0f, 0x00, 0xd8],             // ltr ax
        &[0x0f, 0x01, 0xf0],             // lmsw ax
        &[0x0f, 0x01, 0x38],             // invlpg [eax]
        &[0x66, 0x0f, 0x38, 0x82, 0x08], // invpcid ecx, [eax]
        &[0xfa],                         // cli
        &[0xfb],                         // sti
        &[0xe4, 0x10],                   // in al, 10
        &[0x0f, 0x35],                   // sysexit
    ];
    for e in encodings {
        let mut m = Machine::protected();
        m.user();
        m.write16(TSS + 102, 0xffff);
        m.set(Rax, DATA);
        m.write(USER_CODE, e);
        assert_eq!(m.faults(GP, 0).rip, USER_CODE, "{e:x?}");
    }
    // POPF leaves IF and IOPL alone instead.
    let mut m = Machine::protected();
    m.user();
    m.set_gate(0x80, gate(KERNEL32, HANDLERS + 0x80 * 16, 0xee, 0));
    m.code(USER_CODE, |a| {
        a.push(0x7ed7)?;
        a.popfd()?;
        a.int(0x80)
    });
    let t = m.traps();
    assert_eq!(t.flags, 0x7ed7 & !(rflags::IOPL | rflags::IF));
}

/// Vol. 2A, BOUND and INTO; their gates' privilege (§6.12.1.2) matters for INTO only.
#[test]
fn bound_and_into() {
    let mut m = Machine::protected();
    m.write32(DATA, 10);
    m.write32(DATA + 4, 20);
    for (v, ok) in [
        (10, true),
        (20, true),
        (15, true),
        (9, false),
        (21, false),
        (-1i32, false),
    ] {
        let c = m.code(CODE, |a| {
            a.mov(eax, v)?;
            a.bound(eax, qword_ptr(DATA))?;
            a.hlt()
        });
        m.state.rip = CODE;
        m.set(Rsp, STACK);
        if ok {
            m.halts()
        } else {
            assert_eq!(m.faults(BR, 0).rip, c.at[1])
        }
    }
    let mut m = Machine::protected();
    let c = m.code(CODE, |a| {
        a.mov(al, 0x7f)?;
        a.into()?;
        a.inc(al)?;
        a.into()
    });
    assert_eq!(m.faults(OF, 0).rip, c.end);
    let mut m = Machine::protected();
    m.user();
    m.state.rflags |= rflags::OF;
    let c = m.code(USER_CODE, |a| a.into());
    assert_eq!(m.faults(GP, OF as u64 * 8 + 2).rip, c.at[0]);
}

/// §2.6: LMSW sets PE but does not clear it; SMSW shows the low half.
#[test]
fn machine_status_word() {
    let mut m = Machine::protected();
    m.code(CODE, |a| {
        a.mov(ax, 0x000cu32)?;
        a.lmsw(ax)?;
        a.smsw(ecx)?;
        a.clts()?;
        a.mov(edx, cr0)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rcx) & 0xffff, 0x3d);
    assert_eq!(m.reg(Rdx), 0x35);
}

/// Vol. 2, MOV and PUSH with segment registers: 32-bit pushes write 16 bits; moves zero-extend.
#[test]
fn selectors_in_wide_operands() {
    let mut m = Machine::protected();
    m.write32(STACK - 4, 0xaaaa_aaaa);
    m.code(CODE, |a| {
        a.mov(eax, -1)?;
        a.mov(eax, ds)?;
        a.push(ds)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax), KERNEL_DATA as u64);
    assert_eq!(
        (m.reg(Rsp), m.read32(STACK - 4)),
        (STACK - 4, 0xaaaa_0000 | KERNEL_DATA as u32)
    );
}
