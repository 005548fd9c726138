//! 32-bit and PAE paging (Intel SDM vol. 3A §4.3, §4.4).

use crate::layout::*;
use crate::machine::*;
use crate::paging::ALL;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, cr4 as cr4_bits, efer};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

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
    m.write32(table + 3 * 4, ((FREE + 0x3000) | ALL) as u32);
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
