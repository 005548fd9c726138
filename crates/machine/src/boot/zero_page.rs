//! The Linux boot parameters ("zero page"; Linux Documentation/arch/x86/zero-page.rst).

use super::bytes::put;
use super::bzimage::field;
use super::entry::{COMMAND_LINE, ZERO_PAGE};
use super::initrd::Placed;
use crate::layout::{RegionKind, memory_map};
use donjon_memory::{MemoryError, PAGE_SIZE, Ram};

const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
/// Where the setup header must have ended: the field after it (`edd_mbr_sig_buffer`).
const HEADER_LIMIT: usize = 0x290;
/// "A boot loader without an assigned number."
const UNDEFINED_LOADER: u8 = 0xff;

/// Writes the boot parameters. `setup` is the beginning of the kernel file, whose setup header goes in.
pub fn write(
    ram: &Ram,
    setup: &[u8],
    load_address: u32,
    initrd: Option<Placed>,
    rsdp: u64,
) -> Result<(), MemoryError> {
    let mut page = [0; PAGE_SIZE];
    // The header's own length: up to the byte that its first instruction, a short jump, lands on.
    let end = field::HEADER + usize::from(setup[field::JUMP + 1]);
    let end = end.min(setup.len()).min(HEADER_LIMIT);
    page[field::SETUP_SECTS..end].copy_from_slice(&setup[field::SETUP_SECTS..end]);

    page[field::TYPE_OF_LOADER] = UNDEFINED_LOADER;
    put(&mut page, field::CODE32_START, load_address.to_le_bytes());
    put(
        &mut page,
        field::CMD_LINE_PTR,
        (COMMAND_LINE as u32).to_le_bytes(),
    );
    put(&mut page, ACPI_RSDP_ADDR, rsdp.to_le_bytes());
    let Placed { address, len } = initrd.unwrap_or(Placed { address: 0, len: 0 });
    // Both fit: the initrd was placed below 4 GiB.
    put(&mut page, field::RAMDISK_IMAGE, (address as u32).to_le_bytes());
    put(&mut page, field::RAMDISK_SIZE, (len as u32).to_le_bytes());

    let map = memory_map(ram);
    page[E820_ENTRIES] = map.len() as u8;
    for (i, region) in map.iter().enumerate() {
        let at = E820_TABLE + i * 20;
        put(&mut page, at, region.address.to_le_bytes());
        put(&mut page, at + 8, region.len.to_le_bytes());
        put(&mut page, at + 16, (region.kind as u32).to_le_bytes());
    }
    const { assert!(RegionKind::Reserved as u32 == 2) };
    ram.write(ZERO_PAGE, &page)
}
