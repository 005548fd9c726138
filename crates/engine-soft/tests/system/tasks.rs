//! Hardware task switching (Intel SDM vol. 3A ch. 7).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, rflags};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// Selector of the second task.
const OTHER: u16 = SPARE;
const GATE: u16 = SPARE + 8;
const OTHER_STACK: u64 = 0x7_4000;

/// Two 32-bit tasks: the current one, and one at [`USER_CODE`] (but at CPL 0).
fn tasks() -> Machine {
    let m = Machine::protected();
    m.set_descriptor(OTHER, descriptor(TSS2 as u32, 0x67, 0x89, 0));
    m.set_descriptor(GATE, gate(OTHER, 0, 0x85, 0));
    m.write(TSS2, &[0; 0x68]);
    m.write32(TSS2 + 32, USER_CODE as u32);
    m.write32(TSS2 + 36, 0x03);
    for n in 0..8 {
        m.write32(TSS2 + 40 + n * 4, 0x1000_0000 + n as u32);
    }
    m.write32(TSS2 + 56, OTHER_STACK as u32);
    for n in 0..6 {
        m.write32(TSS2 + 72 + n * 4, KERNEL_DATA as u32);
    }
    m.write32(TSS2 + 76, KERNEL32 as u32);
    m.write16(TSS2 + 96, LOCAL);
    m
}

fn busy(m: &Machine, selector: u16) -> bool {
    m.descriptor(selector).attributes().kind() & 2 != 0
}

/// §7.3: JMP saves the old task and loads the new one; busy flags move (table 7-2).
#[test]
fn a_jump_to_a_task() {
    for selector in [OTHER, GATE] {
        let mut m = tasks();
        m.state.dr7 = 0x7ff;
        let c = m.code(CODE, |a| {
            a.mov(ebx, 0x77)?;
            a.stc()?;
            a.jmp_far(selector, 0xdead)
        });
        m.code(USER_CODE, |a| a.hlt());
        m.halts();
        assert_eq!(m.state.rip, USER_CODE + 1);
        assert_eq!(
            (m.reg(Rcx), m.reg(Rdi), m.reg(Rsp)),
            (0x1000_0001, 0x1000_0007, OTHER_STACK)
        );
        assert_eq!(m.state.rflags, 3);
        assert!(m.state.cr0 & cr0_bits::TS != 0);
        assert_eq!((m.state.tr.selector, m.state.tr.base), (OTHER, TSS2));
        assert!(!busy(&m, TASK) && busy(&m, OTHER));
        assert_eq!(m.state.dr7, 0x6aa, "local breakpoints are off");
        // The old task.
        assert_eq!(m.read32(TSS + 32), c.end as u32);
        assert_eq!(m.read32(TSS + 36), 3);
        assert_eq!((m.read32(TSS + 52), m.read32(TSS + 56)), (0x77, STACK as u32));
        assert_eq!((m.read16(TSS + 76), m.read16(TSS + 80)), (KERNEL32, KERNEL_DATA));
    }
}

/// §7.4: CALL links the tasks with NT, IRET goes back.
#[test]
fn a_call_and_the_way_back() {
    let mut m = tasks();
    m.code(CODE, |a| {
        a.mov(ebx, 0x77)?;
        a.call_far(OTHER, 0)?;
        a.hlt()
    });
    m.code(USER_CODE, |a| {
        a.pushfd()?;
        a.pop(eax)?;
        a.mov(dword_ptr(DATA), eax)?;
        a.iretd()
    });
    m.halts();
    assert_eq!((m.reg(Rbx), m.reg(Rsp), m.state.tr.selector), (0x77, STACK, TASK));
    assert_eq!(m.read32(DATA), 3 | rflags::NT as u32);
    assert_eq!(m.read16(TSS2), TASK, "the back link");
    assert!(busy(&m, TASK) && !busy(&m, OTHER));
    // IRET saved NT cleared, and where to go on.
    assert_eq!(m.read32(TSS2 + 36) & rflags::NT as u32, 0);
    assert_eq!(m.state.rflags & rflags::NT, 0);
}

/// §6.12.2: a task gate in the IDT; the error code is pushed on the new task's stack.
#[test]
fn an_exception_through_a_task_gate() {
    let mut m = tasks();
    m.set_gate(GP, gate(OTHER, 0, 0x85, 0));
    m.set_gate(0x40, 0);
    m.user();
    m.code(USER_CODE, |a| a.hlt());
    m.set_descriptor(OTHER + 0x10, 0);
    let c = m.code(CODE, |a| a.int(0x40));
    m.state.rip = CODE;
    m.halts();
    assert_eq!(m.state.tr.selector, OTHER);
    assert_eq!(m.reg(Rsp), OTHER_STACK - 4);
    assert_eq!(m.read32(OTHER_STACK - 4), 0x202);
    assert_eq!(m.read32(TSS + 32), c.at[0] as u32);
    assert_eq!(
        m.read32(TSS + 36) & rflags::RF as u32,
        rflags::RF as u32,
        "a fault saves RF set"
    );
    assert_eq!((m.read16(TSS + 76), m.read16(TSS + 80)), (USER32, USER_DATA));
    assert!(m.state.rflags & rflags::NT != 0);
}

/// Table 7-1, before the switch: faults in the old task.
#[test]
fn what_stops_a_switch() {
    for (d, vector) in [
        (descriptor(TSS2 as u32, 0x67, 0x8b, 0), GP),
        (descriptor(TSS2 as u32, 0x67, 0x09, 0), NP),
        (descriptor(TSS2 as u32, 0x66, 0x89, 0), TS),
        (descriptor(TSS2 as u32, 0x2a, 0x81, 0), TS),
        (descriptor(TSS2 as u32, 0xff, 0x82, 0), GP),
    ] {
        let mut m = tasks();
        m.set_descriptor(OTHER, d);
        let c = m.code(CODE, |a| a.jmp_far(OTHER, 0));
        let t = m.faults(vector, OTHER as u64);
        assert_eq!((t.rip, m.state.tr.selector), (c.at[0], TASK), "{d:x}");
    }
    // DPL of the TSS, or of the gate alone.
    let mut m = tasks();
    m.user();
    m.code(USER_CODE, |a| a.jmp_far(OTHER, 0));
    m.faults(GP, OTHER as u64);
    m.user();
    m.state.rip = CODE;
    m.set_descriptor(GATE, gate(OTHER, 0, 0xe5, 0));
    m.code(CODE, |a| a.jmp_far(GATE, 0));
    m.code(USER_CODE, |a| a.hlt());
    m.halts();
    assert_eq!(m.state.tr.selector, OTHER);
    // A gate to something else.
    let mut m = tasks();
    m.set_descriptor(GATE, gate(KERNEL_DATA, 0, 0x85, 0));
    m.code(CODE, |a| a.jmp_far(GATE, 0));
    m.faults(GP, KERNEL_DATA as u64);
    // IRET to a task that is not busy.
    let mut m = tasks();
    m.state.rflags |= rflags::NT;
    m.write16(TSS, OTHER);
    m.code(CODE, |a| a.iretd());
    m.faults(TS, OTHER as u64);
}

/// Table 7-1, after the switch: faults belong to the new task.
#[test]
fn faults_in_the_new_task() {
    let bad = OTHER + 0x10;
    // (offset of the selector in the TSS, selector, its descriptor, vector)
    for (at, selector, d, vector) in [
        (96, bad, descriptor(0, 0xff, 0x89, 0), TS),
        (96, bad, descriptor(0, 0xff, 0x02, 0), TS),
        (96, 0x1f8 | 4, 0, TS),
        (76, bad, descriptor(0, 0xf_ffff, 0xfb, 0xc), TS),
        (76, bad, descriptor(0, 0xf_ffff, 0x1b, 0xc), NP),
        (76, bad, descriptor(0, 0xf_ffff, 0x93, 0xc), TS),
        (76, 0, 0, TS),
        (84, bad, descriptor(0, 0xf_ffff, 0x9b, 0xc) & !(2 << 40), TS),
        (84, bad, descriptor(0, 0xf_ffff, 0x13, 0xc), NP),
        (92, 0x200, 0, TS),
    ] {
        let mut m = tasks();
        m.set_descriptor(bad, d);
        m.write16(TSS2 + at, selector);
        // The handlers are tasks of their own, as the manual advises for #TS.
        let third = bad + 8;
        let tss3 = TSS2 + 0x400;
        m.set_descriptor(third, descriptor(tss3 as u32, 0x67, 0x89, 0));
        m.write(tss3, &[0; 0x68]);
        m.write32(tss3 + 32, CODE as u32 + 0x800);
        m.write32(tss3 + 36, 2);
        m.write32(tss3 + 56, 0x7_8000);
        for n in 0..6 {
            m.write32(tss3 + 72 + n * 4, KERNEL_DATA as u32);
        }
        m.write32(tss3 + 76, KERNEL32 as u32);
        m.set_gate(vector, gate(third, 0, 0x85, 0));
        m.code(CODE, |a| a.jmp_far(OTHER, 0));
        m.code(CODE + 0x800, |a| a.hlt());
        m.halts();
        assert_eq!(
            m.read32(0x7_8000 - 4) as u16,
            selector & !3,
            "{at} {selector:x} {d:x}"
        );
        assert_eq!(m.read16(tss3), OTHER, "it happened in the new task");
        assert_eq!(m.read32(TSS2 + 32), USER_CODE as u32);
        assert_eq!(m.read16(TSS2 + at), selector);
    }
}

/// Vol. 3B §18.3.1.5: the T flag of a TSS traps before the new task's first instruction.
#[test]
fn the_debug_trap_flag() {
    let mut m = tasks();
    m.write16(TSS2 + 100, 1);
    m.code(CODE, |a| a.jmp_far(OTHER, 0));
    m.code(USER_CODE, |a| a.hlt());
    let t = m.faults(DB, 0);
    assert_eq!(t.rip, USER_CODE);
    assert_eq!(m.state.dr6 & 0xe00f, 1 << 15);
}

/// §7.6: 16-bit tasks.
#[test]
fn sixteen_bit_tasks() {
    let mut m = tasks();
    m.set_descriptor(OTHER, descriptor(TSS2 as u32, 0x2b, 0x81, 0));
    m.write(TSS2, &[0; 0x68]);
    let fields = [0x4000u16, 0x0003, 1, 2, 3, 4, 0x8000, 6, 7, 8];
    for (n, v) in fields.into_iter().enumerate() {
        m.write16(TSS2 + 14 + n as u64 * 2, v);
    }
    for (n, v) in [KERNEL_DATA, KERNEL16, DATA16, KERNEL_DATA, LOCAL]
        .into_iter()
        .enumerate()
    {
        m.write16(TSS2 + 34 + n as u64 * 2, v);
    }
    m.code(CODE, |a| {
        a.call_far(OTHER, 0)?;
        a.hlt()
    });
    m.write(0x4000, &[0x89, 0xc5, 0xcf]); // mov bp, ax; iret
    m.halts();
    assert_eq!((m.state.tr.selector, m.reg(Rsp)), (TASK, STACK));
    assert_eq!(
        (m.read16(TSS2), m.read16(TSS2 + 14), m.read16(TSS2 + 28)),
        (TASK, 0x4003, 1)
    );
    assert_eq!(m.read16(TSS2 + 16) & rflags::NT as u16, 0);
}
