//! Loading and inspecting descriptors in protected mode (Intel SDM vol. 3A §3.5, §5.10).

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
