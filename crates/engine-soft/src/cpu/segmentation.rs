//! From an offset in a segment to a linear address.

use super::{Cpu, Kind, R, Stop};
use donjon_x86::{Seg, exception, paging};

impl Cpu {
    /// Linear address of `size` bytes at `ea` in a segment, with the segment's checks.
    #[inline(always)]
    pub fn linear(&mut self, seg: u8, ea: u64, size: usize, kind: Kind) -> R<u64> {
        if self.is64() {
            return Ok(self.seg_base[(seg & 7) as usize].wrapping_add(ea));
        }
        self.linear_checked(seg, ea, size, kind)
    }

    /// Type and limit checks outside 64-bit mode (Intel SDM vol. 3A §5.3-5.5).
    pub(super) fn linear_checked(&mut self, seg: u8, ea: u64, size: usize, kind: Kind) -> R<u64> {
        let s = &self.seg[seg as usize];
        let a = s.attributes;
        let (ea, last) = (ea & 0xffff_ffff, (ea & 0xffff_ffff) + size as u64 - 1);
        let allowed = !a.unusable()
            && a.present()
            && match kind {
                Kind::Read => a.readable() || !self.protected(),
                Kind::Write => a.writable() || !self.protected(),
            };
        let inside = if a.expand_down() {
            let top = if a.big() { 0xffff_ffff } else { 0xffff };
            ea > s.limit as u64 && last <= top
        } else {
            last <= s.limit as u64
        };
        if allowed && inside {
            return Ok(s.base.wrapping_add(ea) & 0xffff_ffff);
        }
        Err(self.segment_fault(seg))
    }

    #[cold]
    pub(super) fn segment_fault(&mut self, seg: u8) -> Stop {
        let vector = if seg == Seg::Ss as u8 {
            exception::SS
        } else {
            exception::GP
        };
        self.raise_code(vector, 0)
    }

    /// An access that runs out of the canonical range faults as a whole, before its first page is looked at.
    pub(super) fn check_canonical_end(&mut self, seg: u8, linear: u64, len: usize) -> R {
        if self.is64() && !paging::canonical(linear.wrapping_add(len as u64 - 1)) {
            return Err(self.segment_fault(seg));
        }
        Ok(())
    }

    pub(super) fn next_page(&self, linear: u64) -> u64 {
        let next = (linear | 0xfff).wrapping_add(1);
        if self.is64() { next } else { next & 0xffff_ffff }
    }
}
