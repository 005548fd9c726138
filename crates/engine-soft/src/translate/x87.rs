//! The x87 state on its way to the host's registers and back, as FNSAVE and FRSTOR have it (Intel SDM
//! vol. 1 §8.1.10, figure 8-9).
//!
//! Where the last instruction and its operand were is not kept track of in translated code: those fields
//! stay as they are.

use super::frame::Frame;
use crate::cpu::Cpu;
use donjon_x86::bits::cr0;

/// Control, status and tag word.
const WORDS: [usize; 3] = [0, 4, 8];
/// ST(0), ten bytes each.
const REGISTERS: usize = 28;

impl Cpu {
    /// Writes the image that FRSTOR loads; `false` if x87 instructions cannot run on the host, because they
    /// are off or may raise exceptions.
    pub fn give_x87(&mut self, frame: &mut Frame) -> bool {
        if frame.x87_saved != 0 {
            self.take_x87(frame);
        }
        let fpu = &self.fpu;
        let masked = fpu.control & 0x3f == 0x3f && fpu.status & 0x80 == 0;
        if self.cr0 & (cr0::EM | cr0::TS) != 0 || !masked {
            return false;
        }
        frame.x87 = [0; 112];
        for (at, word) in WORDS.into_iter().zip([fpu.control, fpu.status, fpu.tag]) {
            frame.x87[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        let top = (fpu.status >> 11 & 7) as usize;
        for (n, out) in frame.x87[REGISTERS..]
            .as_chunks_mut::<10>()
            .0
            .iter_mut()
            .take(8)
            .enumerate()
        {
            let r = (top + n) & 7;
            out[..8].copy_from_slice(&fpu.significand[r].to_le_bytes());
            out[8..].copy_from_slice(&fpu.sign_exponent[r].to_le_bytes());
        }
        true
    }

    /// Takes over the image that FNSAVE stored.
    pub fn take_x87(&mut self, frame: &mut Frame) {
        frame.x87_saved = 0;
        let word = |at: usize| u16::from_le_bytes([frame.x87[at], frame.x87[at + 1]]);
        let fpu = &mut self.fpu;
        [fpu.control, fpu.status, fpu.tag] = WORDS.map(word);
        let top = (fpu.status >> 11 & 7) as usize;
        for (n, image) in frame.x87[REGISTERS..]
            .as_chunks::<10>()
            .0
            .iter()
            .take(8)
            .enumerate()
        {
            let r = (top + n) & 7;
            let (significand, rest) = image.split_at(8);
            fpu.significand[r] = u64::from_le_bytes(significand.try_into().expect("eight bytes"));
            fpu.sign_exponent[r] = u16::from_le_bytes(rest.try_into().expect("two bytes"));
        }
    }
}
