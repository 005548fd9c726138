//! Floating-point numbers with a 128-bit significand, the working precision of the transcendentals.
//!
//! Operations truncate, so each is good to about 2^-126 of its result. That leaves 60 bits beyond the
//! significand of the 80-bit format, far more than the 1 ulp of SDM vol. 1 8.3.10 asks for.

use super::super::soft::format::Unpacked;

/// `significand * 2^(exponent - 127)` with bit 127 set, or zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wide {
    pub sign: bool,
    pub exponent: i32,
    pub significand: u128,
}

/// One in the fixed-point format of the series, 2 bits before the point and 126 behind it.
pub const FIXED_ONE: u128 = 1 << 126;

impl Wide {
    pub const ZERO: Wide = Wide {
        sign: false,
        exponent: 0,
        significand: 0,
    };
    pub const ONE: Wide = Wide::positive(0, 1 << 127);
    pub const TWO: Wide = Wide::positive(1, 1 << 127);
    pub const PI: Wide = Wide::positive(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
    pub const HALF_PI: Wide = Wide {
        exponent: 0,
        ..Wide::PI
    };
    pub const LN_2: Wide = Wide::positive(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
    pub const LOG2_E: Wide = Wide::positive(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);

    pub const fn positive(exponent: i32, significand: u128) -> Wide {
        Wide {
            sign: false,
            exponent,
            significand,
        }
    }

    /// A finite value.
    pub fn new(value: &Unpacked) -> Wide {
        Wide {
            sign: value.sign,
            exponent: value.exponent,
            significand: (value.significand as u128) << 64,
        }
    }

    /// `value * 2^exponent`.
    pub fn from_int(sign: bool, value: u128, exponent: i32) -> Wide {
        if value == 0 {
            return Wide::ZERO;
        }
        let shift = value.leading_zeros();
        Wide {
            sign,
            exponent: exponent + 127 - shift as i32,
            significand: value << shift,
        }
    }

    pub fn from_fixed(value: u128) -> Wide {
        Wide::from_int(false, value, -126)
    }

    /// The magnitude, which must be below 4, in the fixed-point format.
    pub fn to_fixed(self) -> u128 {
        match 1 - self.exponent {
            shift @ 0..128 => self.significand >> shift,
            _ => 0,
        }
    }

    pub fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub fn neg(self) -> Wide {
        Wide {
            sign: !self.sign,
            ..self
        }
    }

    pub fn abs(self) -> Wide {
        Wide { sign: false, ..self }
    }

    /// Times a power of two.
    pub fn shifted(self, by: i32) -> Wide {
        Wide {
            exponent: self.exponent + by,
            ..self
        }
    }

    pub fn mul(self, other: Wide) -> Wide {
        if self.is_zero() || other.is_zero() {
            return Wide::ZERO;
        }
        let product = mul_high(self.significand, other.significand);
        let shift = product.leading_zeros();
        Wide {
            sign: self.sign != other.sign,
            exponent: self.exponent + other.exponent + 1 - shift as i32,
            significand: product << shift,
        }
    }

    pub fn square(self) -> Wide {
        self.mul(self)
    }

    /// Quotient; the divisor must not be zero.
    pub fn div(self, other: Wide) -> Wide {
        if self.is_zero() {
            return Wide::ZERO;
        }
        let less = self.significand < other.significand;
        let mut rest = self.significand;
        let mut quotient = 0u128;
        if !less {
            rest -= other.significand;
            quotient = 1;
        }
        while quotient >> 127 == 0 {
            // The rest is below the divisor, so twice the rest minus the divisor fits even if twice the
            // rest does not.
            let carry = rest >> 127 != 0;
            rest <<= 1;
            let fits = carry || rest >= other.significand;
            if fits {
                rest = rest.wrapping_sub(other.significand);
            }
            quotient = quotient << 1 | fits as u128;
        }
        Wide {
            sign: self.sign != other.sign,
            exponent: self.exponent - other.exponent - less as i32,
            significand: quotient,
        }
    }

    pub fn add(self, other: Wide) -> Wide {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let key = |w: &Wide| (w.exponent, w.significand);
        let (large, small) = if key(&self) >= key(&other) {
            (self, other)
        } else {
            (other, self)
        };
        let distance = (large.exponent - small.exponent) as u32;
        let aligned = if distance < 127 {
            small.significand >> 1 >> distance
        } else {
            0
        };
        let sum = if large.sign == small.sign {
            (large.significand >> 1) + aligned
        } else {
            (large.significand >> 1) - aligned
        };
        Wide::from_int(large.sign, sum, large.exponent - 126)
    }

    pub fn sub(self, other: Wide) -> Wide {
        self.add(other.neg())
    }
}

/// The upper half of the 256-bit product.
pub fn mul_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let middle = a1 * b0 + ((a0 * b0) >> 64);
    let cross = a0 * b1 + (middle & LOW);
    a1 * b1 + (middle >> 64) + (cross >> 64)
}

/// Product of two fixed-point numbers.
pub fn mul_fixed(a: u128, b: u128) -> u128 {
    mul_high(a, b) << 2
}
