//! 64-bit and compatibility mode (Intel SDM vol. 3A §5.8, §6.14, vol. 2).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer, rflags};
use donjon_x86::exception::*;
use donjon_x86::msr;
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

/// Vol. 2B, SYSCALL and SYSRET.
#[test]
fn syscall_and_sysret() {
    let star = (KERNEL64 as u64) << 32 | (USER32 as u64) << 48;
    let mut m = Machine::long();
    m.user();
    m.state.msrs.star = star;
    m.state.msrs.lstar = CODE;
    m.state.msrs.fmask = rflags::IF | rflags::DF;
    m.state.rflags |= rflags::IF | rflags::DF | rflags::CF;
    let c = m.code(USER_CODE, |a| a.syscall());
    m.code(CODE, |a| a.hlt());
    m.halts();
    assert_eq!(
        (m.reg(Rcx), m.reg(R11)),
        (c.end, 2 | rflags::IF | rflags::DF | rflags::CF)
    );
    assert_eq!(m.state.rflags, 2 | rflags::CF);
    assert_eq!(
        (m.seg(Seg::Cs).selector, m.seg(Seg::Ss).selector),
        (KERNEL64, KERNEL_DATA)
    );
    assert_eq!(m.reg(Rsp), USER_STACK, "the stack pointer is the program's own");
    // Back, to 64-bit and to compatibility code.
    m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
    for (code, target) in [(&[0x48u8, 0x0f, 0x07][..], USER64), (&[0x0f, 0x07], USER32)] {
        m.load(Seg::Cs, KERNEL64);
        m.load(Seg::Ss, KERNEL_DATA);
        m.write(CODE, code);
        m.state.rip = CODE;
        m.set(Rcx, USER_CODE + 0x100);
        m.set(R11, 0xffff_ffff_ffff_feff);
        m.set(Rsp, USER_STACK);
        m.write(USER_CODE + 0x100, &[0xcd, 0x80]);
        let t = m.traps();
        assert_eq!((t.vector, t.cs, t.ss), (0x80, target, USER_DATA));
        assert_eq!(t.flags, 0x3c_7ed7 & !rflags::RF | 2);
    }
    // #UD without EFER.SCE and in compatibility mode; SYSRET: #GP at CPL 3 and for a bad RCX, at CPL 0.
    let mut m = Machine::long();
    m.state.msrs.efer &= !efer::SCE;
    m.code(CODE, |a| a.syscall());
    m.faults(UD, 0);
    let mut m = Machine::long();
    m.compatibility(3);
    m.code(USER_CODE, |a| a.syscall());
    m.faults(UD, 0);
    let mut m = Machine::long();
    m.user();
    m.code(USER_CODE, |a| a.sysretq());
    m.faults(GP, 0);
    let mut m = Machine::long();
    m.set(Rcx, HOLE);
    m.code(CODE, |a| a.sysretq());
    let t = m.faults(GP, 0);
    assert_eq!((t.cs, t.rsp), (KERNEL64, STACK));
}

/// Vol. 2B, SYSENTER and SYSEXIT, from and to 64-bit, compatibility and 32-bit code.
#[test]
fn sysenter_and_sysexit() {
    let arm = |m: &mut Machine| {
        m.state.msrs.sysenter_cs = KERNEL64 as u64;
        m.state.msrs.sysenter_eip = CODE;
        m.state.msrs.sysenter_esp = STACK;
        m.state.rflags |= rflags::IF;
    };
    let setups: [fn(&mut Machine); 2] = [|m| m.user(), |m| m.compatibility(3)];
    for setup in setups {
        let mut m = Machine::long();
        setup(&mut m);
        arm(&mut m);
        m.code(USER_CODE, |a| a.sysenter());
        m.write(CODE, &[0x48, 0xff, 0xc0, 0xf4]); // inc rax; hlt
        m.set(Rax, 0xffff_ffff);
        m.halts();
        assert_eq!(
            (m.seg(Seg::Cs).selector, m.seg(Seg::Ss).selector),
            (KERNEL64, KERNEL_DATA)
        );
        assert_eq!((m.reg(Rsp), m.state.rflags & rflags::IF), (STACK, 0));
        assert_eq!(m.reg(Rax), 0x1_0000_0000, "64-bit code");
    }
    let mut m = Machine::protected();
    m.user();
    arm(&mut m);
    m.state.msrs.sysenter_cs = KERNEL32 as u64;
    m.code(USER_CODE, |a| a.sysenter());
    m.code(CODE, |a| a.hlt());
    m.halts();
    assert_eq!((m.seg(Seg::Cs).selector, m.reg(Rsp)), (KERNEL32, STACK));
    // SYSEXIT.
    for (code, target) in [(&[0x48u8, 0x0f, 0x35][..], USER64), (&[0x0f, 0x35], USER32)] {
        let mut m = Machine::long();
        arm(&mut m);
        m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
        m.write(CODE, code);
        m.set(Rdx, USER_CODE);
        m.set(Rcx, USER_STACK);
        m.write(USER_CODE, &[0xcd, 0x80]);
        let t = m.traps();
        let stack = if target == USER64 { target + 8 } else { USER_DATA };
        assert_eq!((t.vector, t.cs, t.ss, t.rsp), (0x80, target, stack, USER_STACK));
    }
    // Without IA32_SYSENTER_CS: #GP(0).
    for code in [[0x0f, 0x34], [0x0f, 0x35]] {
        let mut m = Machine::long();
        m.write(CODE, &code);
        m.faults(GP, 0);
    }
    for register in [Rdx, Rcx] {
        let mut m = Machine::long();
        arm(&mut m);
        m.write(CODE, &[0x48, 0x0f, 0x35]);
        m.set(register, HOLE);
        m.faults(GP, 0);
    }
}

/// Vol. 3A §3.4.4: only FS and GS have bases in 64-bit mode, of 64 bits, through MSRs, SWAPGS and
/// WRFSBASE; loading a selector loads 32 bits.
#[test]
fn segment_bases() {
    let mut m = Machine::long();
    m.set_descriptor(SPARE, descriptor(0x1000, 0xf_ffff, 0x93, 0xc));
    m.state.cr4 |= cr4_bits::FSGSBASE;
    m.map(0xffff_8000_0000_0000, FREE | P | RW);
    m.write64(FREE + 0x10, 0x1122);
    m.write64(DATA + 0x1000, 0x3344);
    m.code(CODE, |a| {
        a.mov(eax, SPARE as u32)?;
        a.mov(ds, ax)?;
        a.mov(fs, ax)?;
        a.rdfsbase(rsi)?;
        a.mov(rbx, DATA)?;
        a.mov(rcx, qword_ptr(rbx))?; // DS has no base here
        a.mov(rdx, qword_ptr(rbx).fs())?;
        a.mov(rax, 0xffff_8000_0000_0000u64)?;
        a.wrgsbase(rax)?;
        a.mov(rdi, qword_ptr(0x10).gs())?;
        a.swapgs()?;
        a.rdgsbase(r8)?;
        a.mov(ecx, msr::IA32_KERNEL_GS_BASE)?;
        a.mov(eax, 0x5000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.swapgs()?;
        a.rdgsbase(r9)?;
        a.hlt()
    });
    m.state.msrs.kernel_gs_base = 0x7777;
    m.halts();
    assert_eq!((m.reg(Rsi), m.reg(Rdi)), (0x1000, 0x1122));
    assert_eq!((m.reg(R8), m.reg(R9)), (0x7777, 0x5000));
    assert_eq!(m.state.msrs.kernel_gs_base, 0x7777);
    let mut m = Machine::long();
    m.set(Rax, HOLE);
    m.write(CODE, &[0xf3, 0x48, 0x0f, 0xae, 0xd0]); // wrfsbase rax
    m.faults(UD, 0); // without CR4.FSGSBASE
    m.state.cr4 |= cr4_bits::FSGSBASE;
    m.state.rip = CODE;
    m.set(Rax, HOLE);
    m.faults(GP, 0);
    let mut m = Machine::long();
    m.user();
    m.write(USER_CODE, &[0x0f, 0x01, 0xf8]); // swapgs
    m.faults(GP, 0);
    let mut m = Machine::long();
    m.compatibility(0);
    m.write(CODE, &[0x0f, 0x01, 0xf8]);
    m.faults(UD, 0);
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

/// Vol. 2B, MOV to and from control registers: faults and side effects.
#[test]
fn control_registers() {
    // (number, value, fault)
    let keep = u64::MAX; // "the present value"
    for (n, set, clear, vector) in [
        (0u8, 1 << 32, 0, Some(GP)),
        (0, 0, cr0_bits::PE, Some(GP)),
        (0, 0, cr0_bits::PG, Some(GP)),
        (0, cr0_bits::NW, 0, Some(GP)),
        (0, cr0_bits::CD, 0, None),
        (0, 1 << 6, 0, None),
        (3, 1 << 40, 0, Some(GP)),
        (3, 1 << 63, 0, Some(GP)),
        (3, 0x18, 0, None),
        (4, 0, cr4_bits::PAE, Some(GP)),
        (4, 1 << 15, 0, Some(GP)),
        (4, cr4_bits::VMXE, 0, Some(GP)),
        (4, 1 << 40, 0, Some(GP)),
        (4, cr4_bits::PCIDE, 0, None),
        (8, 16, keep, Some(GP)),
        (8, 15, keep, None),
        (1, 0, 0, Some(UD)),
        (5, 0, 0, Some(UD)),
        (9, 0, 0, Some(UD)),
    ] {
        let mut m = Machine::long();
        let old = [m.state.cr0, 0, 0, m.state.cr3, m.state.cr4, 0, 0, 0, 0, 0][n as usize];
        let v = if clear == keep { set } else { (old | set) & !clear };
        m.set(Rax, v);
        let rex = 0x48 | if n >= 8 { 4 } else { 0 };
        m.write(CODE, &[rex, 0x0f, 0x22, 0xc0 | (n & 7) << 3]);
        m.write(CODE + 4, &[rex, 0x0f, 0x20, 0xc1 | (n & 7) << 3, 0xf4]);
        match vector {
            Some(vector) => assert_eq!(m.faults(vector, 0).rip, CODE, "cr{n} {v:x}"),
            None => {
                m.halts();
                let want = if n == 0 { v & cr0_bits::ALL } else { v };
                assert_eq!(m.reg(Rcx), want, "cr{n}");
            }
        }
    }
    // PCIDE with a CR3 that has low bits set.
    let mut m = Machine::long();
    m.state.cr3 |= 0x18;
    m.set(Rax, m.state.cr4 | cr4_bits::PCIDE);
    m.code(CODE, |a| a.mov(cr4, rax));
    m.faults(GP, 0);
    // CR1 is #UD at CPL 3 as well.
    let mut m = Machine::long();
    m.user();
    m.write(USER_CODE, &[0x0f, 0x20, 0xc8]);
    m.faults(UD, 0);
}

/// Vol. 3A §9.8.5: into IA-32e mode and out of it again.
#[test]
fn switching_long_mode() {
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.mov(rax, CODE + 0x100)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.mov(word_ptr(DATA + 4), KERNEL32 as i32)?;
        a.jmp(fword_ptr(DATA))
    });
    m.code_at(32, CODE + 0x100, CODE + 0x100, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, msr::IA32_EFER)?;
        a.rdmsr()?;
        a.mov(esi, eax)?; // LMA is clear now
        a.and(eax, !(efer::LME as i32))?;
        a.wrmsr()?;
        a.or(eax, efer::LME as i32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32)?;
        a.mov(cr0, eax)?;
        a.rdmsr()?;
        a.jmp_far(KERNEL64, CODE as u32 + 0x200)
    });
    m.code(CODE + 0x200, |a| {
        a.mov(r15, 0x1234_5678_9abc_def0u64)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rsi) & (efer::LME | efer::LMA), efer::LME);
    assert_eq!(m.reg(Rax) & (efer::LME | efer::LMA), efer::LME | efer::LMA);
    assert_eq!(m.reg(R15), 0x1234_5678_9abc_def0);
    // LME cannot change with paging on.
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.mov(ecx, msr::IA32_EFER)?;
        a.rdmsr()?;
        a.and(eax, !(efer::LME as i32))?;
        a.wrmsr()
    });
    m.faults(GP, 0);
    // LME without PAE: #GP when paging goes on; with a 16-bit TSS in TR too.
    for (pae, tss) in [(0, 0x8b), (cr4_bits::PAE, 0x83)] {
        let mut m = Machine::protected();
        m.state.cr3 = TABLES;
        m.state.cr4 |= pae;
        m.state.msrs.efer = efer::LME;
        m.state.tr.attributes.0 = tss;
        m.code(CODE, |a| {
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000u32)?;
            a.mov(cr0, eax)
        });
        m.faults(GP, 0);
    }
}

/// Vol. 2: user-mode instruction prevention.
#[test]
fn umip() {
    let encodings: [&[u8]; 5] = [
        &[0x0f, 0x01, 0x03], // sgdt [rbx]
        &[0x0f, 0x01, 0x0b], // sidt [rbx]
        &[0x0f, 0x00, 0xc0], // sldt eax
        &[0x0f, 0x00, 0xc8], // str eax
        &[0x0f, 0x01, 0xe0], // smsw eax
    ];
    for e in encodings {
        for on in [false, true] {
            let mut m = Machine::long();
            m.user();
            m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
            m.set(Rbx, DATA);
            m.write(USER_CODE, &[e, &[0xcd, 0x80]].concat());
            if on {
                m.state.cr4 |= cr4_bits::UMIP;
                m.faults(GP, 0);
            } else {
                m.faults(0x80, 0);
            }
        }
        let mut m = Machine::long();
        m.set(Rbx, DATA);
        m.state.cr4 |= cr4_bits::UMIP;
        m.write(CODE, &[e, &[0xf4]].concat());
        m.halts();
    }
}

/// Vol. 2B, XSETBV and XGETBV.
#[test]
fn extended_control_registers() {
    for (number, value, ok) in [
        (0, 1, true),
        (0, 3, true),
        (0, 7, true),
        (0, 0, false),
        (0, 2, false),
        (0, 5, false),
        (0, 0xf, false),
        (0, 1 << 40 | 1, false),
        (1, 1, false),
    ] {
        let mut m = Machine::long();
        m.set(Rax, value & 0xffff_ffff);
        m.set(Rdx, value >> 32);
        m.set(Rcx, number);
        m.write(CODE, &[0x0f, 0x01, 0xd1, 0x31, 0xc0, 0x0f, 0x01, 0xd0, 0xf4]);
        if ok {
            m.halts();
            assert_eq!((m.reg(Rax), m.reg(Rdx)), (value, 0));
        } else {
            m.faults(GP, 0);
        }
    }
    for code in [[0x0f, 0x01, 0xd1], [0x0f, 0x01, 0xd0]] {
        let mut m = Machine::long();
        m.state.cr4 &= !cr4_bits::OSXSAVE;
        m.write(CODE, &code);
        m.faults(UD, 0);
    }
    let mut m = Machine::long();
    m.user();
    m.set(Rax, 1);
    m.write(USER_CODE, &[0x0f, 0x01, 0xd1]);
    m.faults(GP, 0);
}

/// Vol. 4: MSRs that need canonical addresses or have reserved bits; unknown ones; CPL.
#[test]
fn model_specific_registers() {
    let mut addresses = vec![
        msr::IA32_LSTAR,
        msr::IA32_CSTAR,
        msr::IA32_FS_BASE,
        msr::IA32_GS_BASE,
    ];
    addresses.extend([
        msr::IA32_KERNEL_GS_BASE,
        msr::IA32_SYSENTER_ESP,
        msr::IA32_SYSENTER_EIP,
    ]);
    let cases = addresses
        .iter()
        .flat_map(|a| [(*a, HOLE, false), (*a, 0xffff_8000_0000_1000, true)]);
    let cases = cases.chain([
        (msr::IA32_EFER, 0xd01 | 1 << 12, false),
        (msr::IA32_EFER, 0x501, true),
        (msr::IA32_FMASK, 1 << 32, false),
        (msr::IA32_TSC_AUX, 1 << 32, false),
        (msr::IA32_PAT, 0x0007_0406_0007_0402, false),
        (msr::IA32_PAT, 0x0007_0106_0007_0406, true),
        (msr::IA32_SYSENTER_CS, 0x10, true),
        (0x1234_5678, 0, false),
    ]);
    for (n, v, ok) in cases {
        let mut m = Machine::long();
        m.set(Rcx, n as u64);
        m.set(Rax, v & 0xffff_ffff);
        m.set(Rdx, v >> 32);
        m.code(CODE, |a| {
            a.wrmsr()?;
            a.rdmsr()?;
            a.hlt()
        });
        if ok {
            m.halts();
            assert_eq!(m.reg(Rax) | m.reg(Rdx) << 32, v, "{n:x}");
        } else {
            assert_eq!(m.faults(GP, 0).rip, CODE, "{n:x}");
        }
    }
}
