//! 64-bit and compatibility mode (Intel SDM vol. 3A §5.8, §6.14, vol. 2).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

const HOLE: u64 = 0x8000_0000_0000;

/// §6.14.2: the stack is aligned to 16 bytes and SS:RSP is always pushed; §6.14.3: SS becomes null with
/// the new CPL when that changes, and stays otherwise.
#[test]
fn frames_in_64_bit_mode() {
    for misalignment in 0..16 {
        let mut m = Machine::long();
        m.set(Rsp, STACK - misalignment);
        m.code(CODE, |a| a.ud2());
        let t = m.faults(UD, 0);
        assert_eq!((t.rsp, t.ss, t.cs), (STACK - misalignment, KERNEL_DATA, KERNEL64));
        assert_eq!(t.at, ((STACK - misalignment) & !15) - 40);
        assert_eq!(m.seg(Seg::Ss).selector, KERNEL_DATA);
    }
    let mut m = Machine::long();
    m.user();
    m.write64(TSS + 4, STACK0 + 5);
    m.code(USER_CODE, |a| a.cli());
    let t = m.faults(GP, 0);
    assert_eq!(
        (t.rsp, t.ss, t.cs, t.at),
        (USER_STACK, USER_DATA, USER64, STACK0 - 48)
    );
    assert_eq!(m.seg(Seg::Ss).selector, 0);
    assert_eq!(m.seg(Seg::Cs).selector, KERNEL64);
}

/// §6.14.5: the interrupt-stack table, also without a change of privilege.
#[test]
fn interrupt_stack_table() {
    for n in 1..8u8 {
        for user in [false, true] {
            let mut m = Machine::long();
            if user {
                m.user();
            }
            let at = m.state.rip;
            m.set_gate64(UD, KERNEL64, HANDLERS + 6 * 16, 0x8e, n);
            m.code(at, |a| a.ud2());
            assert_eq!(m.faults(UD, 0).at, IST + n as u64 * 0x1000 - 40);
            assert_eq!(m.seg(Seg::Ss).selector, if user { 0 } else { KERNEL_DATA });
        }
    }
}

/// §6.14.1: gates of the 64-bit IDT: handlers must be 64-bit code; error codes.
#[test]
fn gates_of_the_64_bit_table() {
    for (selector, access, vector, error) in [
        (KERNEL32, 0x8e, GP, KERNEL32 as u64),
        (KERNEL64, 0x0e, NP, 0x202),
        (KERNEL64, 0x85, GP, 0x202),
        (KERNEL64, 0x86, GP, 0x202),
        (KERNEL64, 0x8c, GP, 0x202),
        (0, 0x8e, GP, 0),
        (USER64, 0x8e, GP, USER64 as u64 & !3),
        (KERNEL_DATA, 0x8e, GP, KERNEL_DATA as u64),
    ] {
        let mut m = Machine::long();
        m.set_gate64(0x40, selector, HANDLERS, access, 0);
        m.code(CODE, |a| a.int(0x40));
        assert_eq!(m.faults(vector, error).rip, CODE, "{selector:x} {access:x}");
    }
    // A target that is not canonical, and an RSP0 that is not: #GP(0), #SS(0), both with EXT when the
    // event was not a software interrupt.
    let mut m = Machine::long();
    m.set_gate64(0x40, KERNEL64, HOLE, 0x8e, 0);
    m.code(CODE, |a| a.int(0x40));
    m.faults(GP, 0);
    let mut m = Machine::long();
    m.user();
    m.write64(TSS + 4, HOLE);
    m.set_gate64(SS, KERNEL64, HANDLERS + 12 * 16, 0x8e, 1);
    m.code(USER_CODE, |a| a.ud2());
    m.faults(SS, 1);
    // Same privilege, RSP not canonical.
    let mut m = Machine::long();
    m.set_gate64(SS, KERNEL64, HANDLERS + 12 * 16, 0x8e, 1);
    m.set(Rsp, HOLE + 0x1000);
    m.code(CODE, |a| a.ud2());
    m.faults(SS, 1);
}

/// §6.14.4: interrupts from compatibility mode save 64-bit frames too.
#[test]
fn interrupts_from_compatibility_mode() {
    let mut m = Machine::long();
    m.compatibility(3);
    let c = m.code(USER_CODE, |a| {
        a.mov(eax, cs)?;
        a.ud2()
    });
    let t = m.faults(UD, 0);
    assert_eq!(
        (t.rip, t.cs, t.ss, t.rsp),
        (c.at[1], USER32, USER_DATA, USER_STACK)
    );
    assert_eq!(m.seg(Seg::Cs).selector, KERNEL64);
}

/// Vol. 2A, IRET: 64-bit returns always take SS:RSP; to 64-bit and compatibility code at CPL 3, and to
/// CPL 0 with a null SS.
#[test]
fn iretq() {
    for (target, stack, fault) in [
        (USER64, USER_DATA, None),
        (USER32, USER_DATA, None),
        (KERNEL64, 0, None),
        (KERNEL64, KERNEL_DATA, None),
        (KERNEL32, 0, Some(0)),
        (USER64, 0, Some(0)),
        (USER64, 3, Some(0)),
        (USER64, KERNEL_DATA, Some(KERNEL_DATA)),
        (USER64 & !3, USER_DATA, Some(USER64 & !3)),
        (0, USER_DATA, Some(0)),
    ] {
        let mut m = Machine::long();
        m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
        let c = m.code(CODE, |a| {
            a.push(stack as i32)?;
            a.push(USER_STACK as i32)?;
            a.push(0x202)?;
            a.push(target as i32)?;
            a.push(USER_CODE as i32)?;
            a.iretq()
        });
        m.code(USER_CODE, |a| a.int(0x80));
        let t = m.traps();
        match fault {
            None => assert_eq!(
                (t.vector, t.cs, t.ss, t.rsp, t.flags),
                (0x80, target, stack, USER_STACK, 0x202),
                "{target:x} {stack:x}"
            ),
            Some(e) => {
                assert_eq!(
                    (t.vector, t.code, t.rip),
                    (GP, Some(e as u64), c.at[5]),
                    "{target:x} {stack:x}"
                );
                assert_eq!((t.cs, t.ss, t.rsp), (KERNEL64, KERNEL_DATA, STACK - 40));
            }
        }
    }
    // A return address that is not canonical faults before anything changes.
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.push(USER_DATA as i32)?;
        a.push(0)?;
        a.push(2)?;
        a.push(USER64 as i32)?;
        a.mov(rax, HOLE)?;
        a.push(rax)?;
        a.iretq()
    });
    assert_eq!(m.faults(GP, 0).cs, KERNEL64);
    // NT has no meaning but #GP.
    let mut m = Machine::long();
    m.state.rflags |= rflags::NT;
    m.code(CODE, |a| a.iretq());
    m.faults(GP, 0);
}

/// §5.8.3.1: call gates of 16 bytes, their types, and the stack switch without parameters.
#[test]
fn call_gates_in_64_bit_mode() {
    let setup = |selector: u16, access: u8, high: u64| {
        let mut m = Machine::long();
        m.set_descriptor(SPARE, gate(selector, CODE, access, 5));
        m.set_descriptor(SPARE + 8, high);
        m.user();
        m.write32(DATA + 8, (SPARE as u32 | 3) << 16);
        m.write16(DATA + 12, SPARE | 3);
        let c = m.code(USER_CODE, |a| {
            a.mov(rbx, DATA + 8)?;
            a.db(&[0xff, 0x1b]) // call far m16:32 [rbx]
        });
        m.code(CODE, |a| a.hlt());
        (m, c)
    };
    let (mut m, c) = setup(KERNEL64, 0xec, 0);
    m.halts();
    let frame: Vec<u64> = (0..4).map(|n| m.read64(STACK0 - 32 + n * 8)).collect();
    assert_eq!(frame, [c.end, USER64 as u64, USER_STACK, USER_DATA as u64]);
    assert_eq!((m.seg(Seg::Ss).selector, m.reg(Rsp)), (0, STACK0 - 32));
    for (selector, access, high, error) in [
        (KERNEL32, 0xec, 0, KERNEL32),
        (KERNEL64, 0xe4, 0, SPARE),
        (KERNEL64, 0xe5, 0, SPARE),
        (KERNEL64, 0xec, 0x0c00_0000_0000, SPARE),
        (KERNEL64, 0x8c, 0, SPARE),
    ] {
        let (mut m, _) = setup(selector, access, high);
        m.faults(GP, error as u64);
    }
    let (mut m, _) = setup(KERNEL64, 0xec, HOLE >> 32);
    m.faults(GP, 0);
}

/// Vol. 2B, RETF in 64-bit mode, to compatibility code and outwards.
#[test]
fn far_returns_in_64_bit_mode() {
    let mut m = Machine::long();
    m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
    m.code(CODE, |a| {
        a.push(USER_DATA as i32)?;
        a.push(USER_STACK as i32)?;
        a.push(USER32 as i32)?;
        a.push(USER_CODE as i32)?;
        a.db(&[0x48, 0xcb])
    });
    m.code_at(32, USER_CODE, USER_CODE, |a| {
        a.mov(eax, cs)?;
        a.int(0x80)
    });
    let t = m.traps();
    assert_eq!(
        (t.vector, t.cs, t.ss, t.rsp),
        (0x80, USER32, USER_DATA, USER_STACK)
    );
    assert_eq!(m.seg(Seg::Ds).selector, 0);
    // Code with both L and D is reserved.
    let mut m = Machine::long();
    m.set_descriptor(SPARE, descriptor(0, 0xf_ffff, 0x9b, 0xe));
    m.code(CODE, |a| {
        a.push(SPARE as i32)?;
        a.push(USER_CODE as i32)?;
        a.db(&[0x48, 0xcb])
    });
    m.faults(GP, SPARE as u64);
}

/// Vol. 1 §3.3.7.1, vol. 3A §6.15: references that are not canonical: #SS through RSP and RBP, else #GP.
#[test]
fn canonical_addresses() {
    let cases: [(&[u8], u8); 9] = [
        (&[0x48, 0x8b, 0x00], GP),             // mov rax, [rax]
        (&[0x48, 0x8b, 0x45, 0x00], SS),       // mov rax, [rbp]
        (&[0x48, 0x8b, 0x04, 0x24], SS),       // mov rax, [rsp]
        (&[0x58], SS),                         // pop rax
        (&[0x50], SS),                         // push rax
        (&[0xff, 0xe0], GP),                   // jmp rax
        (&[0xff, 0xd0], GP),                   // call rax
        (&[0x48, 0x89, 0x00], GP),             // mov [rax], rax
        (&[0xf0, 0x48, 0x0f, 0xc1, 0x18], GP), // lock xadd [rax], rbx
    ];
    for (code, vector) in cases {
        let mut m = Machine::long();
        for v in [SS, GP] {
            m.set_gate64(v, KERNEL64, HANDLERS + v as u64 * 16, 0x8e, 1);
        }
        let stack = matches!(code[0], 0x50 | 0x58) || vector == SS;
        m.set(Rax, HOLE + 0x1000);
        m.set(Rbp, HOLE + 0x1000);
        if stack {
            m.set(Rsp, HOLE + 0x1000);
        }
        m.write(CODE, code);
        assert_eq!(m.faults(vector, 0).rip, CODE, "{code:x?}");
    }
    // RET: the stack pointer stays.
    let mut m = Machine::long();
    let c = m.code(CODE, |a| {
        a.mov(rax, HOLE)?;
        a.push(rax)?;
        a.ret()
    });
    let t = m.faults(GP, 0);
    assert_eq!((t.rip, t.rsp), (c.at[2], STACK - 8));
    // Running off the end of the canonical half.
    let mut m = Machine::long();
    m.map(HOLE - 0x1000, FREE | P);
    m.write(FREE + 0xffe, &[0x90, 0x90]);
    m.state.rip = HOLE - 2;
    assert_eq!(m.faults(GP, 0).rip, HOLE);
    // An operand that straddles it.
    let mut m = Machine::long();
    m.map(HOLE - 0x1000, FREE | P | RW);
    m.set(Rax, HOLE - 4);
    m.write(CODE, &[0x48, 0x89, 0x00]);
    m.faults(GP, 0);
}

/// Vol. 3A §7.2.3, §3.5.2: system descriptors of 16 bytes.
#[test]
fn wide_system_descriptors() {
    let high = 0xffff_8000u64;
    let mut m = Machine::long();
    m.set_descriptor(SPARE, descriptor(0x1234_5000, 0x67, 0x89, 0));
    m.set_descriptor(SPARE + 8, high);
    m.set_descriptor(SPARE + 16, descriptor(0x2345_6000, 0xff, 0x82, 0));
    m.set_descriptor(SPARE + 24, high);
    m.code(CODE, |a| {
        a.mov(eax, SPARE as u32)?;
        a.ltr(ax)?;
        a.mov(eax, SPARE as u32 + 16)?;
        a.lldt(ax)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.state.tr.base, 0xffff_8000_1234_5000);
    assert_eq!(m.state.ldtr.base, 0xffff_8000_2345_6000);
    // The second half beyond the table; with a type; a base that is not canonical; a 16-bit TSS.
    for (selector, low, high) in [
        (GDT_LIMIT - 7, descriptor(0, 0x67, 0x89, 0), 0),
        (SPARE, descriptor(0, 0x67, 0x89, 0), 1 << 40),
        (SPARE, descriptor(0, 0x67, 0x89, 0), HOLE >> 32),
        (SPARE, descriptor(0, 0x67, 0x81, 0), 0),
    ] {
        let mut m = Machine::long();
        m.set_descriptor(selector, low);
        m.set_descriptor(selector + 8, high);
        m.code(CODE, |a| {
            a.mov(eax, selector as u32)?;
            a.ltr(ax)
        });
        m.faults(GP, selector as u64);
    }
}

/// Vol. 2A, LAR and LSL in IA-32e mode: 16-bit system types and task gates are not described.
#[test]
fn lar_in_long_mode() {
    for (d, lar, lsl) in [
        (descriptor(0, 0x67, 0x89, 0), true, true),
        (descriptor(0, 0x67, 0x8b, 0), true, true),
        (descriptor(0, 0xff, 0x82, 0), true, true),
        (gate(KERNEL64, 0, 0x8c, 0), true, false),
        (descriptor(0, 0x67, 0x81, 0), false, false),
        (gate(KERNEL64, 0, 0x84, 0), false, false),
        (gate(KERNEL64, 0, 0x85, 0), false, false),
        (gate(KERNEL64, 0, 0x8e, 0), false, false),
        (descriptor(0, 0xf_ffff, 0x9b, 0xa), true, true),
    ] {
        let mut m = Machine::long();
        m.set_descriptor(SPARE, d);
        m.code(CODE, |a| {
            a.mov(edx, SPARE as u32)?;
            a.xor(ebx, ebx)?;
            a.lar(eax, edx)?;
            a.setz(bl)?;
            a.lsl(eax, edx)?;
            a.setz(bh)?;
            a.hlt()
        });
        m.halts();
        assert_eq!(m.reg(Rbx), lar as u64 | (lsl as u64) << 8, "{d:x}");
    }
}

/// Vol. 2B, MOV to SS: null is for 64-bit code below CPL 3 with RPL = CPL.
#[test]
fn null_stack_segments() {
    for (selector, ok) in [(0u32, true), (1, false), (3, false)] {
        let mut m = Machine::long();
        m.code(CODE, |a| {
            a.mov(eax, selector)?;
            a.mov(ss, ax)?;
            a.push(rax)?;
            a.hlt()
        });
        if ok {
            m.halts()
        } else {
            assert_eq!(m.faults(GP, 0).rip, CODE + 5)
        }
    }
    let mut m = Machine::long();
    m.user();
    m.code(USER_CODE, |a| {
        a.mov(eax, 3)?;
        a.mov(ss, ax)
    });
    m.faults(GP, 0);
    let mut m = Machine::long();
    m.compatibility(0);
    m.code(CODE, |a| {
        a.xor(eax, eax)?;
        a.mov(ss, ax)
    });
    m.faults(GP, 0);
}
