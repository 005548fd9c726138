//! Debug registers: when instructions must be looked at one by one.

use super::Cpu;
use donjon_x86::bits::{cr4, rflags};

impl Cpu {
    /// Whether the next instruction needs the watched path: single-step, RF to clear, or a breakpoint.
    #[inline(always)]
    pub fn debugging(&self) -> bool {
        self.rflags & (rflags::TF | rflags::RF) != 0 || self.dr7 & 0xff != 0
    }

    /// DR6 bits of the instruction breakpoints at the instruction pointer.
    pub fn instruction_breakpoints(&self) -> u64 {
        let linear = self.fetch_linear(self.rip());
        (0..4)
            .filter(|n| {
                self.dr7 >> (2 * n) & 3 != 0 && self.dr7 >> (16 + 4 * n) & 3 == 0 && self.dr[*n] == linear
            })
            .fold(0, |hits, n| hits | 1 << n)
    }

    /// The bytes breakpoint `n` watches: first address and length.
    pub fn watched_bytes(&self, n: usize) -> (u64, u64) {
        let bytes = [1, 2, 8, 4][(self.dr7 >> (18 + 4 * n) & 3) as usize];
        (self.dr[n] & !(bytes - 1), bytes)
    }

    /// Notes the I/O breakpoints that an access of `size` bytes at `port` meets.
    pub fn note_port(&mut self, port: u16, size: u16) {
        if self.dr7 & 0xff == 0 || self.cr4 & cr4::DE == 0 {
            return;
        }
        for n in 0..4 {
            let (at, bytes) = self.watched_bytes(n);
            let enabled = self.dr7 >> (2 * n) & 3 != 0 && self.dr7 >> (16 + 4 * n) & 3 == 2;
            if enabled && (port as u64) < at.wrapping_add(bytes) && at < port as u64 + size as u64 {
                self.debug_hits |= 1 << n;
            }
        }
    }
}
