//! System calls and segment bases of 64-bit code (Intel SDM vol. 3A §5.8.7, §5.8.8, §3.4.4).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::Seg;
use donjon_x86::bits::{cr4 as cr4_bits, efer, rflags};
use donjon_x86::exception::*;
use donjon_x86::msr;
use iced_x86::code_asm::*;

const HOLE: u64 = 0x8000_0000_0000;

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
