//! The compressed kernel inside a bzImage (Linux Documentation/arch/x86/boot.rst, `payload_offset` and
//! `payload_length`).

use super::bytes::u32_at;
use super::bzimage::{Setup, field};
use super::error::BootError;
use super::image::Image;
use donjon_memory::MemoryError;
use std::io;

/// Compressors of kernels. bzip2 and LZO are left to the guest: hardly a kernel is built with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Gzip,
    Xz,
    Lzma,
    Lz4,
    Zstd,
}

/// Where the payload lies, and what it becomes.
#[derive(Debug)]
pub struct Payload {
    pub format: Format,
    /// First byte of the compressed stream in the file.
    pub offset: u64,
    /// Bytes of the stream.
    pub len: u64,
    /// Bytes that come out of it.
    pub size: u64,
}

/// Why a kernel is left to unpack itself.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("it is not known to be Linux 5.0 or newer, and the PVH entry of older ones is for Xen alone")]
    Version,
    #[error("its payload is not in a format that is unpacked here")]
    Format,
    #[error("its payload claims to unpack to {0} bytes")]
    Size(u64),
    #[error("its payload unpacks to another size than the {0} bytes it claims")]
    OtherSize(u64),
    #[error("its payload does not unpack: {0}")]
    Stream(#[from] io::Error),
    #[error("its payload is no 64-bit ELF file with a PVH note")]
    NoEntry,
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Ram(#[from] MemoryError),
}

impl Format {
    /// By the magic numbers that boot.rst lists. Gzip's third byte is its only method; lzma has no magic
    /// number of its own but properties that all kernels share.
    fn recognise(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x5d, 0, 0, ..] => Some(Self::Lzma),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Finds the payload of a kernel that passed all checks.
pub fn find(kernel: &Image, setup: &Setup) -> Result<Payload, Unfit> {
    /// Magic number and size: less is no payload.
    const LEAST: u64 = 8 + SIZE;
    /// Kernels are built with their unpacked size behind the stream (scripts/Makefile.lib, `size_append`).
    const SIZE: u64 = 4;

    let offset = u64::from(u32_at(&setup.raw, field::PAYLOAD_OFFSET));
    let len = u64::from(u32_at(&setup.raw, field::PAYLOAD_LENGTH));
    if offset == 0 || len < LEAST || offset + len > setup.len {
        return Err(Unfit::Format);
    }
    let offset = setup.offset + offset;
    let (mut head, mut tail) = ([0; 8], [0; SIZE as usize]);
    kernel.read(offset, &mut head, "payload")?;
    kernel.read(offset + len - SIZE, &mut tail, "payload")?;
    let format = Format::recognise(&head).ok_or(Unfit::Format)?;
    // A gzip stream ends in that size itself.
    let len = if format == Format::Gzip { len } else { len - SIZE };
    Ok(Payload {
        format,
        offset,
        len,
        size: u32::from_le_bytes(tail).into(),
    })
}
