//! Memory operands larger than a word: environments and state images.

use crate::cpu::{Cpu, Kind, R};
use crate::decode::Op;
use donjon_x86::bits::{cr0, rflags};
use donjon_x86::exception;
use donjon_x86::paging::canonical;
use std::ops::Range;

/// #AC(0) if alignment is checked and `linear` is not a multiple of `align` (Intel SDM vol. 3A §6.15).
pub fn check_alignment(cpu: &mut Cpu, linear: u64, align: u64) -> R {
    let checked = cpu.cpl == 3 && cpu.rflags & rflags::AC != 0 && cpu.cr0 & cr0::AM != 0;
    // An address that is not canonical is worse; the access itself finds out.
    if checked && linear & (align - 1) != 0 && canonical(linear) {
        return Err(cpu.raise_code(exception::AC, 0));
    }
    Ok(())
}

/// Makes sure that `size` bytes, at most a page, can be accessed, so that accesses to parts of them do not
/// fault after some have been done.
pub fn probe(cpu: &mut Cpu, seg: u8, linear: u64, size: usize, kind: Kind) -> R {
    let last = linear.wrapping_add(size as u64 - 1);
    if !canonical(last) {
        // Worse than a page fault at the first byte.
        cpu.place(seg, last, kind)?;
    }
    cpu.place(seg, linear, kind)?;
    if (last ^ linear) >> 12 != 0 {
        cpu.place(seg, last & !0xfff, kind)?;
    }
    Ok(())
}

/// Looks at the last byte of an operand alone, as the instructions with large images do: a page fault then
/// reports its address. It is worked out in the address size.
pub fn probe_last(cpu: &mut Cpu, op: &Op, ea: u64, size: usize, kind: Kind) -> R {
    let width = [u16::MAX as u64, u32::MAX as u64, u64::MAX][op.address_size as usize % 3];
    let linear = cpu.linear(op.seg, ea.wrapping_add(size as u64 - 1) & width, 1, kind)?;
    cpu.place(op.seg, linear, kind)?;
    Ok(())
}

/// Stores some bytes of an image.
pub fn store_part(cpu: &mut Cpu, op: &Op, ea: u64, image: &[u8], part: Range<usize>) -> R {
    cpu.write_bytes(op.seg, ea.wrapping_add(part.start as u64), &image[part])
}
