//! Debug registers: when instructions must be looked at one by one.

use super::Cpu;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;

impl Cpu {
    /// Whether the next instruction needs the watched path: single-step, RF to clear, or a breakpoint.
    #[inline(always)]
    pub fn debugging(&self) -> bool {
        self.rflags & (rflags::TF | rflags::RF) != 0 || self.dr7 & 0xff != 0
    }

    /// DR6 bits of the instruction breakpoints at the instruction pointer.
    pub fn instruction_breakpoints(&self) -> u64 {
        let linear = self.seg_base[Seg::Cs as usize].wrapping_add(self.rip());
        (0..4)
            .filter(|n| {
                self.dr7 >> (2 * n) & 3 != 0 && self.dr7 >> (16 + 4 * n) & 3 == 0 && self.dr[*n] == linear
            })
            .fold(0, |hits, n| hits | 1 << n)
    }
}
