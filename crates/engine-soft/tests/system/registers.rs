//! Control registers, XCR0 and MSRs: what they refuse and what follows from them (Intel SDM vol. 3A §2.5,
//! §9.8.5).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer};
use donjon_x86::exception::*;
use donjon_x86::msr;
use iced_x86::code_asm::*;

const HOLE: u64 = 0x8000_0000_0000;

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
