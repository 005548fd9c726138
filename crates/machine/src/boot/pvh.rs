//! ELF kernels by the PVH boot protocol (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).

use super::bytes::put;
use super::elf::{self, Elf, Segment};
use super::entry::{COMMAND_LINE, COMMAND_LINE_ROOM, START_INFO, ZERO_PAGE, protected_mode};
use super::error::BootError;
use super::image::Image;
use super::{BootSource, initrd, sparse, write_command_line};
use crate::layout::{EXTENDED_START, low_ram_end, memory_map};
use donjon_memory::{HOLE_END, HOLE_START, Ram};
use donjon_x86::CpuState;

const MAGIC: u32 = 0x336e_c578;
const INFO_LEN: usize = 56;
const MODULE_LEN: usize = 32;
const MAP_ENTRY_LEN: usize = 24;

/// Loads kernel, initrd, command line and start information; the state to enter the kernel in.
pub fn load(source: &BootSource, ram: &Ram, rsdp: u64) -> Result<CpuState, BootError> {
    let kernel = &source.kernel;
    let elf = elf::parse(kernel)?;
    let Some(entry) = elf.pvh_entry(kernel, |offset, out| kernel.read(offset, out, "its notes"))? else {
        let bits = if elf.is_64 { "a 64" } else { "a 32" };
        let found = format!("{bits}-bit ELF file without a PVH note");
        let fix = "use its bzImage (arch/x86/boot/bzImage), or rebuild it with CONFIG_PVH=y; for the host's own: \
                   donjon run --kernel /boot/vmlinuz-$(uname -r)";
        return Err(kernel.wrong_kind(found, fix));
    };
    let end = end_of(kernel, &elf, ram, source.initrd.as_ref().map_or(0, |i| i.len()))?;
    check_entry(kernel, &elf, entry)?;
    for s in &elf.segments {
        kernel.for_each_piece(s.offset, s.file_len, "segment", |at, piece| {
            Ok(sparse::write(ram, s.address + at, piece)?)
        })?;
    }
    let placed = source
        .initrd
        .as_ref()
        .map(|i| initrd::place(ram, i, end, HOLE_END))
        .transpose()?;
    write_command_line(ram, &source.command_line, COMMAND_LINE_ROOM - 1)?;
    enter(ram, entry, placed, rsdp)
}

/// The end of the memory the segments take, which must all be there. `more` bytes will be needed besides.
pub fn end_of(kernel: &Image, elf: &Elf, ram: &Ram, more: u64) -> Result<u64, BootError> {
    let mut end = 0;
    for s in &elf.segments {
        // Cannot overflow: the parser checked.
        end = end.max(s.address + s.memory_len);
        if s.address < EXTENDED_START || end > HOLE_START {
            let (first, last) = (s.address, s.address + s.memory_len);
            return Err(kernel.damaged(format!(
                "a segment wants to lie at {first:#x}-{last:#x}, where no memory is"
            )));
        }
    }
    if end > low_ram_end(ram) {
        let what = format!("kernel {}", kernel.path().display());
        return Err(BootError::Memory {
            what,
            needed: end.saturating_add(more),
            have: ram.size(),
        });
    }
    Ok(end)
}

/// The entry must be where something was loaded.
pub fn check_entry(kernel: &Image, elf: &Elf, entry: u64) -> Result<(), BootError> {
    let inside = |s: &Segment| entry.wrapping_sub(s.address) < s.memory_len;
    if elf.segments.iter().any(inside) {
        return Ok(());
    }
    Err(kernel.damaged(format!("its PVH entry {entry:#x} is in none of its segments")))
}

/// Writes the start information of a kernel that is in RAM with its command line and its initrd; the state
/// to enter it in.
pub fn enter(
    ram: &Ram,
    entry: u64,
    initrd: Option<initrd::Placed>,
    rsdp: u64,
) -> Result<CpuState, BootError> {
    write_start_info(ram, initrd, rsdp)?;
    Ok(protected_mode(ram, entry)?)
}

/// Start information, then the module list, then the memory map.
fn write_start_info(ram: &Ram, initrd: Option<initrd::Placed>, rsdp: u64) -> Result<(), BootError> {
    let map = memory_map(ram);
    let modules = START_INFO + INFO_LEN as u64;
    let entries = modules + MODULE_LEN as u64;
    let mut block = vec![0; INFO_LEN + MODULE_LEN + map.len() * MAP_ENTRY_LEN];
    debug_assert!(START_INFO + block.len() as u64 <= ZERO_PAGE);

    put(&mut block, 0, MAGIC.to_le_bytes());
    put(&mut block, 4, 1u32.to_le_bytes());
    put(&mut block, 24, COMMAND_LINE.to_le_bytes());
    put(&mut block, 32, rsdp.to_le_bytes());
    put(&mut block, 40, entries.to_le_bytes());
    put(&mut block, 48, (map.len() as u32).to_le_bytes());
    if let Some(initrd) = initrd {
        put(&mut block, 12, 1u32.to_le_bytes());
        put(&mut block, 16, modules.to_le_bytes());
        put(&mut block, INFO_LEN, initrd.address.to_le_bytes());
        put(&mut block, INFO_LEN + 8, initrd.len.to_le_bytes());
    }
    for (i, region) in map.iter().enumerate() {
        let at = INFO_LEN + MODULE_LEN + i * MAP_ENTRY_LEN;
        put(&mut block, at, region.address.to_le_bytes());
        put(&mut block, at + 8, region.len.to_le_bytes());
        put(&mut block, at + 16, (region.kind as u32).to_le_bytes());
    }
    Ok(ram.write(START_INFO, &block)?)
}
