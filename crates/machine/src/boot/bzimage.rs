//! bzImage by the Linux/x86 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst).

use super::bytes::{u16_at, u32_at, u64_at};
use super::entry::{COMMAND_LINE_ROOM, long_mode};
use super::error::BootError;
use super::image::{Image, Unpack};
use super::payload::{self, Unfit};
use super::vmlinux::{self, Unpacked};
use super::{BootSource, checksum, initrd, pvh, write_command_line, zero_page};
use crate::layout::{EXTENDED_START, low_ram_end};
use donjon_memory::{HOLE_START, Ram};
use donjon_x86::CpuState;

/// Offsets in the file's first sectors, which are also those in the boot parameters.
pub mod field {
    #![allow(missing_docs)]
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP: usize = 0x200;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20e;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// Where the fields used here end.
    pub const END: usize = 0x268;
}

/// First protocol with `xloadflags`.
const PROTOCOL_2_12: u16 = 0x020c;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// The 64-bit entry point, from where the protected-mode part is loaded.
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;

/// The setup header of a file that passed all checks.
pub struct Setup {
    /// The file's bytes up to [`field::END`].
    pub raw: Vec<u8>,
    /// Where the protected-mode part begins in the file.
    pub offset: u64,
    /// Its size.
    pub len: u64,
    /// Where it wants to be loaded and needs `init_size` bytes of memory.
    address: u64,
    init_size: u64,
}

/// Loads kernel, initrd, command line and boot parameters; the state to enter the kernel in.
pub fn load(source: &BootSource, ram: &Ram, rsdp: u64) -> Result<CpuState, BootError> {
    let kernel = &source.kernel;
    let setup = parse(kernel)?;
    let end = setup.address + setup.init_size;
    if end > low_ram_end(ram) {
        let needed = end + source.initrd.as_ref().map_or(0, Image::len);
        let what = match source.initrd {
            Some(_) => format!("kernel {} with its initrd", kernel.path().display()),
            None => format!("kernel {}", kernel.path().display()),
        };
        return Err(BootError::Memory {
            what,
            needed,
            have: ram.size(),
        });
    }
    let version = version(kernel, &setup.raw)?;
    if let Some((major, minor)) = version.filter(|&v| v < (6, 16))
        && !checksum::is_right(kernel, setup.offset + setup.len)?
    {
        let what = format!("the checksum of its code is wrong (Linux {major}.{minor})");
        return Err(kernel.damaged(what));
    }
    let unpacked = unpack(kernel, &setup, version, ram);
    let end = end.max(unpacked.map_or(0, |u| u.end));
    if unpacked.is_none() {
        kernel.copy_to(ram, setup.offset, setup.len, setup.address, "protected-mode code")?;
    }

    let limit = u64::from(u32_at(&setup.raw, field::INITRD_ADDR_MAX)) + 1;
    let placed = source
        .initrd
        .as_ref()
        .map(|i| initrd::place(ram, i, end, limit))
        .transpose()?;
    let room = (u32_at(&setup.raw, field::CMDLINE_SIZE) as usize).min(COMMAND_LINE_ROOM - 1);
    write_command_line(ram, &source.command_line, room)?;
    if let Some(Unpacked { entry, .. }) = unpacked {
        return pvh::enter(ram, entry, placed, rsdp);
    }
    zero_page::write(ram, &setup.raw, setup.address as u32, placed, rsdp)?;
    Ok(long_mode(ram, setup.address + ENTRY_64)?)
}

/// Unpacks the kernel on the host, if that can be done. Whatever stands against it is no error: the kernel's
/// own code then unpacks it, or says what is wrong.
fn unpack(kernel: &Image, setup: &Setup, version: Option<(u32, u32)>, ram: &Ram) -> Option<Unpacked> {
    if kernel.unpack() == Unpack::Never {
        return None;
    }
    let unpacked = match version {
        Some((5.., _)) => payload::find(kernel, setup).and_then(|p| vmlinux::load(kernel, &p, ram)),
        _ => Err(Unfit::Version),
    };
    unpacked
        .inspect_err(|why| tracing::debug!(%why, "the guest unpacks its kernel itself"))
        .ok()
}

fn parse(kernel: &Image) -> Result<Setup, BootError> {
    let mut raw = vec![0; field::END];
    kernel.read(0, &mut raw, "setup header")?;
    if u16_at(&raw, field::BOOT_FLAG) != 0xaa55 {
        return Err(kernel.damaged("its boot flag is not 0xAA55"));
    }
    let version = u16_at(&raw, field::VERSION);
    let loaded_high = raw[field::LOADFLAGS] & LOADED_HIGH != 0;
    let has_64 = u16_at(&raw, field::XLOADFLAGS) & XLF_KERNEL_64 != 0;
    if version < PROTOCOL_2_12 || !loaded_high || !has_64 {
        let found = format!(
            "a bzImage without a 64-bit entry (boot protocol {}.{:02})",
            version >> 8,
            version & 0xff
        );
        return Err(kernel.wrong_kind(
            found,
            "use an x86-64 kernel, version 3.8 or newer (on Debian: linux-image-amd64)",
        ));
    }

    let sectors = match raw[field::SETUP_SECTS] {
        0 => 4,
        n => u64::from(n),
    };
    let offset = (sectors + 1) * SECTOR;
    let len = u64::from(u32_at(&raw, field::SYSSIZE)) * 16;
    if len <= ENTRY_64 {
        return Err(kernel.damaged(format!("its header promises only {len} bytes of code")));
    }
    if offset + len > kernel.len() {
        return Err(kernel.truncated("its code", offset + len));
    }
    let address = u64_at(&raw, field::PREF_ADDRESS);
    let init_size = u64::from(u32_at(&raw, field::INIT_SIZE)).max(len);
    let end = address.checked_add(init_size);
    if address < EXTENDED_START || !address.is_multiple_of(4096) || end.is_none_or(|end| end > HOLE_START) {
        return Err(kernel.damaged(format!(
            "it asks for {init_size:#x} bytes of memory at {address:#x}"
        )));
    }
    Ok(Setup {
        raw,
        offset,
        len,
        address,
        init_size,
    })
}

/// Major and minor number from the version string the header points to.
fn version(kernel: &Image, raw: &[u8]) -> Result<Option<(u32, u32)>, BootError> {
    let pointer = u16_at(raw, field::KERNEL_VERSION);
    if pointer == 0 {
        return Ok(None);
    }
    let offset = u64::from(pointer) + 0x200;
    let mut text = vec![0; kernel.len().saturating_sub(offset).min(32) as usize];
    kernel.read(offset.min(kernel.len()), &mut text, "version string")?;
    let text = String::from_utf8_lossy(&text);
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().ok());
    Ok(numbers.next().flatten().zip(numbers.next().flatten()))
}
