//! Encodings of the interchange formats and their common unpacked form.

use super::env::Env;

/// An IEEE 754 interchange format with an implicit integer bit (SDM vol. 1 4.2.2), in the low bits of a
/// `u64`.
pub trait Format {
    /// Significand bits, the implicit one included.
    const PRECISION: u32;
    /// Exponent field bits.
    const EXPONENT_BITS: u32;

    /// Stored significand bits.
    const FRACTION_BITS: u32 = Self::PRECISION - 1;
    /// Position of the sign bit.
    const SIGN_SHIFT: u32 = Self::EXPONENT_BITS + Self::FRACTION_BITS;
    /// The sign bit.
    const SIGN: u64 = 1 << Self::SIGN_SHIFT;
    /// The fraction field.
    const FRACTION: u64 = (1 << Self::FRACTION_BITS) - 1;
    /// The all-ones exponent of infinities and NaNs.
    const EXPONENT_MAX: u64 = (1 << Self::EXPONENT_BITS) - 1;
    /// Exponent bias.
    const BIAS: i32 = (1 << (Self::EXPONENT_BITS - 1)) - 1;
    /// Positive infinity.
    const INFINITY: u64 = Self::EXPONENT_MAX << Self::FRACTION_BITS;
    /// The bit that tells a quiet NaN from a signaling one.
    const QUIET: u64 = 1 << (Self::FRACTION_BITS - 1);
    /// The QNaN floating-point indefinite, result of a masked invalid operation (SDM vol. 1 4.8.3.7).
    const INDEFINITE: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
    /// Distance from the fraction to a significand whose integer bit is bit 63.
    const ALIGN: u32 = 64 - Self::PRECISION;
}

/// Half precision (SDM vol. 1 4.2.2).
#[derive(Clone, Copy, Debug)]
pub enum F16 {}
/// Single precision.
#[derive(Clone, Copy, Debug)]
pub enum F32 {}
/// Double precision.
#[derive(Clone, Copy, Debug)]
pub enum F64 {}

impl Format for F16 {
    const PRECISION: u32 = 11;
    const EXPONENT_BITS: u32 = 5;
}

impl Format for F32 {
    const PRECISION: u32 = 24;
    const EXPONENT_BITS: u32 = 8;
}

impl Format for F64 {
    const PRECISION: u32 = 53;
    const EXPONENT_BITS: u32 = 11;
}

/// Kinds of operand. The order matters: everything from `Quiet` on has no numeric value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A zero.
    Zero,
    /// A normal finite number.
    Normal,
    /// A denormal (or x87 pseudo-denormal) number.
    Denormal,
    /// An infinity.
    Infinite,
    /// A quiet NaN.
    Quiet,
    /// A signaling NaN.
    Signaling,
    /// An encoding the x87 rejects (SDM vol. 1 8.2.2).
    Unsupported,
}

/// A value taken apart.
///
/// A finite non-zero value is `significand * 2^(exponent - 63)` with bit 63 of the significand set, so
/// denormals come normalised. A NaN carries its payload in the x87 layout: bit 63 set, bit 62 the quiet
/// bit. The fields not mentioned by a class are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpacked {
    /// Kind of value.
    pub class: Class,
    /// Sign bit.
    pub sign: bool,
    /// Unbiased exponent of the leading bit.
    pub exponent: i32,
    /// Left-aligned significand.
    pub significand: u64,
}

impl Unpacked {
    /// Whether this is a NaN of either kind (or an unsupported encoding, which is treated before).
    #[inline]
    pub fn is_nan(&self) -> bool {
        self.class >= Class::Quiet
    }
}

/// Takes an encoding apart.
#[inline(always)]
pub fn unpack<F: Format>(bits: u64) -> Unpacked {
    let sign = (bits >> F::SIGN_SHIFT) & 1 != 0;
    let field = (bits >> F::FRACTION_BITS) & F::EXPONENT_MAX;
    let fraction = (bits & F::FRACTION) << F::ALIGN;
    // One comparison for the common case: neither 0 nor all ones.
    if field.wrapping_sub(1) < F::EXPONENT_MAX - 1 {
        return Unpacked {
            class: Class::Normal,
            sign,
            exponent: field as i32 - F::BIAS,
            significand: 1 << 63 | fraction,
        };
    }
    unpack_special::<F>(sign, field, fraction)
}

fn unpack_special<F: Format>(sign: bool, field: u64, fraction: u64) -> Unpacked {
    let (class, exponent, significand) = match (field == 0, fraction == 0) {
        (true, true) => (Class::Zero, 0, 0),
        (true, false) => {
            let shift = fraction.leading_zeros();
            (Class::Denormal, 1 - F::BIAS - shift as i32, fraction << shift)
        }
        (false, true) => (Class::Infinite, 0, 1 << 63),
        (false, false) if fraction >> 62 != 0 => (Class::Quiet, 0, 1 << 63 | fraction),
        (false, false) => (Class::Signaling, 0, 1 << 63 | fraction),
    };
    Unpacked {
        class,
        sign,
        exponent,
        significand,
    }
}

/// Takes an operand apart as SSE sees it: with DAZ a denormal is a zero of the same sign.
#[inline(always)]
pub fn operand<F: Format>(env: &Env, bits: u64) -> Unpacked {
    let mut value = unpack::<F>(bits);
    if value.class == Class::Denormal && env.daz {
        value = Unpacked {
            class: Class::Zero,
            sign: value.sign,
            exponent: 0,
            significand: 0,
        };
    }
    value
}

/// A zero.
#[inline]
pub fn zero<F: Format>(sign: bool) -> u64 {
    (sign as u64) << F::SIGN_SHIFT
}

/// An infinity.
#[inline]
pub fn infinity<F: Format>(sign: bool) -> u64 {
    zero::<F>(sign) | F::INFINITY
}

/// The quiet NaN with the sign and the leading payload bits of `value` (SDM vol. 1 4.8.3.5).
#[inline]
pub fn quiet_nan<F: Format>(value: &Unpacked) -> u64 {
    zero::<F>(value.sign) | F::INFINITY | F::QUIET | (value.significand & !(1 << 63)) >> F::ALIGN
}
