//! The ELF kernel inside a bzImage, unpacked on the host straight to where its segments belong: a guest takes
//! many times as long for it.

use super::elf::{self, Segment};
use super::image::Image;
use super::payload::{Payload, Unfit};
use super::unpack::unpack;
use super::{pvh, sparse};
use donjon_memory::Ram;
use std::io::{BufRead, Read};
use std::time::Instant;

/// The largest kernel that is unpacked here.
const MAX_SIZE: u64 = 1 << 30;
/// All headers of a kernel lie in its first bytes.
const HEAD: u64 = 4096;

/// A kernel in RAM, ready to be entered by PVH.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    /// Where.
    pub entry: u64,
    /// The end of the memory it takes.
    pub end: u64,
}

/// Unpacks the payload into fresh RAM. A failure may leave parts of a kernel there.
pub fn load(kernel: &Image, payload: &Payload, ram: &Ram) -> Result<Unpacked, Unfit> {
    let start = Instant::now();
    let Payload { format, size, .. } = *payload;
    if size > MAX_SIZE.min(ram.size()) {
        return Err(Unfit::Size(size));
    }
    let mut stream = unpack(format, kernel.range(payload.offset, payload.len))?;
    let mut head = vec![];
    stream.by_ref().take(HEAD).read_to_end(&mut head)?;
    let inner = kernel.beginning_inside(&head, size);
    let elf = elf::parse(&inner)?;
    if !elf.is_64 {
        return Err(Unfit::NoEntry);
    }
    let end = pvh::end_of(&inner, &elf, ram, 0)?;
    place(ram, &elf.segments, head.as_slice().chain(stream), size)?;

    let entry = elf.pvh_entry(&inner, |offset, out| {
        if inner.read(offset, out, "its notes").is_ok() {
            return Ok(());
        }
        // Linux has its notes in a segment that is loaded, so that they are in RAM by now.
        let holds = |s: &&Segment| offset >= s.offset && offset - s.offset + out.len() as u64 <= s.file_len;
        let s = elf.segments.iter().find(holds);
        let s = s.ok_or_else(|| inner.damaged("its notes are in none of its segments"))?;
        Ok(ram.read(s.address + (offset - s.offset), out)?)
    })?;
    let entry = entry.ok_or(Unfit::NoEntry)?;
    pvh::check_entry(&inner, &elf, entry)?;
    tracing::debug!(?format, size, elapsed = ?start.elapsed(), "kernel unpacked on the host");
    Ok(Unpacked { entry, end })
}

/// Reads a file of `size` bytes and writes its segments into RAM.
fn place(ram: &Ram, segments: &[Segment], mut file: impl BufRead, size: u64) -> Result<(), Unfit> {
    let mut at = 0;
    loop {
        let piece = file.fill_buf()?;
        let end = at + piece.len() as u64;
        if piece.is_empty() && at == size {
            return Ok(());
        }
        if piece.is_empty() || end > size {
            return Err(Unfit::OtherSize(size));
        }
        for s in segments {
            let (first, last) = (at.max(s.offset), end.min(s.offset + s.file_len));
            if first < last {
                let part = &piece[(first - at) as usize..(last - at) as usize];
                sparse::write(ram, s.address + (first - s.offset), part)?;
            }
        }
        let len = piece.len();
        file.consume(len);
        at = end;
    }
}
