//! The processor states in which kernels are entered, and the structures in guest RAM these refer to.

use crate::layout::low_ram_end;
use donjon_memory::{MemoryError, Ram};
use donjon_x86::bits::{cr0, cr4, efer, rflags};
use donjon_x86::{CpuState, DescriptorTable, Fpu, Gpr, Seg, Segment, SegmentAttributes};

/// Global descriptor table of the entry states.
const GDT: u64 = 0x6000;
/// PVH start information, modules and memory map.
pub const START_INFO: u64 = 0x6100;
/// Linux boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
/// PML4, one page-directory-pointer table and four page directories.
const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The most a command line may take, with its final NUL.
pub const COMMAND_LINE_ROOM: usize = 0x1_0000;

/// Selectors the Linux 64-bit boot protocol prescribes (`__BOOT_CS`, `__BOOT_DS`); PVH leaves them open.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Flat segments: present, accessed, 4 KiB granularity (Intel SDM vol. 3A §3.4.5).
const CODE64: SegmentAttributes = SegmentAttributes(SegmentAttributes::CODE.0 | 1 << 15 | 1 << 13);
const CODE32: SegmentAttributes = SegmentAttributes(SegmentAttributes::CODE.0 | 1 << 15 | 1 << 14);
const DATA: SegmentAttributes = SegmentAttributes(SegmentAttributes::DATA.0 | 1 << 15 | 1 << 14);
/// A busy TSS, 32-bit or 64-bit depending on the mode.
const TASK: SegmentAttributes = SegmentAttributes(0x8b);
/// Enabled, write-back where nothing else is said (Intel SDM vol. 3A §12.11.2.1): what firmware leaves, and
/// without which Linux gives up on page attributes.
const MTRR_DEFAULT: u64 = 1 << 11 | 6;

/// What firmware sets up on every processor before an operating system sees it.
pub fn with_firmware_msrs(mut state: CpuState) -> CpuState {
    state.msrs.mtrr_def_type = MTRR_DEFAULT;
    state
}

/// 64-bit mode with identity-mapped memory below 4 GiB, as the Linux 64-bit boot protocol wants it
/// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): entry at `rip`, boot parameters in RSI.
pub fn long_mode(ram: &Ram, rip: u64) -> Result<CpuState, MemoryError> {
    write_gdt(ram, CODE64)?;
    write_page_tables(ram)?;
    let mut state = flat(CODE64, rip);
    state.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::PG;
    state.cr3 = PAGE_TABLES;
    state.cr4 = cr4::PAE;
    state.msrs.efer = efer::LME | efer::LMA;
    state.gpr[Gpr::Rsi as usize] = ZERO_PAGE;
    Ok(state)
}

/// 32-bit protected mode without paging, as PVH wants it (Xen docs/misc/pvh.pandoc): entry at `rip`, start
/// information in EBX.
pub fn protected_mode(ram: &Ram, rip: u64) -> Result<CpuState, MemoryError> {
    write_gdt(ram, CODE32)?;
    let mut state = flat(CODE32, rip);
    state.cr0 = cr0::PE | cr0::ET;
    state.gpr[Gpr::Rbx as usize] = START_INFO;
    Ok(state)
}

fn flat(code: SegmentAttributes, rip: u64) -> CpuState {
    let segment = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    let mut state = with_firmware_msrs(CpuState::reset());
    state.gpr = [0; 16];
    state.rip = rip;
    state.rflags = rflags::ONE;
    state.segments = [segment(DATA_SELECTOR, DATA); 6];
    state.segments[Seg::Cs as usize] = segment(CODE_SELECTOR, code);
    state.tr = Segment {
        selector: TASK_SELECTOR,
        base: 0,
        limit: 0x67,
        attributes: TASK,
    };
    state.ldtr = Segment {
        attributes: SegmentAttributes(0x82 | SegmentAttributes::UNUSABLE),
        ..Segment::default()
    };
    state.gdtr = DescriptorTable {
        base: GDT,
        limit: 6 * 8 - 1,
    };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.fpu = Fpu::default();
    state
}

/// Two null descriptors, code, data, and a task-state segment that takes two slots in 64-bit mode.
fn write_gdt(ram: &Ram, code: SegmentAttributes) -> Result<(), MemoryError> {
    let flat = |a: SegmentAttributes| 0x000f_0000_0000_ffff | u64::from(a.0 & 0xf0ff) << 40;
    let task = 0x67 | u64::from(TASK.0) << 40;
    for (i, descriptor) in [0, 0, flat(code), flat(DATA), task, 0].into_iter().enumerate() {
        ram.write(GDT + i as u64 * 8, &u64::to_le_bytes(descriptor))?;
    }
    Ok(())
}

/// Maps the first 4 GiB one to one with 2 MiB pages.
fn write_page_tables(ram: &Ram) -> Result<(), MemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    debug_assert!(low_ram_end(ram) > PAGE_TABLES + 0x6000);
    let entry = |table: u64, index: u64, value: u64| ram.write(table + index * 8, &value.to_le_bytes());
    let (pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    entry(PAGE_TABLES, 0, pointers | PRESENT_WRITABLE)?;
    for i in 0..4 {
        entry(pointers, i, (directories + i * 0x1000) | PRESENT_WRITABLE)?;
    }
    for i in 0..4 * 512 {
        entry(directories, i, i << 21 | PRESENT_WRITABLE | LARGE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_say_what_the_hidden_parts_say() {
        let ram = Ram::new(1 << 20).unwrap();
        let state = long_mode(&ram, 0x100_0200).unwrap();
        for segment in state.segments.iter().chain([&state.tr]) {
            let descriptor: u64 = ram.load(GDT as usize + usize::from(segment.selector));
            let attributes = (descriptor >> 40) as u32 & 0xf0ff;
            assert_eq!(
                attributes, segment.attributes.0,
                "selector {:#x}",
                segment.selector
            );
            let limit = (descriptor as u32 & 0xffff) | (descriptor >> 32) as u32 & 0xf_0000;
            let scaled = if segment.attributes.granular() {
                limit << 12 | 0xfff
            } else {
                limit
            };
            assert_eq!(scaled, segment.limit, "selector {:#x}", segment.selector);
        }
    }

    #[test]
    fn the_first_four_gigabytes_are_mapped_one_to_one() {
        let ram = Ram::new(1 << 20).unwrap();
        let state = long_mode(&ram, 0).unwrap();
        let next = |table: u64, index: u64| ram.load::<u64>((table & !0xfff) as usize + index as usize * 8);
        for address in [0u64, 0x1234_5678, 0x1_0000_0000 - 0x20_0000] {
            let pointer = next(next(state.cr3, address >> 39 & 511), address >> 30 & 511);
            let page = next(pointer, address >> 21 & 511);
            assert_eq!(page, address & !0x1f_ffff | 0x83);
        }
    }
}
