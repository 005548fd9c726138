//! Just enough ELF to load a kernel (System V ABI, "Object Files" and "Program Loading").

use super::bytes::{u16_at, u32_at, u64_at};
use super::error::BootError;
use super::image::Image;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// Kernels have a handful; a bound keeps hostile files cheap.
const MAX_SEGMENTS: u16 = 128;
const MAX_NOTES: u64 = 1 << 20;

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where its bytes are in the file.
    pub offset: u64,
    /// How many.
    pub file_len: u64,
    /// Physical address.
    pub address: u64,
    /// Bytes in memory; those beyond `file_len` are zero.
    pub memory_len: u64,
}

/// What the headers say.
pub struct Elf {
    /// ELFCLASS64.
    pub is_64: bool,
    /// PT_LOAD segments that take memory, by ascending address, not overlapping.
    pub segments: Vec<Segment>,
    /// Stretches of the file that hold notes, and the alignment of these.
    notes: Vec<(Segment, u64)>,
}

/// Reads and checks the headers.
pub fn parse(kernel: &Image) -> Result<Elf, BootError> {
    let mut header = [0; 64];
    let ident = kernel.len().min(64) as usize;
    if ident < 52 {
        return Err(kernel.truncated("its ELF header", 52));
    }
    kernel.read(0, &mut header[..ident], "its ELF header")?;
    let is_64 = match header[4] {
        1 => false,
        2 => true,
        class => return Err(kernel.damaged(format!("its ELF class is {class}"))),
    };
    let machine = if header[5] == 2 {
        u16::from_be_bytes([header[18], header[19]])
    } else {
        u16_at(&header, 18)
    };
    if header[5] != 1 || !matches!(machine, EM_386 | EM_X86_64) {
        let fix = "use an x86-64 kernel (on Debian: linux-image-amd64)";
        return Err(kernel.wrong_kind(format!("an ELF file for {}", machine_name(machine)), fix));
    }
    if is_64 && ident < 64 {
        return Err(kernel.truncated("its ELF header", 64));
    }
    if u16_at(&header, 16) == 1 {
        let fix = "name the linked kernel (vmlinux), or its bzImage";
        return Err(kernel.wrong_kind("an ELF object file (a module?)", fix));
    }
    let (table, entry_size, count) = if is_64 {
        (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56))
    } else {
        (
            u64::from(u32_at(&header, 28)),
            u16_at(&header, 42),
            u16_at(&header, 44),
        )
    };
    let expected_size = if is_64 { 56 } else { 32 };
    if count == 0 || count > MAX_SEGMENTS || entry_size != expected_size {
        return Err(kernel.damaged(format!("it has {count} program headers of {entry_size} bytes")));
    }
    let mut headers = vec![0; usize::from(count) * usize::from(entry_size)];
    kernel.read(table, &mut headers, "its table of segments")?;

    let mut segments = vec![];
    let mut notes = vec![];
    for raw in headers.chunks_exact(entry_size.into()) {
        let (segment, align) = segment(raw, is_64);
        match u32_at(raw, 0) {
            PT_LOAD if segment.memory_len > 0 || segment.file_len > 0 => {
                segments.push(checked(kernel, segment)?)
            }
            PT_NOTE => notes.push((segment, align)),
            _ => {}
        }
    }
    segments.sort_by_key(|s| s.address);
    // Also bounds the work: all copies together are no more than guest memory.
    if let Some(pair) = segments
        .windows(2)
        .find(|p| p[1].address - p[0].address < p[0].memory_len)
    {
        return Err(kernel.damaged(format!("segments overlap at {:#x}", pair[1].address)));
    }
    if segments.is_empty() {
        return Err(kernel.damaged("it has nothing to load"));
    }
    Ok(Elf {
        is_64,
        segments,
        notes,
    })
}

impl Elf {
    /// The entry point of the PVH note, if there is one. `read` gives bytes of the file.
    pub fn pvh_entry(
        &self,
        kernel: &Image,
        read: impl Fn(u64, &mut [u8]) -> Result<(), BootError>,
    ) -> Result<Option<u64>, BootError> {
        for (segment, align) in &self.notes {
            let mut notes = vec![0; segment.file_len.min(MAX_NOTES) as usize];
            read(segment.offset, &mut notes)?;
            if let Some(entry) = find_pvh_note(kernel, &notes, *align)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn segment(raw: &[u8], is_64: bool) -> (Segment, u64) {
    let word = |offset| u64::from(u32_at(raw, offset));
    if is_64 {
        let [offset, address, file_len, memory_len] = [8, 24, 32, 40].map(|at| u64_at(raw, at));
        (
            Segment {
                offset,
                file_len,
                address,
                memory_len,
            },
            u64_at(raw, 48),
        )
    } else {
        let [offset, address, file_len, memory_len] = [4, 12, 16, 20].map(word);
        (
            Segment {
                offset,
                file_len,
                address,
                memory_len,
            },
            word(28),
        )
    }
}

fn checked(kernel: &Image, s: Segment) -> Result<Segment, BootError> {
    if s.file_len > s.memory_len || s.address.checked_add(s.memory_len).is_none() {
        let Segment {
            file_len,
            address,
            memory_len,
            ..
        } = s;
        return Err(kernel.damaged(format!(
            "segment at {address:#x}: {file_len} of {memory_len} bytes"
        )));
    }
    let end = s.offset.saturating_add(s.file_len);
    if end > kernel.len() {
        return Err(kernel.truncated(&format!("segment at {:#x}", s.address), end));
    }
    Ok(s)
}

/// The note that names the PVH entry point: name "Xen", type XEN_ELFNOTE_PHYS32_ENTRY
/// (Xen public/elfnote.h).
fn find_pvh_note(kernel: &Image, notes: &[u8], align: u64) -> Result<Option<u64>, BootError> {
    const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
    let align = if align == 8 { 8 } else { 4 };
    let mut rest = notes;
    while rest.len() >= 12 {
        let [name_len, len, kind] = [0, 4, 8].map(|at| u32_at(rest, at));
        let start = (12 + name_len as usize).next_multiple_of(align);
        let end = start + len as usize;
        let (Some(name), Some(content)) = (rest.get(12..12 + name_len as usize), rest.get(start..end)) else {
            break;
        };
        if name == b"Xen\0" && kind == XEN_ELFNOTE_PHYS32_ENTRY {
            return match content.len() {
                4 => Ok(Some(u64::from(u32_at(content, 0)))),
                8 => Ok(Some(u64_at(content, 0))),
                n => Err(kernel.damaged(format!("its PVH note has {n} bytes"))),
            };
        }
        rest = rest.get(end.next_multiple_of(align)..).unwrap_or_default();
    }
    Ok(None)
}

fn machine_name(machine: u16) -> String {
    match machine {
        0x28 => "32-bit Arm".into(),
        0xb7 => "arm64".into(),
        0xf3 => "RISC-V".into(),
        0x14 | 0x15 => "POWER".into(),
        0x16 => "IBM Z".into(),
        0x08 => "MIPS".into(),
        other => format!("another processor (ELF machine {other})"),
    }
}
