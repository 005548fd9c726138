//! Paging (Intel SDM vol. 3A ch. 4).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer, rflags};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// A linear address whose every table is its own.
pub const L: u64 = 0x1234_5678_9000;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Read,
    Write,
    Fetch,
}
use Kind::*;

/// Runs one access at `at`, at CPL 3 or 0; then INT 80.
fn attempt(m: &mut Machine, at: u64, kind: Kind, user: bool) -> Stopped {
    m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
    if user {
        m.user();
    } else {
        m.state.rip = USER_CODE;
    }
    m.set(Rbx, at);
    let code: &[u8] = match kind {
        Read => &[0x8a, 0x03, 0xcd, 0x80],
        Write => &[0x88, 0x03, 0xcd, 0x80],
        Fetch => &[0xff, 0xe3],
    };
    m.write(USER_CODE, code);
    m.run()
}

/// The outcome of an access: `None`, or the error code of the page fault, whose CR2 must be `at`.
#[track_caller]
pub fn outcome(m: &mut Machine, at: u64, kind: Kind, user: bool) -> Option<u64> {
    let stopped = attempt(m, at, kind, user);
    let t = m.trapped(stopped);
    if t.vector == 0x80 {
        return None;
    }
    assert_eq!(t.vector, PF, "{t:x?}");
    assert_eq!(m.state.cr2, at);
    t.code
}

/// A long-mode machine whose page at [`L`] holds INT 80, with these bits at each level besides the address.
pub fn mapped(bits: [u64; 4]) -> Machine {
    let mut m = Machine::long();
    m.write(FREE, &[0xcd, 0x80]);
    m.map(L, FREE | bits[3]);
    let entries = [39, 30, 21].map(|shift| m.entry(L, shift));
    for (at, b) in entries.into_iter().zip(bits) {
        let table = m.read64(at) & !ALL;
        m.write64(at, table | b);
    }
    m
}

pub const ALL: u64 = P | RW | US;

/// §4.6.1 and §4.7: access rights and error codes.
#[test]
fn access_rights_and_error_codes() {
    // (level bits, kind, user, error code)
    let cases = [
        ([ALL; 4], Read, true, None),
        ([ALL; 4], Write, true, None),
        ([ALL; 4], Fetch, true, None),
        ([0, 0, 0, 0], Read, false, Some(0)),
        ([ALL, 0, 0, 0], Read, false, Some(0)),
        ([ALL, ALL, 0, 0], Write, false, Some(2)),
        ([ALL, ALL, ALL, 0], Read, true, Some(4)),
        ([ALL, ALL, ALL, 0], Write, true, Some(6)),
        ([ALL, ALL, ALL, 0], Fetch, true, Some(0x14)),
        ([ALL, ALL, ALL, 0], Fetch, false, Some(0x10)),
        ([ALL, ALL, ALL, P | RW], Read, true, Some(5)),
        ([P | RW, ALL, ALL, ALL], Read, true, Some(5)),
        ([ALL, P | RW, ALL, ALL], Write, true, Some(7)),
        ([ALL, ALL, P | RW, ALL], Fetch, true, Some(0x15)),
        ([ALL, ALL, ALL, P | US], Write, true, Some(7)),
        ([P | US, ALL, ALL, ALL], Write, true, Some(7)),
        ([ALL, ALL, ALL, P | US], Write, false, Some(3)),
        ([ALL, P | US, ALL, ALL], Write, false, Some(3)),
        ([ALL, ALL, ALL, P | US], Read, false, None),
        ([ALL, ALL, ALL, P | RW], Write, false, None),
        ([ALL, ALL, ALL, ALL | XD], Fetch, true, Some(0x15)),
        ([ALL | XD, ALL, ALL, ALL], Fetch, false, Some(0x11)),
        ([ALL, ALL | XD, ALL, ALL], Read, true, None),
        ([ALL, ALL, ALL | XD, ALL], Fetch, true, Some(0x15)),
        // Reserved bits (table 4-14 and on): address bits above the width, PS in a PML4 entry.
        ([ALL, ALL, ALL, ALL | 1 << 40], Read, false, Some(9)),
        ([ALL, ALL, ALL, ALL | 1 << 51], Write, true, Some(0xf)),
        ([ALL | PS, ALL, ALL, ALL], Read, false, Some(9)),
        ([ALL | 1 << 45, ALL, ALL, ALL], Fetch, true, Some(0x1d)),
        // Ignored bits.
        (
            [ALL | 0x7ff << 52, ALL | 7 << 9, ALL, ALL | 0x7f << 52],
            Read,
            true,
            None,
        ),
    ];
    for (bits, kind, user, error) in cases {
        let mut m = mapped(bits);
        assert_eq!(outcome(&mut m, L, kind, user), error, "{bits:x?} {kind:?} {user}");
    }
    // Without NXE the XD bit is reserved, and the error code does not tell fetches apart.
    let mut m = mapped([ALL, ALL, ALL, ALL | XD]);
    m.state.msrs.efer &= !efer::NXE;
    assert_eq!(outcome(&mut m, L, Read, true), Some(0xd));
    let mut m = mapped([ALL, ALL, ALL, P | RW]);
    m.state.msrs.efer &= !efer::NXE;
    assert_eq!(outcome(&mut m, L, Fetch, true), Some(5));
    // Without WP the supervisor writes everywhere.
    let mut m = mapped([P | US, P, P, P]);
    m.state.cr0 &= !cr0_bits::WP;
    assert_eq!(outcome(&mut m, L, Write, false), None);
}

/// Makes everything below [`FREE`] the supervisor's.
pub fn supervisor_only(m: &mut Machine) {
    for page in (0..FREE).step_by(0x1000) {
        m.map(page, page | P | RW);
    }
}

/// §4.6.1: SMEP and SMAP; AC lets explicit accesses through, not those to the processor's own tables.
#[test]
fn smep_and_smap() {
    for (bit, kind, error) in [
        (cr4_bits::SMEP, Fetch, Some(0x11)),
        (cr4_bits::SMEP, Read, None),
        (cr4_bits::SMAP, Read, Some(1)),
        (cr4_bits::SMAP, Write, Some(3)),
        (cr4_bits::SMAP, Fetch, None),
    ] {
        let mut m = mapped([ALL; 4]);
        supervisor_only(&mut m);
        m.state.cr4 |= bit;
        assert_eq!(outcome(&mut m, L, kind, false), error, "{bit:x} {kind:?}");
        // AC: STAC.
        let mut m = mapped([ALL; 4]);
        supervisor_only(&mut m);
        m.state.cr4 |= bit;
        m.state.rflags |= rflags::AC;
        let want = if bit == cr4_bits::SMEP { error } else { None };
        assert_eq!(outcome(&mut m, L, kind, false), want, "{bit:x} {kind:?}");
    }
    let mut m = mapped([ALL; 4]);
    supervisor_only(&mut m);
    m.state.cr4 |= cr4_bits::SMAP;
    m.set(Rbx, L);
    let c = m.code(CODE, |a| {
        a.stac()?;
        a.mov(al, byte_ptr(rbx))?;
        a.clac()?;
        a.mov(al, byte_ptr(rbx))
    });
    assert_eq!(m.faults(PF, 1).rip, c.at[3]);
    // The global descriptor table on a user page.
    let mut m = Machine::long();
    supervisor_only(&mut m);
    m.map(L, GDT | P | RW | US);
    m.code(CODE, |a| {
        a.mov(eax, KERNEL_DATA as u32)?;
        a.mov(es, ax)?;
        a.hlt()
    });
    m.state.gdtr.base = L;
    m.halts();
    m.state.cr4 |= cr4_bits::SMAP;
    m.state.rflags |= rflags::AC;
    m.state.rip = CODE;
    // Its fault cannot be delivered either, as the handler's code segment is there too.
    assert_eq!(m.run(), Stopped::Shutdown);
    assert_eq!(m.state.cr2 & !0xfff, L);
    // STAC is #UD at CPL 3.
    let mut m = Machine::long();
    m.user();
    m.code(USER_CODE, |a| a.stac());
    m.faults(UD, 0);
}

/// §4.8: accessed bits at every level, the dirty bit at the last and only for writes.
#[test]
fn accessed_and_dirty_bits() {
    for (kind, dirty) in [(Read, 0), (Fetch, 0), (Write, D)] {
        let mut m = mapped([ALL; 4]);
        assert_eq!(outcome(&mut m, L, kind, false), None);
        for shift in [39, 30, 21] {
            let at = m.entry(L, shift);
            assert_eq!(m.read64(at) & (A | D), A, "{shift}");
        }
        let at = m.entry(L, 12);
        assert_eq!(m.read64(at) & (A | D), A | dirty, "{kind:?}");
    }
    // A page read first and written later becomes dirty then; a refused write leaves it clean.
    let mut m = mapped([ALL; 4]);
    m.set(Rbx, L);
    m.code(CODE, |a| {
        a.mov(al, byte_ptr(rbx))?;
        a.mov(byte_ptr(rbx), al)?;
        a.hlt()
    });
    m.halts();
    let at = m.entry(L, 12);
    assert_eq!(m.read64(at) & (A | D), A | D);
    let mut m = mapped([ALL, ALL, ALL, P | US]);
    assert_eq!(outcome(&mut m, L, Write, true), Some(7));
    let at = m.entry(L, 12);
    assert_eq!(m.read64(at) & D, 0);
}

/// §4.5: pages of 2 MiB and 1 GiB; their reserved bits.
#[test]
fn large_pages() {
    let mut m = Machine::long();
    m.write64(FREE + 0x12_3458, 0xfeed);
    let at = m.entry(L, 21);
    m.write64(at, FREE | ALL | PS);
    m.set(Rbx, (L & !0x1f_ffff) + 0x12_3458);
    m.code(CODE, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax), 0xfeed);
    m.write64(at, FREE | 1 << 13 | ALL | PS);
    assert_eq!(outcome(&mut m, L, Read, false), Some(9));
    let mut m = Machine::long();
    m.write64(0x123_4560, 0xbeef);
    let at = m.entry(L, 30);
    m.write64(at, ALL | PS);
    m.set(Rbx, (L & !0x3fff_ffff) + 0x123_4560);
    m.code(CODE, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax), 0xbeef);
    m.write64(at, 1 << 21 | ALL | PS);
    assert_eq!(outcome(&mut m, L, Read, false), Some(9));
}

/// §4.6.1: pushes of an event that stays at CPL 3 are the program's own accesses.
#[test]
fn events_within_user_mode_push_as_user() {
    let mut m = Machine::long();
    m.set_descriptor(SPARE, descriptor(0, 0xf_ffff, 0x9f, 0xa)); // conforming
    m.set_gate64(0x40, SPARE, HANDLERS + 0x40 * 16, 0xee, 0);
    m.map(L, FREE | P | RW);
    m.user();
    m.set(Rsp, L + 0x800);
    m.code(USER_CODE, |a| a.int(0x40));
    m.faults(PF, 7);
    assert_eq!(m.state.cr2, L + 0x7f8);
    assert_eq!(m.read64(FREE + 0x7f8), 0);
}

/// §4.7 and vol. 3A §9.1.1: an access over two pages faults as a whole, with the second page's address.
#[test]
fn accesses_over_two_pages() {
    let stores: [(&[u8], u64); 6] = [
        (&[0x48, 0x89, 0x03], 8),             // mov [rbx], rax
        (&[0x48, 0x01, 0x03], 8),             // add [rbx], rax
        (&[0xf0, 0x48, 0x0f, 0xc1, 0x03], 8), // lock xadd [rbx], rax
        (&[0x0f, 0x11, 0x03], 16),            // movups [rbx], xmm0
        (&[0xc5, 0xfc, 0x11, 0x03], 32),      // vmovups [rbx], ymm0
        (&[0x66, 0x89, 0x03], 2),             // mov [rbx], ax
    ];
    for (code, size) in stores {
        for first_missing in [false, true] {
            let mut m = Machine::long();
            m.map(L, FREE | if first_missing { 0 } else { ALL });
            m.map(
                L + 0x1000,
                (FREE + 0x1000) | if first_missing { ALL } else { P | US },
            );
            m.write(FREE + 0xff0, &[0xaa; 16]);
            m.write(FREE + 0x1000, &[0xbb; 32]);
            let at = L + 0x1001 - size;
            m.set(Rbx, at);
            m.set(Rax, 0x0102_0304_0506_0708);
            m.write(CODE, code);
            m.faults(PF, if first_missing { 2 } else { 3 });
            assert_eq!(
                m.state.cr2,
                if first_missing { at } else { L + 0x1000 },
                "{code:x?}"
            );
            assert_eq!(
                (m.read64(FREE + 0xff8), m.read64(FREE + 0x1000)),
                (0xaaaa_aaaa_aaaa_aaaa, 0xbbbb_bbbb_bbbb_bbbb)
            );
            assert_eq!(m.reg(Rax), 0x0102_0304_0506_0708);
            assert_eq!(m.seg(donjon_x86::Seg::Ss).selector, KERNEL_DATA);
        }
    }
    // A push, and a load.
    let mut m = Machine::long();
    m.map(L, FREE | P | US);
    m.map(L + 0x1000, (FREE + 0x1000) | ALL);
    m.set_gate64(PF, KERNEL64, HANDLERS + 14 * 16, 0x8e, 1);
    m.set(Rsp, L + 0x1004);
    m.code(CODE, |a| a.push(rax));
    assert_eq!(m.faults(PF, 3).rsp, L + 0x1004);
    assert_eq!(m.state.cr2, L + 0xffc);
    let mut m = Machine::long();
    m.map(L, FREE | ALL);
    m.set(Rbx, L + 0xffd);
    m.code(CODE, |a| a.mov(eax, dword_ptr(rbx)));
    m.faults(PF, 0);
    assert_eq!(m.state.cr2, L + 0x1000);
    // Both present, frames apart.
    let mut m = Machine::long();
    m.map(L, FREE | ALL);
    m.map(L + 0x1000, (FREE + 0x5000) | ALL);
    m.set(Rbx, L + 0xffd);
    m.set(Rax, 0x1122_3344_5566_7788);
    m.code(CODE, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(rcx, qword_ptr(rbx))?;
        a.lock().add(qword_ptr(rbx), 1)?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rcx), 0x1122_3344_5566_7788);
    assert_eq!(
        (m.read(FREE + 0xffd, 3), m.read(FREE + 0x5000, 5)),
        (0x66_7789, 0x11_2233_4455)
    );
}

/// §4.7: an instruction over two pages whose second is missing, or not executable.
#[test]
fn instructions_over_two_pages() {
    for (second, error) in [(0, 0x10), (P | XD, 0x11), (ALL, 0)] {
        let mut m = Machine::long();
        m.map(L, FREE | P);
        m.map(L + 0x1000, (FREE + 0x3000) | second);
        m.write(FREE + 0xffe, &[0xb8, 0x44]);
        m.write(FREE + 0x3000, &[0x33, 0x22, 0x11, 0xf4]);
        m.state.rip = L + 0xffe;
        if error == 0 {
            m.halts();
            assert_eq!(m.reg(Rax), 0x1122_3344);
            continue;
        }
        assert_eq!(m.faults(PF, error).rip, L + 0xffe);
        assert_eq!(m.state.cr2, L + 0x1000);
    }
    // Execution that runs off a page.
    let mut m = Machine::long();
    m.map(L, FREE | P);
    m.write(FREE + 0xffd, &[0x90, 0x90, 0x90]);
    m.state.rip = L + 0xffd;
    assert_eq!(m.faults(PF, 0x10).rip, L + 0x1000);
    assert_eq!(m.state.cr2, L + 0x1000);
}
