//! Loads a kernel into guest RAM without firmware.
//!
//! ```text
//! 0x0_6000  GDT of the entry state
//! 0x0_6100  PVH start information, module list, memory map
//! 0x0_7000  Linux boot parameters
//! 0x0_9000  identity page tables, six pages
//! 0x2_0000  command line, at most 64 KiB
//! ```
//!
//! The kernel inside a bzImage is unpacked here and entered by PVH where that is possible ([`Unpack`]).
//!
//! Files come from anywhere and are not trusted: every offset and address in them is checked before use,
//! and nothing is read that guest RAM could not hold.

mod bytes;
mod bzimage;
mod checksum;
mod elf;
mod entry;
mod error;
mod image;
mod initrd;
mod kind;
mod lz4;
mod payload;
mod pvh;
pub mod sample;
mod sparse;
#[cfg(test)]
mod tests;
mod unpack;
mod vmlinux;
mod zero_page;

pub use entry::with_firmware_msrs;
pub use error::BootError;
pub use image::{Image, Role, Unpack};

use donjon_memory::Ram;
use donjon_x86::CpuState;
use entry::COMMAND_LINE;

/// What a domain boots from.
#[derive(Clone, Debug)]
pub struct BootSource {
    /// A bzImage, or an ELF file with a PVH note.
    pub kernel: Image,
    /// The initial RAM disk.
    pub initrd: Option<Image>,
    /// The kernel's command line.
    pub command_line: String,
}

/// Loads it all into fresh (zeroed) RAM, with the ACPI root pointer at `rsdp`; the state of the first
/// processor.
pub fn load(source: &BootSource, ram: &Ram, rsdp: u64) -> Result<CpuState, BootError> {
    match kind::recognise(&source.kernel)? {
        kind::Kind::BzImage => bzimage::load(source, ram, rsdp),
        kind::Kind::Elf => pvh::load(source, ram, rsdp),
    }
}

/// `room` is the longest line the kernel can take, without the final NUL.
fn write_command_line(ram: &Ram, line: &str, room: usize) -> Result<(), BootError> {
    if line.contains('\0') {
        return Err(BootError::CommandLine("contains a NUL character".into()));
    }
    if line.len() > room {
        return Err(BootError::CommandLine(format!(
            "has {} bytes; this kernel takes {room}",
            line.len()
        )));
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    Ok(ram.write(COMMAND_LINE, &bytes)?)
}
