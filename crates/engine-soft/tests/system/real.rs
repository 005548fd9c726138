//! Real-address mode (Intel SDM vol. 3B ch. 21).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::exception::*;
use donjon_x86::{DescriptorTable, Seg};
use iced_x86::code_asm::*;

const AT: u64 = 0x7c00;

/// §21.1.1: a segment's base is its selector times 16.
#[test]
fn addresses_are_selector_times_sixteen_plus_offset() {
    let mut m = Machine::real();
    m.write16(0x1_2340 + 0x10, 0xbeef);
    m.code(AT, |a| {
        a.mov(ax, 0x1234u32 as i32)?;
        a.mov(ds, ax)?;
        a.mov(bx, word_ptr(0x10))?;
        a.mov(es, ax)?;
        a.mov(di, 0xfff0u32 as i32)?;
        a.mov(word_ptr(di + 0xe).es(), bx)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rbx) & 0xffff, 0xbeef);
    assert_eq!(m.read16(0x1_2340 + 0xfffe), 0xbeef);
}

/// §21.1.1: FFFF:FFFF is 10FFEF, beyond 1 MiB; there is no A20 gate to wrap it.
#[test]
fn the_highest_address_lies_beyond_one_megabyte() {
    let mut m = Machine::real();
    m.write(0x10_ffef, &[0x5a]);
    m.code(AT, |a| {
        a.mov(ax, -1)?;
        a.mov(ds, ax)?;
        a.mov(bx, -1)?;
        a.mov(cl, byte_ptr(bx))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rcx) & 0xff, 0x5a);
}

/// §21.1.1 and table 21-2: an access beyond FFFF is interrupt 13 (12 through SS), without error code.
#[test]
fn accesses_beyond_the_limit_fault() {
    let mut m = Machine::real();
    let c = m.code(AT, |a| {
        a.mov(bx, -1)?;
        a.mov(ax, word_ptr(bx))?;
        a.hlt()
    });
    let t = m.faults(GP, 0);
    assert_eq!((t.rip, t.cs), (c.at[1], 0));
    assert_eq!(m.reg(Rsp), 0xfff0 - 6);

    let mut m = Machine::real();
    let c = m.code(AT, |a| {
        a.mov(bp, -1)?;
        a.mov(ax, word_ptr(bp))?;
        a.hlt()
    });
    assert_eq!(m.faults(SS, 0).rip, c.at[1]);
    // Execution itself runs into the limit.
    let mut m = Machine::real();
    m.code(AT, |a| a.db(&[0xe9, 0xfc, 0x83])); // jmp FFFF
    m.write(0xffff, &[0x89, 0xc0]);
    m.set(Rsp, 0x9000);
    assert_eq!(m.faults(GP, 0).rip, 0xffff);
}

/// Vol. 2, PUSH: 16-bit stack pointers wrap; a push that itself crosses the limit is interrupt 12.
#[test]
fn the_stack_wraps() {
    let mut m = Machine::real();
    m.load(Seg::Ss, DATA16);
    let stack = &mut m.state.segments[Seg::Ss as usize];
    (stack.selector, stack.base) = (0x2000, 0x2_0000);
    m.set(Rsp, 0x1234_0002);
    m.code(AT, |a| {
        a.mov(ax, 0x1111)?;
        a.push(ax)?;
        a.push(ax)?;
        a.call_far(0, AT as u32 + 0x100)?;
        a.hlt()
    });
    m.code(AT + 0x100, |a| a.hlt());
    m.halts();
    assert_eq!(m.reg(Rsp), 0x1234_fffa);
    assert_eq!((m.read16(0x2_0000), m.read16(0x2_fffe)), (0x1111, 0x1111));
    assert_eq!(m.state.rip, AT + 0x101);
    // CS and the return address to either side of the wrap.
    m.set(Rsp, 2);
    m.code(AT, |a| a.call_far(0, AT as u32 + 0x100));
    m.state.rip = AT;
    m.halts();
    assert_eq!(
        (m.reg(Rsp), m.read16(0x2_0000), m.read16(0x2_fffe)),
        (0xfffe, 0, AT as u16 + 5)
    );
    // One byte short: #SS, and with no room to deliver it either, shutdown.
    m.set(Rsp, 1);
    m.code(AT, |a| a.push(ax));
    m.state.rip = AT;
    assert_eq!(m.run(), Stopped::Shutdown);
}

/// §21.1.4: an interrupt pushes FLAGS, CS, IP and clears IF, TF and AC; IRET takes them back.
#[test]
fn interrupts_go_through_the_vector_table() {
    let mut m = Machine::real();
    m.write32(0x21 * 4, 0x0800_0010);
    m.code_at(16, 0x10, 0x8010, |a| {
        a.pushf()?;
        a.pop(dx)?;
        a.iret()
    });
    let c = m.code(AT, |a| {
        a.sti()?;
        a.stc()?;
        a.int(0x21)?;
        a.pushf()?;
        a.pop(cx)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rcx) & 0xffff, 0x203, "IF and CF are back");
    assert_eq!(m.reg(Rdx) & 0xffff, 0x003, "IF is clear in the handler");
    assert_eq!((m.read16(0xfff0 - 6), m.read16(0xfff0 - 4)), (c.at[3] as u16, 0));
    assert_eq!(m.reg(Rsp), 0xfff0);
}

/// §21.1.4: IDTR moves and limits the vector table; a vector beyond it is interrupt 13 and, that beyond it
/// too, a shutdown in the end (vol. 3A §6.15, interrupt 8).
#[test]
fn the_vector_table_can_move() {
    let mut m = Machine::real();
    m.state.idtr = DescriptorTable {
        base: 0x5000,
        limit: 0x3f,
    };
    m.write32(0x5000 + 13 * 4, (HANDLERS + 13 * 16) as u32);
    let c = m.code(AT, |a| a.int(0x21));
    assert_eq!(m.faults(GP, 0).rip, c.at[0]);
    m.state.idtr.limit = 0x0f;
    m.state.rip = AT;
    assert_eq!(m.run(), Stopped::Shutdown);
}

/// §21.1.3: far transfers load CS and, by operand size, IP or EIP.
#[test]
fn far_calls_jumps_and_returns() {
    let mut m = Machine::real();
    m.code(AT, |a| {
        a.call_far(0x1000, 0x20)?;
        a.hlt()
    });
    m.code_at(16, 0x20, 0x1_0020, |a| {
        a.mov(bp, sp)?;
        a.mov(bx, word_ptr(bp))?;
        a.mov(dx, word_ptr(bp + 2))?;
        a.db(&[0x66, 0x9a, 0x30, 0, 0, 0, 0x00, 0x20])?; // call dword 2000:30
        a.db(&[0xca, 0x02, 0x00]) // retf 2
    });
    m.code_at(16, 0x30, 0x2_0030, |a| {
        a.mov(bp, sp)?;
        a.mov(ecx, dword_ptr(bp))?;
        a.mov(esi, dword_ptr(bp + 4))?;
        a.db(&[0x66, 0xcb]) // retfd
    });
    m.halts();
    assert_eq!((m.reg(Rbx) & 0xffff, m.reg(Rdx) & 0xffff), (AT + 5, 0));
    assert_eq!(m.reg(Rcx), 0x20 + 8 + 8);
    assert_eq!(m.reg(Rsi), 0x1000);
    assert_eq!((m.state.rip, m.reg(Rsp)), (AT + 6, 0xfff2));
    // Through memory, m16:16.
    m.write32(0x500, 0x3000_0040);
    m.code_at(16, 0x40, 0x3_0040, |a| a.hlt());
    m.code(AT, |a| a.db(&[0xff, 0x2e, 0x00, 0x05])); // jmp far [500]
    m.state.rip = AT;
    m.state.segments[Seg::Cs as usize].base = 0;
    m.halts();
    assert_eq!(
        (m.seg(Seg::Cs).selector, m.seg(Seg::Cs).base, m.state.rip),
        (0x3000, 0x3_0000, 0x41)
    );
}

/// Vol. 2A, IRET: in real mode the 32-bit form keeps VM, VIF and VIP and takes the rest.
#[test]
fn iretd_in_real_mode() {
    let mut m = Machine::real();
    let push = [0x66, 0x68];
    m.write(AT, &[&push[..], &0x3e_7ed7u32.to_le_bytes()].concat());
    m.write(AT + 6, &[&push[..], &0u32.to_le_bytes()].concat());
    m.write(AT + 12, &[&push[..], &0x7d00u32.to_le_bytes()].concat());
    m.write(AT + 18, &[0x66, 0xcf]); // iretd
    m.code(AT + 0x100, |a| a.hlt());
    m.halts();
    assert_eq!(m.state.rflags, 0x3e_7ed7 & 0x25_7fd5 | 2);
}

/// Vol. 1 §3.6: prefixes select the other operand and address size.
#[test]
fn prefixes_reach_32_bits() {
    let mut m = Machine::real();
    m.write32(0x8800, 0xcafe_babe);
    m.code(AT, |a| {
        a.mov(ebx, 0x8000)?;
        a.mov(ecx, 0x200)?;
        a.mov(eax, dword_ptr(ebx + ecx * 4))?;
        a.mov(esi, -1)?;
        a.mov(si, 5)?;
        a.lea(edi, dword_ptr(ebx + esi * 2))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax), 0xcafe_babe);
    assert_eq!(
        m.reg(Rdi),
        0x8000u32.wrapping_add(0xffff_0005u32.wrapping_mul(2)) as u64
    );
    // 16-bit addresses wrap at 64 KiB before the limit is looked at.
    let mut m = Machine::real();
    m.write16(0x10, 0x7777);
    m.code(AT, |a| {
        a.mov(bx, 0xfff0u32 as i32)?;
        a.mov(si, 0x20)?;
        a.mov(ax, word_ptr(bx + si))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax) & 0xffff, 0x7777);
    // 32-bit addresses do not, and meet the limit.
    let mut m = Machine::real();
    let c = m.code(AT, |a| {
        a.mov(ebx, 0x1_0000)?;
        a.mov(ax, word_ptr(ebx))?;
        a.hlt()
    });
    assert_eq!(m.faults(GP, 0).rip, c.at[1]);
}

/// Vol. 2A, LOOP and JCXZ: the address size picks the counter.
#[test]
fn counters_follow_the_address_size() {
    let mut m = Machine::real();
    m.code(AT, |a| {
        a.mov(ecx, 0x1_0000)?;
        a.db(&[0xe3, 0x01])?; // jcxz +1
        a.hlt()?;
        a.db(&[0x67, 0xe3, 0x02])?; // jecxz +2
        a.mov(al, 1)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax) & 0xff, 1);
}

/// §9.9.1, §3.4.4: limits left from protected mode stay ("big real mode").
#[test]
fn limits_survive_the_return_to_real_mode() {
    let mut m = Machine::real();
    m.write32(0x12_3456, 0x1357_9bdf);
    m.write16(0x600, GDT_LIMIT);
    m.write32(0x602, GDT as u32);
    m.code(AT, |a| {
        a.cli()?;
        a.lgdt(fword_ptr(0x600))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, KERNEL_DATA as i32)?;
        a.mov(ds, bx)?;
        a.and(al, 0xfeu32 as i32)?;
        a.mov(cr0, eax)?;
        a.xor(bx, bx)?;
        a.mov(ds, bx)?;
        a.mov(esi, 0x12_3456)?;
        a.mov(edx, dword_ptr(esi))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rdx), 0x1357_9bdf);
    assert_eq!((m.seg(Seg::Ds).limit, m.seg(Seg::Ds).base), (u32::MAX, 0));
}

/// §9.9: to 16-bit and 32-bit protected mode and back.
#[test]
fn to_protected_mode_and_back() {
    let mut m = Machine::real();
    m.write16(0x600, GDT_LIMIT);
    m.write32(0x602, 0xff00_0000 | GDT as u32); // the 16-bit form takes 24 bits of base
    m.code(AT, |a| {
        a.lgdt(fword_ptr(0x600))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.jmp_far(KERNEL16, 0x7d00)
    });
    m.code(0x7d00, |a| {
        a.mov(ax, KERNEL_DATA as i32)?;
        a.mov(ss, ax)?;
        a.mov(esp, STACK as i32)?;
        a.db(&[0x66, 0xea, 0, 0, 1, 0, KERNEL32 as u8, 0]) // jmp dword KERNEL32:10000
    });
    m.code_at(32, CODE, CODE, |a| {
        a.push(0x1234_5678)?;
        a.str(di)?;
        a.jmp_far(KERNEL16, 0x7e00)
    });
    m.code(0x7e00, |a| {
        a.mov(ax, DATA16 as i32)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(eax, cr0)?;
        a.and(al, 0xfeu32 as i32)?;
        a.mov(cr0, eax)?;
        a.jmp_far(0x100, 0x6f00)
    });
    m.code_at(16, 0x6f00, 0x7f00, |a| {
        a.mov(ax, 0x80)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x100)?;
        a.int(0x40)
    });
    let t = m.traps();
    assert_eq!((t.vector, t.cs, t.rip), (0x40, 0x100, 0x6f0a));
    assert_eq!(m.state.gdtr.base, GDT);
    assert_eq!(m.read32(STACK - 4), 0x1234_5678);
    assert_eq!(m.reg(Rdi) & 0xffff, 0, "TR was not loaded");
    assert_eq!((m.seg(Seg::Ss).base, m.reg(Rsp) & 0xffff), (0x800, 0xfa));
}

/// Vol. 2A, LGDT and SGDT: the 16-bit forms load 24 bits of base and store all 32.
#[test]
fn descriptor_table_registers() {
    let mut m = Machine::real();
    m.write16(0x600, 0x1234);
    m.write32(0x602, 0x89ab_cdef);
    m.code(AT, |a| {
        a.lgdt(fword_ptr(0x600))?;
        a.db(&[0x66, 0x0f, 0x01, 0x1e, 0x00, 0x06])?; // lidtd [600]
        a.sgdt(fword_ptr(0x610))?;
        a.sidt(fword_ptr(0x620))?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.state.gdtr.base, m.state.gdtr.limit), (0xab_cdef, 0x1234));
    assert_eq!((m.state.idtr.base, m.state.idtr.limit), (0x89ab_cdef, 0x1234));
    assert_eq!((m.read16(0x610), m.read32(0x612)), (0x1234, 0xab_cdef));
    assert_eq!((m.read16(0x620), m.read32(0x622)), (0x1234, 0x89ab_cdef));
}

/// Vol. 2: instructions of protected mode are #UD in real mode.
#[test]
fn protected_mode_instructions_do_not_exist() {
    let encodings: [&[u8]; 8] = [
        &[0x0f, 0x00, 0xc0], // sldt ax
        &[0x0f, 0x00, 0xc8], // str ax
        &[0x0f, 0x00, 0xd0], // lldt ax
        &[0x0f, 0x00, 0xd8], // ltr ax
        &[0x0f, 0x00, 0xe0], // verr ax
        &[0x0f, 0x02, 0xc0], // lar ax, ax
        &[0x0f, 0x03, 0xc0], // lsl ax, ax
        &[0x63, 0xc0],       // arpl ax, ax
    ];
    for e in encodings {
        let mut m = Machine::real();
        m.write(AT, e);
        assert_eq!(m.faults(UD, 0).rip, AT, "{e:x?}");
    }
    // SYSENTER needs protected mode too, but says so with interrupt 13.
    let mut m = Machine::real();
    m.write(AT, &[0x0f, 0x34]);
    m.faults(GP, 0);
}

/// §9.9.2: a data segment that was null in protected mode is usable again once loaded in real mode.
#[test]
fn a_null_segment_revives_in_real_mode() {
    let mut m = Machine::real();
    m.write16(0x600, GDT_LIMIT);
    m.write32(0x602, GDT as u32);
    m.write16(0x1_0000, 0x4242);
    m.code(AT, |a| {
        a.lgdt(fword_ptr(0x600))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.xor(bx, bx)?;
        a.mov(es, bx)?;
        a.and(al, 0xfeu32 as i32)?;
        a.mov(cr0, eax)?;
        a.mov(bx, 0x1000)?;
        a.mov(es, bx)?;
        a.mov(dx, word_ptr(0).es())?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rdx) & 0xffff, 0x4242);
}
