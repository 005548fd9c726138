//! The register stack: TOP, tags, stack faults, exception flags and the pointers to the last
//! instruction (Intel SDM vol. 1 §8.1).

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::float::Env;
use crate::float::x87::F80;
use donjon_x86::{Fpu, Seg};

/// Bits of the status word (Intel SDM vol. 1 §8.1.3).
pub mod status {
    #![allow(missing_docs)]
    pub const IE: u16 = 1 << 0;
    pub const FLAGS: u16 = 0x3f;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Exception summary: a flag is set whose mask is clear.
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const TOP: u16 = 7 << 11;
    pub const C3: u16 = 1 << 14;
    /// A copy of ES, for the 8087's sake.
    pub const B: u16 = 1 << 15;
    pub const CODES: u16 = C0 | C1 | C2 | C3;
}
use status::*;

/// Tag of an empty register.
pub const EMPTY: u16 = 3;

/// Invalid-operation mask of the control word.
pub const IM: u16 = 1;

/// The tag of a register with these contents: valid, zero or special (Intel SDM vol. 1 §8.1.7).
#[inline(always)]
fn tag(v: F80) -> u16 {
    match v.sign_exponent & 0x7fff {
        0 if v.significand == 0 => 1,
        0 | 0x7fff => 2,
        _ => ((!v.significand >> 63) << 1) as u16,
    }
}

/// Makes every register empty or not as `empty` says (two bits a register, as in a tag word) and works the
/// tags of the others out from their contents.
pub fn retag(f: &mut Fpu, empty: u16) {
    f.tag = (0..8).fold(0, |tags, n| {
        let v = F80 {
            significand: f.significand[n],
            sign_exponent: f.sign_exponent[n],
        };
        let is_empty = empty >> (2 * n) & EMPTY == EMPTY;
        tags | if is_empty { EMPTY } else { tag(v) } << (2 * n)
    });
}

/// Whether ST(`i`) is empty.
#[inline(always)]
pub fn empty(f: &Fpu, i: u8) -> bool {
    f.tag >> (2 * physical(f, i)) & 3 == EMPTY
}

/// The physical register behind ST(`i`).
#[inline(always)]
pub fn physical(f: &Fpu, i: u8) -> usize {
    ((f.status >> 11) as u8).wrapping_add(i) as usize & 7
}

/// ST(`i`), whatever its tag.
#[inline(always)]
pub fn get(f: &Fpu, i: u8) -> F80 {
    let n = physical(f, i);
    F80 {
        significand: f.significand[n],
        sign_exponent: f.sign_exponent[n],
    }
}

/// Writes ST(`i`), which is then not empty.
#[inline(always)]
pub fn set(f: &mut Fpu, i: u8, v: F80) {
    let n = physical(f, i);
    f.significand[n] = v.significand;
    f.sign_exponent[n] = v.sign_exponent;
    f.tag = f.tag & !(3 << (2 * n)) | tag(v) << (2 * n);
}

/// Marks ST(`i`) empty.
#[inline(always)]
pub fn free(f: &mut Fpu, i: u8) {
    f.tag |= EMPTY << (2 * physical(f, i));
}

/// Adds to TOP without looking at tags.
#[inline(always)]
pub fn rotate(f: &mut Fpu, by: u16) {
    f.status = f.status & !TOP | f.status.wrapping_add(by << 11) & TOP;
}

/// Pushes.
#[inline(always)]
pub fn push(f: &mut Fpu, v: F80) {
    rotate(f, 7);
    set(f, 0, v);
}

/// Pops.
#[inline(always)]
pub fn pop(f: &mut Fpu) {
    free(f, 0);
    rotate(f, 1);
}

/// Brings ES and B in line with flags and masks.
#[inline(always)]
pub fn summarise(f: &mut Fpu) {
    let pending = f.status & !f.control & FLAGS != 0;
    f.status = f.status & !(ES | B) | if pending { ES | B } else { 0 };
}

impl Cpu {
    /// The x87 environment an arithmetic function runs under.
    #[inline(always)]
    pub(super) fn x87_env(&self) -> Env {
        Env::from_fcw(self.fpu.control)
    }

    /// Records a non-control instruction: its address and opcode bits (Intel SDM vol. 1 §8.1.8 and
    /// §8.1.9). The data pointer keeps its value if there is no memory operand.
    ///
    /// Only while an exception is unmasked: handlers are who the pointers are for, processors of either
    /// vendor keep some of them for exceptions alone, and translated code cannot know them.
    #[inline(always)]
    pub(super) fn x87_at(&mut self, op: &Op) {
        if self.fpu.control & 0x3f == 0x3f {
            return;
        }
        self.fpu.instruction = self.rip();
        self.fpu.instruction_selector = self.seg[Seg::Cs as usize].selector;
        self.fpu.opcode = op.imm as u16;
    }

    /// Records a non-control instruction and the address of its memory operand.
    #[inline(always)]
    pub(super) fn x87_at_data(&mut self, op: &Op) {
        if self.fpu.control & 0x3f == 0x3f {
            return;
        }
        self.fpu.data = self.ea(op);
        self.fpu.data_selector = self.seg[op.seg as usize % 6].selector;
        self.x87_at(op);
    }

    /// Sets exception flags and C1; the caller has dealt with what the flags prevent.
    #[inline(always)]
    pub(super) fn x87_flags(&mut self, flags: u16, c1: bool) {
        let f = &mut self.fpu;
        f.status = f.status & !C1 | flags | if c1 { C1 } else { 0 };
        if flags & !f.control & FLAGS != 0 {
            // Delivered by the next waiting instruction.
            f.status |= ES | B;
        }
    }

    /// Takes over exceptions and rounding direction of an arithmetic function.
    #[inline(always)]
    pub(super) fn x87_settle(&mut self, env: &Env) {
        self.x87_flags(env.flags as u16, env.rounded_up);
    }

    /// A stack fault: an empty source (underflow), or with `overflow` a full destination. Returns
    /// whether the masked response follows (Intel SDM vol. 1 §8.5.1.1).
    #[cold]
    pub(super) fn x87_stack_fault(&mut self, overflow: bool) -> bool {
        self.x87_flags(IE | SF, overflow);
        self.fpu.control & IM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_and_pop_go_round() {
        let mut f = Fpu::default();
        for n in 0..8 {
            assert!(empty(&f, 7));
            push(
                &mut f,
                F80 {
                    significand: 1 << 63 | n,
                    sign_exponent: 1,
                },
            );
        }
        assert_eq!((f.tag, f.status & TOP), (0, 0));
        assert!(!empty(&f, 7));
        for n in (0..8).rev() {
            assert_eq!(get(&f, 0).significand, 1 << 63 | n);
            pop(&mut f);
        }
        assert_eq!((f.tag, f.status & TOP), (0xffff, 0));
    }

    #[test]
    fn tags_follow_contents() {
        let mut f = Fpu::default();
        let kinds = [
            (0, 0, 1),
            (0, 1, 2),
            (0x7fff, 1 << 63, 2),
            (0xffff, 1, 2),
            (5, 1, 2),
            (0x8005, 1 << 63, 0),
        ];
        for (sign_exponent, significand, expected) in kinds {
            set(
                &mut f,
                3,
                F80 {
                    significand,
                    sign_exponent,
                },
            );
            assert_eq!(f.tag, 0xff3f | expected << 6);
            retag(&mut f, 0xff3f);
            assert_eq!(f.tag, 0xff3f | expected << 6);
        }
    }

    #[test]
    fn summary_follows_masks() {
        let mut f = Fpu {
            status: 0x3f,
            ..Fpu::default()
        };
        summarise(&mut f);
        assert_eq!(f.status, 0x3f);
        f.control = 0x35f;
        summarise(&mut f);
        assert_eq!(f.status, 0x80bf);
        f.control = 0x37f;
        summarise(&mut f);
        assert_eq!(f.status, 0x3f);
    }
}
