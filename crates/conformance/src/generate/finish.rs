//! The last steps: prefixes, encoding, displacements that depend on the length, ways out.

use super::{Builder, Fixup};
use crate::case::{Case, CodeBytes, Mode};
use crate::encode::{self, Bytes, Rm};
use crate::layout::*;
use iced_x86::{Decoder, DecoderOptions, EncodingKind, FlowControl};

/// A jump from code read in `mode` at `address` to the 64-bit stub `to`.
pub fn jump(address: u64, to: u64, mode: Mode) -> Bytes {
    let mut b = Bytes::default();
    match mode {
        Mode::Long => {
            b.push(0xe9);
            b.extend(&(to.wrapping_sub(address + 5) as u32).to_le_bytes());
        }
        // JMP ptr16:32, with an operand-size prefix in 16-bit code.
        Mode::Compat32 | Mode::Compat16 => {
            if mode == Mode::Compat16 {
                b.push(0x66);
            }
            b.push(0xea);
            b.extend(&(to as u32).to_le_bytes());
            b.extend(&selector::CODE64.to_le_bytes());
        }
    }
    b
}

impl Builder {
    /// Puts a jump to a stub at `address`.
    pub(super) fn way_out(&mut self, address: u64, to: u64, mode: Mode) {
        self.targets
            .push(CodeBytes::new(address, &jump(address, to, mode)));
    }

    /// Encodes the case.
    pub(super) fn finish(mut self, index: u64) -> Case {
        self.redundancies();
        let mut encoded = self.encode();
        if !self.illegal && !self.is_itself(&encoded.bytes) {
            // A redundancy that is none for this form: do without any.
            let keep = self.prefixes;
            let plain: Vec<u8> = keep
                .iter()
                .copied()
                .filter(|p| !matches!(p, 0x66 | 0xf2 | 0xf3 | 0xf0))
                .collect();
            self.prefixes = Bytes::default();
            self.prefixes.extend(&plain);
            self.choice.rex &= 0x40;
            encoded = self.encode();
        }
        let mut bytes = encoded.bytes;
        let next = self.start + bytes.len() as u64;
        match self.fixup {
            Fixup::None => {}
            Fixup::RipRelative(offset) => {
                let d = offset.wrapping_sub(next) as u32;
                bytes[encoded.displacement_at..encoded.displacement_at + 4].copy_from_slice(&d.to_le_bytes());
            }
            Fixup::Branch(size) => {
                let at = bytes.len() - size;
                let d = self.branch(next, bytes.len(), size);
                bytes[at..].copy_from_slice(&d.to_le_bytes()[..size]);
            }
        }
        let length = bytes.len();
        bytes.extend(&jump(next, STUB_FALL, self.mode));
        let mut program = vec![CodeBytes::new(self.start, &bytes)];
        program.append(&mut self.targets);
        if self.mode != Mode::Long && self.regs.selectors[2] == selector::DATA16 {
            // See `segments`.
            self.regs.gpr[4] = self.regs.gpr[4] & 0xffff | STATE & 0xffff_0000;
        }
        self.regs.rip = match self.mode {
            Mode::Compat16 => self.start - CODE,
            _ => self.start,
        };
        Case {
            index,
            code: self.code,
            mode: self.mode,
            before: self.regs,
            length,
            program,
            patches: self.patches,
        }
    }

    fn encode(&mut self) -> encode::Encoded {
        self.choice.prefixes = self.prefixes;
        encode::encode(self.op, self.mode, &self.choice)
    }

    fn is_itself(&self, bytes: &[u8]) -> bool {
        let d = Decoder::new(self.mode.bits(), bytes, DecoderOptions::NONE).decode();
        d.code() == self.code && d.len() == bytes.len()
    }

    /// Prefixes that change nothing, and rarely one that makes the instruction undefined.
    fn redundancies(&mut self) {
        let legacy = self.op.encoding() == EncodingKind::Legacy;
        self.choice.long_vex = self.rng.chance(1, 3);
        self.choice.w = self.rng.chance(1, 2);
        self.choice.l = self.rng.chance(1, 2);
        let memory = matches!(self.choice.rm, Rm::Memory(_));
        if legacy && self.op.can_use_lock_prefix() && memory && self.rng.chance(1, 3) {
            self.prefixes.push(0xf0);
        } else if legacy && !self.op.amd_lock_reg_bit() && self.rng.chance(1, 100) {
            // LOCK where it is not allowed: #UD (Intel SDM vol. 2A, LOCK).
            self.prefixes.push(0xf0);
            self.illegal = true;
        }
        if !legacy {
            return;
        }
        if self.mode == Mode::Long && self.rng.chance(1, 6) {
            self.choice.rex |= 0x40 | (self.rng.draw() as u8 & 15);
            // Bits that are in use for this operand are not redundant.
            let used = if memory { 7 } else { 5 };
            self.choice.rex &= !used | 0x40;
            if self.rng.chance(1, 2) {
                self.choice.rex &= !8;
            }
        }
        for (prefix, of) in [(0x66, 16), (0xf3, 24), (0xf2, 24)] {
            // AMD's near branches become 16-bit ones, Intel's ignore it (Intel SDM vol. 2A §2.2.1.7; AMD APM
            // vol. 3, "Near Branches in 64-Bit Mode").
            if prefix == 0x66 && self.mode == Mode::Long && self.is_near_branch() {
                continue;
            }
            // Repeat prefixes on branches are reserved (Intel SDM vol. 2A §2.1.1), and AMD's LOOPE and LOOPNE
            // do heed them.
            if prefix != 0x66 && self.code.flow_control() != FlowControl::Next {
                continue;
            }
            if self.rng.chance(1, of) && !self.prefixes.contains(&prefix) {
                self.prefixes.push(prefix);
            }
        }
        // Order does not matter between prefixes of different groups (Intel SDM vol. 2A §2.1.1).
        for i in (1..self.prefixes.len()).rev() {
            let j = self.rng.below(i as u64 + 1) as usize;
            self.prefixes.swap(i, j);
        }
    }

    fn is_near_branch(&self) -> bool {
        use FlowControl::*;
        matches!(
            self.code.flow_control(),
            UnconditionalBranch | IndirectBranch | ConditionalBranch | Return | Call | IndirectCall
        )
    }

    /// A branch displacement of `size` bytes, with a way out at its target.
    fn branch(&mut self, next: u64, length: usize, size: usize) -> i64 {
        const WAY_OUT: i64 = 8;
        let displacement = loop {
            let d = match size {
                1 => self.rng.draw() as i8 as i64,
                _ if self.rng.chance(1, 2) => self.rng.range(-128, 128),
                _ => CODE as i64 + self.rng.below(CODE_SIZE - 16) as i64 - next as i64,
            };
            if d == 0 || d >= WAY_OUT || d <= -(length as i64 + WAY_OUT) {
                break d;
            }
        };
        let target = next.wrapping_add(displacement as u64);
        if displacement != 0 {
            self.way_out(target, STUB_TAKEN, self.mode);
        }
        if size > 1 && self.rng.chance(1, 24) {
            // Away from anything mapped.
            return SCRATCH_END as i64 + self.rng.below(PAGE) as i64 - next as i64;
        }
        displacement
    }
}
