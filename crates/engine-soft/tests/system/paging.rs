//! Paging (Intel SDM vol. 3A ch. 4).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer, rflags};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// A linear address whose every table is its own.
const L: u64 = 0x1234_5678_9000;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
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
fn outcome(m: &mut Machine, at: u64, kind: Kind, user: bool) -> Option<u64> {
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
fn mapped(bits: [u64; 4]) -> Machine {
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

const ALL: u64 = P | RW | US;

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
fn supervisor_only(m: &mut Machine) {
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

/// §4.10.2.2, §4.10.4.1: cached translations follow CR0.WP, CR4.SMEP and SMAP, EFER.NXE and the CPL.
#[test]
fn cached_translations_follow_the_mode() {
    // WP: a page written with WP clear is not writable once it is set, and is again when it is cleared.
    let mut m = Machine::long();
    m.map(L, FREE | P);
    m.set(Rbx, L);
    m.state.cr0 &= !cr0_bits::WP;
    m.code(CODE, |a| {
        a.mov(dword_ptr(rbx), 1)?;
        a.mov(rax, cr0)?;
        a.or(rax, cr0_bits::WP as i32)?;
        a.mov(cr0, rax)?;
        a.mov(ecx, dword_ptr(rbx))?;
        a.and(rax, !(cr0_bits::WP as i32))?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(rbx), 2)?;
        a.or(rax, cr0_bits::WP as i32)?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(rbx), 3)
    });
    m.faults(PF, 3);
    assert_eq!(m.read32(FREE), 2);
    // SMAP and SMEP on a page used before they were set.
    for (bit, fetch, error) in [(cr4_bits::SMAP, false, 1), (cr4_bits::SMEP, true, 0x11)] {
        let mut m = Machine::long();
        supervisor_only(&mut m);
        m.map(L, FREE | ALL);
        m.write(FREE, &[0xc3]);
        m.set(Rbx, L);
        m.code(CODE, |a| {
            for _ in 0..2 {
                if fetch {
                    a.call(rbx)?
                } else {
                    a.mov(al, byte_ptr(rbx))?
                }
                a.mov(rcx, cr4)?;
                a.or(rcx, bit as i32)?;
                a.mov(cr4, rcx)?;
            }
            a.hlt()
        });
        m.faults(PF, error);
    }
    // XD takes effect when NXE is set, after having been a reserved bit.
    let mut m = Machine::long();
    m.map(L, FREE | ALL | XD);
    m.set(Rbx, L);
    m.code(CODE, |a| {
        a.mov(al, byte_ptr(rbx))?;
        a.mov(ecx, donjon_x86::msr::IA32_EFER)?;
        a.rdmsr()?;
        a.and(eax, !(efer::NXE as i32))?;
        a.wrmsr()?;
        a.mov(al, byte_ptr(rbx))
    });
    m.faults(PF, 9);
    // A page that the kernel has used is still not the program's.
    for entry in [FREE | P | RW, FREE | P | US] {
        let mut m = Machine::long();
        m.map(L, entry);
        m.state.cr0 &= !cr0_bits::WP;
        m.set(Rbx, L);
        m.code(CODE, |a| {
            a.inc(dword_ptr(rbx))?;
            a.push(USER_DATA as i32)?;
            a.push(USER_STACK as i32)?;
            a.push(2)?;
            a.push(USER64 as i32)?;
            a.push(USER_CODE as i32)?;
            a.iretq()
        });
        let c = m.code(USER_CODE, |a| a.inc(dword_ptr(rbx)));
        assert_eq!(m.faults(PF, 7).rip, c.at[0]);
        assert_eq!(m.read32(FREE), 1);
    }
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

/// Reads a byte at each address, does `change` between two runs of the same code without a reload, and
/// reads again: the bytes of both rounds.
fn twice(
    m: &mut Machine,
    addresses: &[u64],
    between: &[u8],
    change: impl FnOnce(&mut Machine),
) -> [Vec<u64>; 2] {
    let mut code = vec![];
    for round in 0..2u64 {
        for (n, at) in addresses.iter().enumerate() {
            code.extend([0x48, 0xbb]);
            code.extend(at.to_le_bytes()); // mov rbx, at
            code.extend([0x8a, 0x03, 0x48, 0xbb]); // mov al, [rbx]; mov rbx, …
            code.extend((DATA + 0x100 * round + n as u64).to_le_bytes());
            code.extend([0x88, 0x03]); // mov [rbx], al
        }
        if round == 0 {
            code.push(0xf4);
            code.extend(between);
        }
    }
    code.push(0xf4);
    m.write(CODE, &code);
    m.state.rip = CODE;
    m.halts();
    change(m);
    let stopped = resume_after_halt(m);
    let count = addresses.len() as u64;
    assert_eq!(stopped, Stopped::Halted, "{}", dump(&m.state));
    [0, 1].map(|round| (0..count).map(|n| m.read(DATA + 0x100 * round + n, 1)).collect())
}

/// Wakes vCPU 0 from HLT without reloading its state: an NMI whose handler returns at once.
fn resume_after_halt(m: &mut Machine) -> Stopped {
    m.write(HANDLERS + 2 * 16, &[0x48, 0xcf]); // iretq
    m.attention[0].raise(donjon_engine::Attention::NMI);
    m.resume()
}

fn mov_rax(v: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &v.to_le_bytes()].concat()
}

/// §4.10.4.1: INVLPG drops one page, global or not; MOV to CR3 all that are not global; CR4.PGE all.
#[test]
fn invalidation() {
    let mov_cr3: Vec<u8> = vec![0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8];
    let toggle_pge: Vec<u8> = vec![
        0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf8, 7, 0x0f, 0x22, 0xe0, 0x48, 0x0f, 0xba, 0xf8, 7, 0x0f, 0x22,
        0xe0,
    ];
    let invlpg = [mov_rax(L + 0x123), vec![0x0f, 0x01, 0x38]].concat();
    for (global, between) in [
        (0, &invlpg),
        (G, &invlpg),
        (0, &mov_cr3),
        (0, &toggle_pge),
        (G, &toggle_pge),
    ] {
        let mut m = Machine::long();
        m.write(FREE, &[0x11]);
        m.write(FREE + 0x1000, &[0x22]);
        m.map(L, FREE | P | RW | global);
        let got = twice(&mut m, &[L], between, |m| {
            m.map(L, FREE + 0x1000 | P | RW | global)
        });
        assert_eq!(got, [vec![0x11], vec![0x22]], "{global:x} {between:x?}");
    }
}

/// §4.10.4.1: INVLPG drops every translation of a large page, whichever of its addresses is named, also
/// when several large pages are in use.
#[test]
fn invalidation_of_large_pages() {
    let base = L & !0x3fff_ffff;
    let invlpg = |at: u64| [mov_rax(at), vec![0x0f, 0x01, 0x38]].concat();
    // Pages 128 MiB and 1 GiB apart fall together in small tables.
    let pages = [
        base,
        base + (2 << 20),
        base + (128 << 20),
        base + (1 << 30),
        base + (9 << 30),
    ];
    let mut m = Machine::long();
    for n in 0..16 {
        m.write(FREE + n * 0x1000, &[0x11]);
        m.write(FREE + 0x40_0000 + n * 0x1000, &[0x22]);
    }
    for p in pages {
        let at = m.entry(p, 21);
        m.write64(at, FREE | ALL | PS);
    }
    let addresses: Vec<u64> = pages.iter().flat_map(|p| [*p, p + 0x1000, p + 0x5000]).collect();
    let between: Vec<u8> = pages.iter().flat_map(|p| invlpg(p + 0x1f_f000)).collect();
    let [_, after] = twice(&mut m, &addresses, &between, |m| {
        for p in pages {
            let at = m.entry(p, 21);
            m.write64(at, FREE + 0x40_0000 | ALL | PS);
        }
    });
    assert_eq!(after, vec![0x22; addresses.len()]);
    // 1 GiB: the frames are what they are, so the page goes away altogether.
    for touched in [0x1000, 0x30_0000, 0xf0_0000] {
        let mut m = Machine::long();
        let at = m.entry(base, 30);
        m.write64(at, ALL | PS);
        m.code(CODE, |a| {
            a.mov(rbx, base + touched)?;
            a.mov(al, byte_ptr(rbx))?;
            a.mov(rcx, base + 0x3fff_f000)?;
            a.mov(rdx, at)?;
            a.mov(qword_ptr(rdx), 0)?;
            a.invlpg(ptr(rcx))?;
            a.mov(al, byte_ptr(rbx))
        });
        m.faults(PF, 0);
        assert_eq!(m.state.cr2, base + touched);
    }
}

/// §4.10.1, vol. 2A INVPCID: address spaces stay apart; what each type drops.
#[test]
fn process_context_identifiers() {
    let setup = || {
        let mut m = Machine::long();
        m.state.cr4 |= cr4_bits::PCIDE;
        // A second root that shares everything but L.
        let (first, second) = (m.state.cr3, m.table());
        for n in 0..512 {
            m.write64(second + n * 8, m.read64(first + n * 8));
        }
        m.map(L, FREE | ALL);
        m.state.cr3 = second;
        m.map(L, FREE + 0x1000 | ALL);
        m.state.cr3 = first | 1;
        for n in 0..4 {
            m.write(FREE + n * 0x1000, &[0x11 * (n as u8 + 1)]);
        }
        (m, first | 1, second | 2)
    };
    let (mut m, first, second) = setup();
    m.code(CODE, |a| {
        a.mov(rbx, L)?;
        a.mov(rsi, first | XD)?;
        a.mov(rdi, second | XD)?;
        a.mov(r8b, byte_ptr(rbx))?;
        a.mov(cr3, rdi)?;
        a.mov(r9b, byte_ptr(rbx))?;
        a.mov(cr3, rsi)?;
        a.mov(r10b, byte_ptr(rbx))?;
        a.mov(cr3, rdi)?;
        a.mov(r11b, byte_ptr(rbx))?;
        a.mov(rdx, cr3)?;
        a.hlt()
    });
    m.halts();
    assert_eq!([R8, R9, R10, R11].map(|r| m.reg(r)), [0x11, 0x22, 0x11, 0x22]);
    assert_eq!(m.reg(Rdx), second, "bit 63 is not stored");
    // Change the first space's page while the second is current; drop it in every way there is.
    let ways: [(u64, [u64; 2], bool); 6] = [
        (0, [1, L], false),
        (1, [1, 0], false),
        (2, [0, 0], false),
        (3, [0, 0], false),
        (4, [0, 0], true), // just MOV to CR3 without bit 63
        (0, [2, L], true), // the current one, for good measure
    ];
    for (kind, descriptor, reload) in ways {
        let (mut m, first, second) = setup();
        let entry = m.entry(L, 12);
        m.write64(DATA, descriptor[0]);
        m.write64(DATA + 8, descriptor[1]);
        m.code(CODE, |a| {
            a.mov(rbx, L)?;
            a.mov(r8b, byte_ptr(rbx))?;
            a.mov(rdi, second | XD)?;
            a.mov(cr3, rdi)?;
            a.mov(r9b, byte_ptr(rbx))?;
            a.mov(rax, FREE + 0x2000 | ALL)?;
            a.mov(rcx, entry)?;
            a.mov(qword_ptr(rcx), rax)?;
            a.mov(rcx, kind)?;
            if kind < 4 {
                a.mov(rdx, DATA)?;
                a.invpcid(rcx, xmmword_ptr(rdx))?;
            }
            a.mov(rsi, first | if reload { 0 } else { XD })?;
            a.mov(cr3, rsi)?;
            a.mov(r10b, byte_ptr(rbx))?;
            a.hlt()
        });
        m.halts();
        assert_eq!([R8, R9, R10].map(|r| m.reg(r)), [0x11, 0x22, 0x33], "{kind}");
    }
    // What INVPCID refuses.
    for (kind, d, pcide) in [
        (4, [0, 0], true),
        (0, [1, 0x8000_0000_0000], true),
        (0, [0x1000, 0], true),
        (2, [0x1000, 0], true),
        (1, [1, 0], false),
    ] {
        let (mut m, ..) = setup();
        if !pcide {
            m.state.cr3 &= !1;
            m.state.cr4 &= !cr4_bits::PCIDE;
        }
        m.write64(DATA, d[0]);
        m.write64(DATA + 8, d[1]);
        m.set(Rcx, kind);
        m.set(Rdx, DATA);
        m.code(CODE, |a| a.invpcid(rcx, xmmword_ptr(rdx)));
        m.faults(GP, 0);
    }
    // Clearing PCIDE with CR3 as it is works; paging cannot go off with it (checked in compatibility mode).
    let (mut m, ..) = setup();
    m.compatibility(0);
    m.code(CODE, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)
    });
    m.faults(GP, 0);
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
                FREE + 0x1000 | if first_missing { ALL } else { P | US },
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
    m.map(L + 0x1000, FREE + 0x1000 | ALL);
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
    m.map(L + 0x1000, FREE + 0x5000 | ALL);
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
        m.map(L + 0x1000, FREE + 0x3000 | second);
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

/// 32-bit paging without PAE, everything mapped one to one in 4 KiB pages up to 4 MiB.
fn legacy() -> Machine {
    let mut m = Machine::protected();
    let (root, table) = (m.table(), m.table());
    for n in 0..1024 {
        m.write32(table + n * 4, (n << 12 | ALL) as u32);
    }
    m.write32(root, (table | ALL) as u32);
    m.state.cr3 = root;
    m.state.cr0 |= cr0_bits::PG | cr0_bits::WP;
    m
}

/// §4.3: 32-bit paging, 4 KiB and 4 MiB pages, PSE-36.
#[test]
fn paging_with_32_bit_entries() {
    let read = |m: &mut Machine, at: u64| {
        m.set(Rbx, at);
        m.code(CODE, |a| {
            a.mov(eax, dword_ptr(ebx))?;
            a.hlt()
        });
        m.state.rip = CODE;
        m.state.gpr[4] = STACK;
        m.run()
    };
    let mut m = legacy();
    let (root, table) = (m.state.cr3, m.table());
    m.write32(FREE + 0x3004, 0x1234_5678);
    m.write32(root + 4 * 4, (table | ALL) as u32);
    m.write32(table + 3 * 4, (FREE + 0x3000 | ALL) as u32);
    assert_eq!(read(&mut m, 0x0100_3004), Stopped::Halted);
    assert_eq!(m.reg(Rax), 0x1234_5678);
    assert_eq!(
        (
            m.read32(table + 12) as u64 & (A | D),
            m.read32(root + 16) as u64 & A
        ),
        (A, A)
    );
    m.faults_at(PF, 0, 0x0100_4000, |m| read(m, 0x0100_4000));
    // A 4 MiB page; without CR4.PSE its PS bit means nothing.
    m.write32(root + 5 * 4, (0x40_0000 | ALL | PS) as u32);
    m.write32(0x40_0000 + 0x12_3456, 0xabcd);
    m.state.cr4 |= cr4_bits::PSE;
    assert_eq!(read(&mut m, 0x0152_3456), Stopped::Halted);
    assert_eq!(m.reg(Rax), 0xabcd);
    // PSE-36: address bit 32 makes it no RAM; bit 21 is reserved.
    m.write32(root + 5 * 4, (0x40_0000 | ALL | PS | 1 << 13) as u32);
    assert_eq!(read(&mut m, 0x0152_3456), Stopped::Halted);
    assert_eq!(m.reg(Rax), 0xffff_ffff);
    m.write32(root + 5 * 4, (0x40_0000 | ALL | PS | 1 << 21) as u32);
    m.faults_at(PF, 9, 0x0152_3456, |m| read(m, 0x0152_3456));
    m.state.cr4 &= !cr4_bits::PSE;
    m.write32(root + 5 * 4, (table | ALL | PS) as u32);
    m.write32(table + 4, (FREE | ALL) as u32);
    m.write32(FREE, 0x77);
    assert_eq!(read(&mut m, 0x0140_1000), Stopped::Halted);
    assert_eq!(m.reg(Rax), 0x77);
    // INVLPG in the other half of a 4 MiB page.
    let mut m = legacy();
    m.state.cr4 |= cr4_bits::PSE;
    let root = m.state.cr3;
    m.write32(root + 5 * 4, (0x40_0000 | ALL | PS) as u32);
    m.code(CODE, |a| {
        a.mov(eax, dword_ptr(0x0140_1000))?;
        a.mov(dword_ptr(root + 20), 0)?;
        a.invlpg(ptr(0x0170_0000))?;
        a.mov(eax, dword_ptr(0x0140_1000))
    });
    m.faults(PF, 0);
}

/// §4.4: PAE paging: PDPTE registers, loaded and checked by MOV to CR3; 2 MiB pages; XD.
#[test]
fn paging_with_pae() {
    let pae = || {
        let mut m = Machine::protected();
        let (root, directory, table) = (m.table(), m.table(), m.table());
        for n in 0..512 {
            m.write64(table + n * 8, n << 12 | ALL);
        }
        m.write64(directory, table | ALL);
        m.write64(root, directory | P);
        m.state.cr3 = root;
        m.state.cr4 |= cr4_bits::PAE;
        m.code(CODE, |a| {
            a.mov(eax, cr0)?;
            a.or(eax, (cr0_bits::PG | cr0_bits::WP) as u32)?;
            a.mov(cr0, eax)?;
            a.nop()?;
            a.hlt()
        });
        m.halts();
        m.state.rip = CODE;
        (m, root, directory)
    };
    let (mut m, _, directory) = pae();
    assert_eq!(m.state.pdpte[0], directory | P);
    m.write64(directory + 8, 0x40_0000 | ALL | PS);
    m.write32(0x52_3450, 0x5a5a);
    m.code(CODE, |a| {
        a.mov(eax, dword_ptr(0x32_3450))?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(Rax), 0x5a5a);
    // A PDPTE changed in memory takes effect with the next MOV to CR3.
    let (mut m, root, directory) = pae();
    m.code(CODE, |a| {
        a.mov(dword_ptr(root + 8), (directory | P) as u32)?;
        a.mov(ecx, cr3)?;
        a.mov(cr3, ecx)?;
        a.mov(eax, dword_ptr(0x4000_0000 + DATA))?;
        a.hlt()
    });
    m.write32(DATA, 0x66);
    m.halts();
    assert_eq!(m.reg(Rax), 0x66);
    // Reserved bits: #GP, and the old ones stay.
    for bits in [P | RW, P | US, P | 1 << 5, P | 1 << 8, P | 1 << 40] {
        let (mut m, root, directory) = pae();
        m.write64(root + 16, directory | bits);
        let c = m.code(CODE, |a| {
            a.mov(ecx, cr3)?;
            a.mov(cr3, ecx)
        });
        assert_eq!(m.faults(GP, 0).rip, c.at[1], "{bits:x}");
    }
    // Not present needs no clean bits.
    let (mut m, root, _) = pae();
    m.write64(root + 16, !P);
    m.code(CODE, |a| {
        a.mov(ecx, cr3)?;
        a.mov(cr3, ecx)?;
        a.mov(eax, dword_ptr(0x8000_0000u32))
    });
    m.faults(PF, 0);
    // XD and its error code.
    let (mut m, _, directory) = pae();
    m.state.msrs.efer |= efer::NXE;
    m.write64(directory + 8, 0x40_0000 | ALL | PS | XD);
    m.code(CODE, |a| a.jmp(0x20_0000u64));
    m.faults(PF, 0x11);
    // Bits 52-62 are reserved here.
    let (mut m, _, directory) = pae();
    m.write64(directory + 8, 0x40_0000 | ALL | PS | 1 << 52);
    m.code(CODE, |a| a.mov(eax, dword_ptr(0x20_0000)));
    m.faults(PF, 9);
}

impl Machine {
    /// A run that must end in a page fault with that code at that address.
    #[track_caller]
    fn faults_at(&mut self, vector: u8, code: u64, at: u64, f: impl FnOnce(&mut Self) -> Stopped) {
        let stopped = f(self);
        let t = self.trapped(stopped);
        assert_eq!((t.vector, t.code, self.state.cr2), (vector, Some(code), at));
    }
}
