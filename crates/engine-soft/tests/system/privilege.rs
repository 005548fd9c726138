//! Ports, privileged instructions and the machine status word in protected mode (Intel SDM vol. 3A §5.9,
//! vol. 1 §19.5).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::rflags;
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

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
