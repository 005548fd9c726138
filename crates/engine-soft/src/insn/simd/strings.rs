//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2B §4.1).

use super::lanes::{Element, V};
use super::shape::*;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use donjon_x86::bits::rflags;
use iced_x86::Mnemonic::*;

/// What a comparison yields: the mask IntRes2 and the status flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    mask: u16,
    flags: u64,
}

/// Elements of the two strings before anything is valid beyond `lengths`.
struct Strings {
    a: [i32; 16],
    b: [i32; 16],
    lengths: [usize; 2],
    /// Elements in a register.
    count: usize,
}

/// The elements in the format of imm\[1:0\]: unsigned or signed, bytes or words.
fn elements(v: V, imm: u8) -> [i32; 16] {
    std::array::from_fn(|i| match imm & 3 {
        0 => u8::at(v, i) as i32,
        1 => u16::at(v, i) as i32,
        2 => i8::at(v, i) as i32,
        _ => i16::at(v, i) as i32,
    })
}

fn count(imm: u8) -> usize {
    if imm & 1 != 0 { 8 } else { 16 }
}

/// The length of a string that ends before its first zero element.
fn implicit_length(v: V, imm: u8) -> usize {
    let n = count(imm);
    elements(v, imm)[..n].iter().position(|e| *e == 0).unwrap_or(n)
}

/// The length a register gives: its absolute value, at most the number of elements.
fn explicit_length(length: i64, imm: u8) -> usize {
    length.unsigned_abs().min(count(imm) as u64) as usize
}

impl Strings {
    /// IntRes1: for each element of `b` whether the aggregation of imm\[3:2\] finds something. What happens
    /// to elements beyond the ends is SDM vol. 2B table 4-7.
    fn aggregate(&self, imm: u8) -> u16 {
        let (a, b, [la, lb]) = (&self.a, &self.b, self.lengths);
        let found = |j: usize| match imm >> 2 & 3 {
            // Equal any: in the set `a`.
            0 => j < lb && a[..la].contains(&b[j]),
            // Ranges: pairs of bounds in `a`; one without a partner does not count.
            1 => j < lb && (0..la / 2).any(|i| a[2 * i] <= b[j] && b[j] <= a[2 * i + 1]),
            // Equal each: also where both have ended.
            2 if j >= la || j >= lb => j >= la && j >= lb,
            2 => a[j] == b[j],
            // Equal ordered: `a` begins here, as far as the register shows.
            _ => (0..la.min(self.count - j)).all(|i| i + j < lb && a[i] == b[i + j]),
        };
        (0..self.count).fold(0, |mask, j| mask | (found(j) as u16) << j)
    }

    /// The whole comparison.
    fn compare(&self, imm: u8) -> Outcome {
        let all = (1u32 << self.count) as u16;
        let all = all.wrapping_sub(1);
        let inside = ((1u32 << self.lengths[1]) - 1) as u16;
        let found = self.aggregate(imm);
        let mask = match imm >> 4 & 3 {
            1 => found ^ all,
            // Only where `b` has elements.
            3 => found ^ inside,
            _ => found,
        };
        let flag = |set, bit| if set { bit } else { 0 };
        let flags = flag(mask != 0, rflags::CF)
            | flag(self.lengths[1] < self.count, rflags::ZF)
            | flag(self.lengths[0] < self.count, rflags::SF)
            | flag(mask & 1 != 0, rflags::OF);
        Outcome { mask, flags }
    }
}

/// PCMPxSTRI's index: the first or, with imm\[6\], the last bit set, else the number of elements.
fn index(mask: u16, imm: u8) -> u64 {
    match (mask, imm & 0x40 != 0) {
        (0, _) => count(imm) as u64,
        (_, true) => mask.ilog2() as u64,
        (_, false) => mask.trailing_zeros() as u64,
    }
}

/// PCMPxSTRM's mask: a bit or, with imm\[6\], a whole element for each.
fn expand(mask: u16, imm: u8) -> V {
    match (imm & 0x40 != 0, count(imm)) {
        (false, _) => mask as V,
        (true, 8) => u16::build(|i| (mask >> i & 1).wrapping_neg()),
        (true, _) => u8::build(|i| (mask >> i & 1).wrapping_neg() as u8),
    }
}

/// Lengths from zero elements.
const IMPLICIT: u8 = 0;
/// Lengths from EAX and EDX.
const EXPLICIT: u8 = 1;
/// Lengths from RAX and RDX.
const EXPLICIT_64: u8 = 2;

fn pcmpstr<const K: u8, const LENGTHS: u8, const MASK: bool>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    // Memory operands need no alignment in any encoding.
    let b = source_part(cpu, op, 16)?;
    let a = xmm(cpu, op.a);
    let imm = op.imm as u8;
    let lengths = match LENGTHS {
        IMPLICIT => [implicit_length(a, imm), implicit_length(b, imm)],
        EXPLICIT => [0, 2].map(|n| explicit_length(cpu.get::<u32>(n) as i32 as i64, imm)),
        _ => [0, 2].map(|n| explicit_length(cpu.reg(n) as i64, imm)),
    };
    let strings = Strings {
        a: elements(a, imm),
        b: elements(b, imm),
        lengths,
        count: count(imm),
    };
    let outcome = strings.compare(imm);
    cpu.flags = Flags::from_bits(outcome.flags);
    if MASK {
        put::<K>(cpu, 0, expand(outcome.mask, imm), 0);
    } else {
        cpu.set_reg(1, index(outcome.mask, imm));
    }
    Ok(())
}

/// The handler of a string comparison.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    macro_rules! of {
        ($lengths:ident, $mask:literal) => {
            match l.k {
                SSE => pcmpstr::<SSE, $lengths, $mask> as Handler,
                _ => pcmpstr::<VEX128, $lengths, $mask> as Handler,
            }
        };
    }
    let handler = match l.i.mnemonic() {
        Pcmpistri | Vpcmpistri => of!(IMPLICIT, false),
        Pcmpistrm | Vpcmpistrm => of!(IMPLICIT, true),
        Pcmpestri | Vpcmpestri => of!(EXPLICIT, false),
        Pcmpestrm | Vpcmpestrm => of!(EXPLICIT, true),
        Pcmpestri64 | Vpcmpestri64 => of!(EXPLICIT_64, false),
        Pcmpestrm64 | Vpcmpestrm64 => of!(EXPLICIT_64, true),
        _ => return None,
    };
    l.two();
    Some(handler)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(s: &[u8]) -> V {
        let mut bytes = [0; 16];
        bytes[..s.len()].copy_from_slice(s);
        V::from_le_bytes(bytes)
    }

    fn implicit(a: &[u8], b: &[u8], imm: u8) -> Outcome {
        let (a, b) = (lane(a), lane(b));
        let lengths = [implicit_length(a, imm), implicit_length(b, imm)];
        Strings {
            a: elements(a, imm),
            b: elements(b, imm),
            lengths,
            count: count(imm),
        }
        .compare(imm)
    }

    #[test]
    fn any_of_a_set() {
        let r = implicit(b"aeiou", b"interpreter", 0);
        assert_eq!(r.mask, 0b10_1000_1001);
        assert_eq!(r.flags, rflags::CF | rflags::ZF | rflags::SF | rflags::OF);
        assert_eq!((index(r.mask, 0), index(r.mask, 0x40)), (0, 9));
    }

    #[test]
    fn ranges() {
        assert_eq!(implicit(b"azAZ", b"a1B-z", 4).mask, 0b10101);
        // The complement inside the string only.
        assert_eq!(implicit(b"azAZ", b"a1B-z", 4 | 0x30).mask, 0b01010);
        // Bytes above 127 are below zero when signed.
        assert_eq!(implicit(&[0x80, 0xff], &[0x90, 1], 4 | 2).mask, 1);
    }

    #[test]
    fn equal_each_goes_on_beyond_both_ends() {
        assert_eq!(implicit(b"abc", b"abd", 8).mask, 0xfffb);
        assert_eq!(implicit(b"abc", b"abcd", 8 | 0x10).mask, 8);
    }

    #[test]
    fn substrings_may_run_out_of_the_register() {
        assert_eq!(implicit(b"ab", b"xabxxxxxxxxxxxxa", 12).mask, 0x8002);
        assert_eq!(implicit(b"ab", b"xabxxxxxxxxxxxa", 12).mask, 2);
        assert_eq!(implicit(b"", b"x", 12).mask, 0xffff);
    }

    #[test]
    fn lengths() {
        assert_eq!([-3, 20, i64::MIN, 0].map(|n| explicit_length(n, 1)), [3, 8, 8, 0]);
        assert_eq!(implicit_length(lane(b"abc"), 0), 3);
        assert_eq!(implicit_length(V::MAX, 1), 8);
    }

    #[test]
    fn masks() {
        assert_eq!(expand(0x81, 0), 0x81);
        assert_eq!(expand(0x81, 0x41), 0xffff << 112 | 0xffff);
        assert_eq!(expand(0x8001, 0x40), 0xff << 120 | 0xff);
    }
}
