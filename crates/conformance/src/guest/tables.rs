//! The guest's memory: page tables, descriptor tables, handlers.

use crate::layout::*;
use donjon_memory::Ram;
use donjon_x86::bits::{cr0, cr4, efer, rflags, xcr0};
use donjon_x86::{CpuState, DescriptorTable, Segment, SegmentAttributes};

/// Bytes of RAM.
pub const RAM_SIZE: u64 = 0x20_0000;

// Guest-physical addresses.
const PML4: u64 = 0x1000;
const LOW_PDPT: u64 = 0x2000;
const LOW_PD: u64 = 0x3000;
const LOW_PT: u64 = 0x4000;
const HIGH_PDPT: u64 = 0x5000;
const HIGH_PD: u64 = 0x6000;
const HIGH_PT: u64 = 0x7000;
/// GDT, LDT, TSS; then IDT, handlers and stack, a page each: the kernel's pages in order.
const KERNEL_AT: u64 = 0x8000;
const KERNEL_PAGES: u64 = 4;
/// Guest-physical address of code memory.
pub const CODE_AT: u64 = 0x1_0000;
const STUB_AT: u64 = 0x1_2000;
/// Guest-physical address of the read-only area.
pub const READ_ONLY_AT: u64 = 0x1_3000;
/// Guest-physical address of the scratch area.
pub const SCRATCH_AT: u64 = 0x1_4000;

// Linear addresses of the kernel.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = KERNEL;
const LDT: u64 = KERNEL + 0x200;
const TSS: u64 = KERNEL + 0x400;
const IDT: u64 = KERNEL + PAGE;
const HANDLERS: u64 = KERNEL + 2 * PAGE;
const STACK: u64 = KERNEL + 3 * PAGE;
const STACK_TOP: u64 = STACK + PAGE;

/// Bytes from one handler to the next.
const HANDLER_SIZE: u64 = 16;
const TSS_LIMIT: u32 = 0x67;
const KERNEL_CODE: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x50;
const HLT: u8 = 0xf4;

// Page-table entry bits (Intel SDM vol. 3A table 4-20).
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED_DIRTY: u64 = 0x60;
const NO_EXECUTE: u64 = 1 << 63;

/// A descriptor (Intel SDM vol. 3A figure 3-8); `attributes` as in [`SegmentAttributes`], `limit` in the
/// units they say.
const fn descriptor(base: u32, limit: u32, attributes: u16) -> u64 {
    let (base, limit, attributes) = (base as u64, limit as u64, attributes as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attributes >> 12 & 0xf) << 52
        | (base >> 24) << 56
}

/// The GDT Linux has (arch/x86/kernel/cpu/common.c, gdt_page), so that LAR, LSL and loads of selectors
/// agree with the host.
fn gdt() -> [u64; 16] {
    let mut g = [0; 16];
    g[1] = descriptor(0, 0xf_ffff, 0xc09b);
    g[2] = descriptor(0, 0xf_ffff, 0xa09b);
    g[3] = descriptor(0, 0xf_ffff, 0xc093);
    g[4] = descriptor(0, 0xf_ffff, 0xc0fb);
    g[5] = descriptor(0, 0xf_ffff, 0xc0f3);
    g[6] = descriptor(0, 0xf_ffff, 0xa0fb);
    // The per-processor segment, whose limit is the processor's number.
    g[15] = descriptor(0, 0, 0x40f5);
    let system = |base: u64, limit, kind| [descriptor(base as u32, limit, kind), base >> 32];
    [g[8], g[9]] = system(TSS, TSS_LIMIT, 0x8b);
    [g[10], g[11]] = system(LDT, 3 * 8 - 1, 0x82);
    g
}

/// The LDT that `modify_ldt` makes for the native worker: entries are accessed, and AVL is set.
fn ldt() -> [u64; 3] {
    let window = selector::WINDOW_BASE as u32;
    [
        descriptor(CODE as u32, 0xffff, 0x10fb),
        descriptor(window, 0xffff, 0x10f3),
        descriptor(window, selector::SHORT_LIMIT, 0x50f3),
    ]
}

/// The hidden part of one of the selectors of [`selector`]; null for any other.
pub fn segment(s: u16) -> Segment {
    let (base, limit, attributes) = match s {
        selector::CODE64 => (0, u32::MAX, 0xa0fb),
        selector::CODE32 => (0, u32::MAX, 0xc0fb),
        selector::DATA => (0, u32::MAX, 0xc0f3),
        selector::CODE16 => (CODE, 0xffff, 0x10fb),
        selector::DATA16 => (selector::WINDOW_BASE, 0xffff, 0x10f3),
        selector::SHORT => (selector::WINDOW_BASE, selector::SHORT_LIMIT, 0x50f3),
        _ => (0, 0, SegmentAttributes::UNUSABLE),
    };
    Segment {
        selector: s,
        base,
        limit,
        attributes: SegmentAttributes(attributes),
    }
}

/// The vector whose handler halted with this RIP.
pub fn vector(rip: u64) -> Option<u8> {
    let at = rip.checked_sub(HANDLERS + 1)?;
    (at < 256 * HANDLER_SIZE && at % HANDLER_SIZE == 0).then_some((at / HANDLER_SIZE) as u8)
}

/// The RAM offset of a word of the handlers' stack.
pub fn stack_offset(address: u64) -> Option<usize> {
    let at = address.checked_sub(STACK)?;
    (at <= PAGE - 8).then_some((KERNEL_AT + 3 * PAGE + at) as usize)
}

/// Fills in everything that stays the same from case to case.
pub fn write(ram: &Ram) {
    let store = |at: u64, v: u64| ram.store::<u64>(at as usize, v);
    let entry = |table: u64, linear: u64, level: u32, v: u64| {
        store(table + (linear >> (12 + 9 * level) & 0x1ff) * 8, v);
    };
    let table = PRESENT | WRITE | USER | ACCESSED_DIRTY;
    entry(PML4, CODE, 3, LOW_PDPT | table);
    entry(LOW_PDPT, CODE, 2, LOW_PD | table);
    entry(LOW_PD, CODE, 1, LOW_PT | table);
    entry(PML4, KERNEL, 3, HIGH_PDPT | table);
    entry(HIGH_PDPT, KERNEL, 2, HIGH_PD | table);
    entry(HIGH_PD, KERNEL, 1, HIGH_PT | table);
    let map = |linear: u64, at: u64, pages: u64, rights: u64| {
        for i in 0..pages {
            entry(
                LOW_PT,
                linear + i * PAGE,
                0,
                (at + i * PAGE) | rights | USER | PRESENT | ACCESSED_DIRTY,
            );
        }
    };
    map(CODE, CODE_AT, CODE_SIZE / PAGE, WRITE);
    map(STUB, STUB_AT, 1, 0);
    map(READ_ONLY, READ_ONLY_AT, 1, NO_EXECUTE);
    map(SCRATCH, SCRATCH_AT, SCRATCH_SIZE / PAGE, WRITE | NO_EXECUTE);
    for i in 0..KERNEL_PAGES {
        let rights = PRESENT | WRITE | ACCESSED_DIRTY;
        entry(HIGH_PT, KERNEL + i * PAGE, 0, (KERNEL_AT + i * PAGE) | rights);
    }
    let at = |linear: u64| linear - KERNEL + KERNEL_AT;
    for (i, d) in gdt().into_iter().enumerate() {
        store(at(GDT) + i as u64 * 8, d);
    }
    for (i, d) in ldt().into_iter().enumerate() {
        store(at(LDT) + i as u64 * 8, d);
    }
    // RSP0 (Intel SDM vol. 3A figure 8-11), and an I/O map base beyond the limit: no port is open.
    ram.store::<u32>(at(TSS) as usize + 4, STACK_TOP as u32);
    ram.store::<u32>(at(TSS) as usize + 8, (STACK_TOP >> 32) as u32);
    ram.store::<u16>(at(TSS) as usize + 0x66, TSS_LIMIT as u16 + 1);
    for v in 0..256u64 {
        let handler = HANDLERS + v * HANDLER_SIZE;
        // Present 64-bit interrupt gate; INT3 and INTO are open to programs, as on Linux.
        let kind: u64 = if matches!(v, 3 | 4) { 0xee } else { 0x8e };
        let low = handler & 0xffff | (KERNEL_CODE as u64) << 16 | kind << 40 | (handler >> 16 & 0xffff) << 48;
        store(at(IDT) + v * 16, low);
        store(at(IDT) + v * 16 + 8, handler >> 32);
        ram.store::<u8>(at(handler) as usize, HLT);
    }
    let fill = |at: u64, len: u64| (0..len).for_each(|i| ram.store::<u8>((at + i) as usize, CODE_FILL));
    fill(CODE_AT, CODE_SIZE);
    fill(STUB_AT, PAGE);
}

/// The control registers of a Linux guest, and everything else a case does not set.
pub fn cpu_state() -> CpuState {
    let mut s = CpuState::reset();
    s.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    s.cr3 = PML4;
    s.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE | cr4::OSXSAVE | cr4::UMIP;
    s.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    s.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    s.gdtr = DescriptorTable {
        base: GDT,
        limit: 16 * 8 - 1,
    };
    s.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    let system = |selector, base, limit, kind| Segment {
        selector,
        base,
        limit,
        attributes: SegmentAttributes(kind),
    };
    s.tr = system(TSS_SELECTOR, TSS, TSS_LIMIT, 0x8b);
    s.ldtr = system(LDT_SELECTOR, LDT, 3 * 8 - 1, 0x82);
    s.rflags = rflags::ONE | rflags::IF;
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_linux() {
        assert_eq!(gdt()[1], 0x00cf_9b00_0000_ffff);
        assert_eq!(gdt()[6], 0x00af_fb00_0000_ffff);
        assert_eq!(ldt()[2] >> 48 & 0xf0, 0x50);
    }

    #[test]
    fn handlers_are_told_apart() {
        assert_eq!(vector(HANDLERS + 1), Some(0));
        assert_eq!(vector(HANDLERS + 14 * HANDLER_SIZE + 1), Some(14));
        assert_eq!(vector(HANDLERS), None);
        assert_eq!(vector(HANDLERS + 256 * HANDLER_SIZE + 1), None);
        assert_eq!(vector(0x1000), None);
    }

    #[test]
    fn the_kernel_fits_its_pages() {
        assert_eq!(HANDLERS + 256 * HANDLER_SIZE, STACK);
        const { assert!(SCRATCH_AT + SCRATCH_SIZE <= RAM_SIZE) };
    }
}
