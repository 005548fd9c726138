//! The guest-physical memory map and the fixed addresses of the board.
//!
//! ```text
//! 0x0000_0000  RAM      real-mode vectors, boot structures (see `boot`)
//! 0x0009_fc00  reserved extended BIOS data area
//! 0x000a_0000  (hole)   where a PC has its VGA window and option ROMs; not told to the guest as RAM
//! 0x000e_0000  reserved ACPI tables
//! 0x0010_0000  RAM      … up to the end of RAM or 3 GiB
//! 0xc000_0000  PCI      32-bit BARs
//! 0xe000_0000  MMIO     PCI Express configuration space, 1 MiB a bus
//! 0xf000_0000  (hole)   where a PC has other chips and flash memory
//! 0xfec0_0000  MMIO     I/O APIC
//! 0xfee0_0000  MMIO     local APICs
//! 0x1_0000_0000 RAM     what lies beyond 3 GiB
//! 0x80_0000_0000 PCI    64-bit BARs
//! 0xc0_0000_0000 files  persistent memory, up to the end of the address space; its devices tell the guest of it
//! ```
//!
//! None of it depends on how much RAM there is.

use donjon_memory::{HOLE_END, HOLE_START, MemoryFile, Ram, RangeKind};
use donjon_x86::cpuid::PHYSICAL_BITS;
use std::ops::Range;

/// End of conventional memory: 640 KiB less 1 KiB of extended BIOS data area.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Start of the upper memory area (VGA window, option ROMs).
pub const UPPER_START: u64 = 0xa_0000;
/// Where the ACPI tables lie; operating systems look for the root pointer from here to 1 MiB
/// (ACPI 6.5 §5.2.5.1).
pub const FIRMWARE_START: u64 = 0xe_0000;
/// First byte of extended memory.
pub const EXTENDED_START: u64 = 0x10_0000;

/// I/O APIC register page.
pub const IOAPIC_ADDRESS: u64 = 0xfec0_0000;
/// Default local APIC register page (Intel SDM vol. 3A §11.4.1).
pub const APIC_ADDRESS: u64 = 0xfee0_0000;

/// Where 32-bit BARs may be.
pub const PCI_LOW: Range<u64> = HOLE_START..ECAM_ADDRESS;
/// Where 64-bit BARs may be: the third quarter of the physical address space.
pub const PCI_HIGH: Range<u64> = 1 << (PHYSICAL_BITS - 1)..3 << (PHYSICAL_BITS - 2);
/// Where persistent memory is: the last quarter.
pub const FILES: Range<u64> = PCI_HIGH.end..1 << PHYSICAL_BITS;
/// Each file begins at a multiple of this, so that guests can map it with their largest pages, and do not find two
/// in what they take for one DIMM.
pub const FILE_ALIGNMENT: u64 = 1 << 30;
/// Where I/O BARs may be. What is below belongs to ISA devices and the board.
pub const PCI_PORTS: Range<u64> = 0x1000..0x1_0000;
/// PCI Express configuration space (MCFG), for [`ECAM_BUSES`] buses.
pub const ECAM_ADDRESS: u64 = 0xe000_0000;
/// Buses that could be there; bus 0 is.
pub const ECAM_BUSES: u64 = 256;
/// Bytes of configuration space.
pub const ECAM_LEN: u64 = ECAM_BUSES * donjon_pci::ECAM_BUS_LEN;
/// The legacy way into configuration space.
pub const CONFIG_PORT: u16 = 0xcf8;
/// The PCI hotplug controller.
pub const HOTPLUG_PORT: u16 = 0x660;
/// Its general-purpose event.
pub const HOTPLUG_GPE: u8 = 1;
/// The I/O APIC pin of the first of the [`donjon_pci::INTX_LINES`] PCI interrupt wires.
pub const INTX_GSI: u8 = 16;
/// The ISA interrupts that these wires arrive at in turn, for guests that use the 8259.
pub const INTX_IRQS: [u8; 2] = [10, 11];
/// The most RAM there is room for below [`PCI_HIGH`].
pub const MAX_MEMORY: u64 = PCI_HIGH.start - (HOLE_END - HOLE_START);

/// First port of the ACPI power-management block.
pub const PM_BASE: u16 = 0x600;
/// Registers of that block, as offsets (ACPI 6.5 §4.8.3).
pub mod pm {
    /// PM1 status and enable.
    pub const EVENT: u16 = 0;
    /// PM1 control.
    pub const CONTROL: u16 = 4;
    /// The power-management timer.
    pub const TIMER: u16 = 8;
    /// General-purpose events, apart from the others.
    pub const GPE0: u16 = 0x20;
    /// Ports in use from the first of the block.
    pub const LEN: u8 = 0x28;
}
/// The reset control register of PC chipsets, in the middle of [`CONFIG_PORT`]'s.
pub const RESET_PORT: u16 = 0xcf9;
/// What a guest writes to [`RESET_PORT`] to reset the machine.
pub const RESET_VALUE: u8 = 6;
/// The ACPI system control interrupt.
pub const SCI_IRQ: u8 = 9;
/// COM1's first port.
pub const COM1_BASE: u16 = 0x3f8;
/// COM1's interrupt.
pub const COM1_IRQ: u8 = 4;

/// What a stretch of the address space is, with the numbers that E820 and PVH give it
/// (ACPI 6.5 table 15.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RegionKind {
    /// The guest's to use.
    Ram = 1,
    /// Not the guest's to use.
    Reserved = 2,
}

/// A stretch of the guest-physical address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: RegionKind,
}

/// Gives files their guest-physical addresses, in their order. `None` if there is no room for all.
pub fn place_files(files: &[MemoryFile]) -> Option<Vec<(u64, MemoryFile)>> {
    let mut next = FILES.start;
    let mut place = |file: &MemoryFile| {
        let address = next;
        let end = address.checked_add(file.len)?;
        next = end.checked_next_multiple_of(FILE_ALIGNMENT)?;
        (end <= FILES.end).then(|| (address, file.clone()))
    };
    files.iter().map(&mut place).collect()
}

/// The map a guest is told, in ascending order. Files are not in it.
pub fn memory_map(ram: &Ram) -> Vec<Region> {
    use RegionKind::*;
    let region = |address, end: u64, kind| Region {
        address,
        len: end - address,
        kind,
    };
    let mut map = vec![
        region(0, CONVENTIONAL_END, Ram),
        region(CONVENTIONAL_END, UPPER_START, Reserved),
        region(FIRMWARE_START, EXTENDED_START, Reserved),
        region(ECAM_ADDRESS, ECAM_ADDRESS + ECAM_LEN, Reserved),
    ];
    let ranges = ram.ranges().iter().filter(|r| r.kind == RangeKind::Ram);
    map.extend(ranges.filter_map(|r| {
        let start = r.address.max(EXTENDED_START);
        let end = r.address + r.len;
        (start < end).then(|| region(start, end, Ram))
    }));
    map.sort_by_key(|r| r.address);
    map
}

/// End of the RAM below the 32-bit device hole.
pub fn low_ram_end(ram: &Ram) -> u64 {
    ram.ranges().first().map_or(0, |r| r.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn files_are_apart_and_not_told_of_as_ram() {
        let file = |len: u64| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            MemoryFile {
                file: Arc::new(file),
                len,
                read_only: true,
            }
        };
        let placed = place_files(&[file(2 << 20), file(FILE_ALIGNMENT + 4096), file(4096)]).unwrap();
        let starts: Vec<_> = placed.iter().map(|(at, _)| (at - FILES.start) >> 30).collect();
        assert_eq!(starts, [0, 1, 3]);
        let ram = Ram::with_files(16 << 20, &placed).unwrap();
        assert_eq!(memory_map(&ram), memory_map(&Ram::new(16 << 20).unwrap()));
        assert_eq!(low_ram_end(&ram), 16 << 20);
        let size = FILES.end - FILES.start;
        assert!(place_files(&[file(size)]).is_some());
        assert!(place_files(&[file(size), file(4096)]).is_none());
        assert!(place_files(&[file(4096), file(size)]).is_none());
    }

    #[test]
    fn the_map_is_sorted_disjoint_and_covers_extended_memory() {
        for size in [16 << 20, 3 << 30, 5u64 << 30] {
            let ram = Ram::new(size).unwrap();
            let map = memory_map(&ram);
            for pair in map.windows(2) {
                assert!(pair[0].address + pair[0].len <= pair[1].address, "{pair:x?}");
            }
            let extended: u64 = map
                .iter()
                .filter(|r| r.address >= EXTENDED_START && r.kind == RegionKind::Ram)
                .map(|r| r.len)
                .sum();
            assert_eq!(extended, size - EXTENDED_START);
        }
    }
}
