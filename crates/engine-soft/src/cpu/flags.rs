//! The six status flags, kept as the results they derive from until somebody looks.
//!
//! An arithmetic instruction stores its result and its carries, which is cheaper than working six flags
//! out that the next instruction overwrites. Any combination of flags can be represented.

use donjon_memory::Word;
use donjon_x86::bits::rflags;

/// Status flags in derived form.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// ZF is set when this is zero.
    pub zero: u64,
    /// SF is bit 63; PF is the even parity of the low byte.
    pub sign: u64,
    /// Carries out of each bit: CF is bit 63, OF is bit 63 xor bit 62, AF is bit 3.
    pub carries: u64,
}

impl Default for Flags {
    fn default() -> Self {
        Self::from_bits(0)
    }
}

/// Moves the carries of a `T` so that the one out of its top bit is bit 63, and AF's stays bit 3.
#[inline(always)]
fn align<T: Word>(carries: u64) -> u64 {
    if T::SIZE == 8 {
        carries
    } else {
        carries << (64 - 8 * T::SIZE as u32) | carries & 8
    }
}

impl Flags {
    /// After an addition `a + b (+ carry) = r`.
    #[inline(always)]
    pub fn add<T: Word>(a: T, b: T, r: T) -> Self {
        let (a, b, s) = (a.to_u64(), b.to_u64(), r.to_i64() as u64);
        Self {
            zero: s,
            sign: s,
            carries: align::<T>(a & b | (a | b) & !s),
        }
    }

    /// After a subtraction `a - b (- borrow) = r`.
    #[inline(always)]
    pub fn sub<T: Word>(a: T, b: T, r: T) -> Self {
        let (a, b, s) = (a.to_u64(), b.to_u64(), r.to_i64() as u64);
        Self {
            zero: s,
            sign: s,
            carries: align::<T>(!a & b | (!a | b) & s),
        }
    }

    /// After AND, OR, XOR, TEST: CF and OF clear. AF, undefined by the manual, is clear as on hardware.
    #[inline(always)]
    pub fn logic<T: Word>(r: T) -> Self {
        let s = r.to_i64() as u64;
        Self {
            zero: s,
            sign: s,
            carries: 0,
        }
    }

    /// Zero, sign and parity from a result, the rest given.
    #[inline(always)]
    pub fn result<T: Word>(r: T, cf: bool, of: bool, af: bool) -> Self {
        let s = r.to_i64() as u64;
        Self {
            zero: s,
            sign: s,
            carries: Self::carry_word(cf, of, af),
        }
    }

    #[inline(always)]
    const fn carry_word(cf: bool, of: bool, af: bool) -> u64 {
        (cf as u64) << 63 | ((cf ^ of) as u64) << 62 | (af as u64) << 3
    }

    /// From RFLAGS bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            zero: (bits & rflags::ZF == 0) as u64,
            sign: (bits >> 7) << 63 | (bits & rflags::PF == 0) as u64,
            carries: Self::carry_word(
                bits & rflags::CF != 0,
                bits & rflags::OF != 0,
                bits & rflags::AF != 0,
            ),
        }
    }

    /// As RFLAGS bits.
    pub fn bits(&self) -> u64 {
        self.cf() as u64
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.carries >> 63 != 0
    }
    /// Parity.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        (self.sign as u8).count_ones() & 1 == 0
    }
    /// Auxiliary carry.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.carries & 8 != 0
    }
    /// Zero.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.zero == 0
    }
    /// Sign.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        self.sign >> 63 != 0
    }
    /// Overflow.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// Changes CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.carries = self.carries & !(3 << 62) | (cf as u64) << 63 | ((cf ^ of) as u64) << 62;
    }

    /// Changes OF alone.
    pub fn set_of(&mut self, of: bool) {
        let cf = self.cf();
        self.carries = self.carries & !(1 << 62) | ((cf ^ of) as u64) << 62;
    }

    /// Changes ZF alone.
    pub fn set_zf(&mut self, zf: bool) {
        self.zero = !zf as u64;
    }

    /// A condition code as encoded in Jcc, SETcc, CMOVcc (Intel SDM vol. 1 appendix B).
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        let c = match code >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        c ^ (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_combination_survives() {
        for n in 0..64u64 {
            let bits = n & 1 | (n >> 1 & 1) << 2 | (n >> 2 & 1) << 4 | (n >> 3 & 3) << 6 | (n >> 5 & 1) << 11;
            assert_eq!(Flags::from_bits(bits).bits(), bits);
            for cf in [false, true] {
                let mut f = Flags::from_bits(bits);
                f.set_cf(cf);
                assert_eq!(f.bits(), bits & !1 | cf as u64);
                f.set_of(cf);
                assert_eq!(f.bits(), bits & !1 & !rflags::OF | cf as u64 | (cf as u64) << 11);
            }
        }
    }

    #[test]
    fn every_byte_sum_and_difference() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                for c in [0u8, 1] {
                    let r = a.wrapping_add(b).wrapping_add(c);
                    let f = Flags::add(a, b, r);
                    assert_eq!(f.cf(), a as u16 + b as u16 + c as u16 > 255);
                    assert_eq!(
                        f.of(),
                        (a as i8 as i16 + b as i8 as i16 + c as i16) != r as i8 as i16
                    );
                    assert_eq!(f.af(), (a & 15) + (b & 15) + c > 15);
                    assert_eq!((f.zf(), f.sf()), (r == 0, r > 127));
                    let r = a.wrapping_sub(b).wrapping_sub(c);
                    let f = Flags::sub(a, b, r);
                    assert_eq!(f.cf(), (a as u16) < b as u16 + c as u16);
                    assert_eq!(
                        f.of(),
                        (a as i8 as i16 - b as i8 as i16 - c as i16) != r as i8 as i16
                    );
                    assert_eq!(f.af(), (a & 15) < (b & 15) + c);
                    assert_eq!(f.pf(), r.count_ones() % 2 == 0);
                }
            }
        }
    }
}
