//! Conversions between formats, to and from integers, and rounding to integral values.

use super::env::{DE, Env, IE, PE, Rounding};
use super::format::{Class, Format, Unpacked, infinity, operand, quiet_nan, zero};
use super::round::{round_pack, rounds_up};

/// An integer type of the conversions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Integer {
    /// Width in bits, up to 64.
    pub bits: u32,
    /// Two's complement rather than unsigned.
    pub signed: bool,
}

impl Integer {
    /// 16-bit signed.
    pub const I16: Integer = Integer {
        bits: 16,
        signed: true,
    };
    /// 32-bit signed.
    pub const I32: Integer = Integer {
        bits: 32,
        signed: true,
    };
    /// 64-bit signed.
    pub const I64: Integer = Integer {
        bits: 64,
        signed: true,
    };
    /// 32-bit unsigned, as AVX-512 converts to.
    #[allow(
        dead_code,
        reason = "belongs to the set; no instruction of AVX2 converts to it"
    )]
    pub const U32: Integer = Integer {
        bits: 32,
        signed: false,
    };
    /// 64-bit unsigned.
    #[allow(
        dead_code,
        reason = "belongs to the set; no instruction of AVX2 converts to it"
    )]
    pub const U64: Integer = Integer {
        bits: 64,
        signed: false,
    };

    /// The integer indefinite (SDM vol. 1 4.2.1), and all ones for the unsigned conversions.
    #[inline]
    pub const fn indefinite(self) -> u64 {
        if self.signed {
            1 << (self.bits - 1)
        } else {
            u64::MAX >> (64 - self.bits)
        }
    }
}

/// The integral magnitude of a finite value and what was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Integral {
    /// Rounded magnitude.
    pub magnitude: u64,
    /// Whether rounding changed the value.
    pub inexact: bool,
    /// Whether it changed it away from zero.
    pub up: bool,
}

/// Rounds a finite value to an integral magnitude, or `None` when that takes more than 64 bits.
#[inline]
pub fn integral(value: &Unpacked, rounding: Rounding) -> Option<Integral> {
    if value.class == Class::Zero {
        return Some(Integral {
            magnitude: 0,
            inexact: false,
            up: false,
        });
    }
    if value.exponent > 63 {
        return None;
    }
    let (whole, rest) = if value.exponent == 63 {
        (value.significand, 0)
    } else if value.exponent >= 0 {
        (
            value.significand >> (63 - value.exponent),
            value.significand << (value.exponent + 1),
        )
    } else if value.exponent == -1 {
        (0, value.significand)
    } else {
        // Below one half, only being non-zero matters.
        (0, 1)
    };
    let up = rounds_up(rounding, value.sign, whole & 1 != 0, rest, 1 << 63);
    let magnitude = whole.checked_add(up as u64)?;
    Some(Integral {
        magnitude,
        inexact: rest != 0,
        up,
    })
}

/// Converts an unpacked value to an integer; the result is in the low bits, higher ones are zero. NaNs,
/// infinities and values out of range raise IE alone and give the integer indefinite.
#[inline]
pub fn unpacked_to_int(env: &mut Env, value: &Unpacked, to: Integer, rounding: Rounding) -> u64 {
    let result = if value.class <= Class::Denormal {
        integral(value, rounding)
    } else {
        None
    };
    if let Some(Integral {
        magnitude,
        inexact,
        up,
    }) = result
    {
        let limit = match (to.signed, value.sign) {
            (true, true) => 1 << (to.bits - 1),
            (true, false) => (1 << (to.bits - 1)) - 1,
            (false, true) => 0,
            (false, false) => u64::MAX >> (64 - to.bits),
        };
        if magnitude <= limit {
            if inexact {
                env.flags |= PE;
                env.rounded_up = up;
            }
            let signed = if value.sign {
                magnitude.wrapping_neg()
            } else {
                magnitude
            };
            return signed & u64::MAX >> (64 - to.bits);
        }
    }
    env.flags |= IE;
    to.indefinite()
}

/// Converts a floating-point operand to an integer. SSE conversions to integers do not raise DE
/// (SDM vol. 1 11.5.2.2), but DAZ applies.
#[inline]
pub fn to_int<F: Format>(env: &mut Env, bits: u64, to: Integer, rounding: Rounding) -> u64 {
    let value = operand::<F>(env, bits);
    unpacked_to_int(env, &value, to, rounding)
}

/// Converts a signed integer.
#[inline]
pub fn from_i64<F: Format>(env: &mut Env, value: i64) -> u64 {
    from_magnitude::<F>(env, value < 0, value.unsigned_abs())
}

/// Converts an integer given by sign and magnitude, and so also an unsigned one.
#[inline(always)]
pub fn from_magnitude<F: Format>(env: &mut Env, sign: bool, magnitude: u64) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    let shift = magnitude.leading_zeros();
    round_pack::<F>(env, sign, 63 - shift as i32, magnitude << shift)
}

/// Rounds an unpacked value to a format. NaNs come out quiet, a signaling one raises IE; a denormal
/// operand raises DE.
#[inline]
pub fn pack<F: Format>(env: &mut Env, value: &Unpacked) -> u64 {
    match value.class {
        Class::Normal => round_pack::<F>(env, value.sign, value.exponent, value.significand),
        Class::Zero => zero::<F>(value.sign),
        Class::Denormal => {
            env.flags |= DE;
            round_pack::<F>(env, value.sign, value.exponent, value.significand)
        }
        Class::Infinite => infinity::<F>(value.sign),
        Class::Quiet => quiet_nan::<F>(value),
        Class::Signaling => {
            env.flags |= IE;
            quiet_nan::<F>(value)
        }
        Class::Unsupported => {
            env.flags |= IE;
            F::INDEFINITE
        }
    }
}

/// Converts between two formats (SDM vol. 1 4.8.4 for the rounding).
#[inline]
pub fn convert<From: Format, To: Format>(env: &mut Env, bits: u64) -> u64 {
    let value = operand::<From>(env, bits);
    pack::<To>(env, &value)
}

/// Rounds to an integral value in the same format. Raises PE unless `suppress_inexact`; never DE.
pub fn round_to_integral<F: Format>(
    env: &mut Env,
    bits: u64,
    rounding: Rounding,
    suppress_inexact: bool,
) -> u64 {
    let value = operand::<F>(env, bits);
    match value.class {
        Class::Zero => return zero::<F>(value.sign),
        Class::Infinite => return bits,
        Class::Normal | Class::Denormal => {}
        _ => {
            if value.class == Class::Signaling {
                env.flags |= IE;
            }
            return quiet_nan::<F>(&value);
        }
    }
    if value.exponent >= F::FRACTION_BITS as i32 {
        return bits;
    }
    // Below 2^52 there is room in 64 bits, so the rounding cannot fail.
    let Some(Integral {
        magnitude,
        inexact,
        up,
    }) = integral(&value, rounding)
    else {
        return bits;
    };
    if inexact && !suppress_inexact {
        env.flags |= PE;
        env.rounded_up = up;
    }
    zero::<F>(value.sign) | from_magnitude::<F>(env, false, magnitude)
}
