//! Cached translations and what drops them (Intel SDM vol. 3A §4.10).

use crate::layout::*;
use crate::machine::*;
use crate::paging::{ALL, L, supervisor_only};
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

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
            m.map(L, (FREE + 0x1000) | P | RW | global)
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
            m.write64(at, (FREE + 0x40_0000) | ALL | PS);
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
        m.map(L, (FREE + 0x1000) | ALL);
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
            a.mov(rax, (FREE + 0x2000) | ALL)?;
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
