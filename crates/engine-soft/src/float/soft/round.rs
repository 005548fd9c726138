//! Rounding and delivery of results in the narrow formats.

use super::env::{Env, OE, PE, Rounding, UE};
use super::format::{Format, infinity, zero};

/// Whether a magnitude with discarded part `rest` is rounded away from zero; `half` is the discarded
/// part of a tie and `odd` the last kept bit.
#[inline(always)]
pub fn rounds_up(rounding: Rounding, sign: bool, odd: bool, rest: u64, half: u64) -> bool {
    match rounding {
        Rounding::Nearest => rest > half || (rest == half && odd),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    }
}

/// Shifts right, folding the lost bits into bit 0 so that later rounding still sees them.
#[inline(always)]
pub fn shift_jam(value: u64, by: u32) -> u64 {
    match by {
        0 => value,
        1..=63 => value >> by | (value << (64 - by) != 0) as u64,
        _ => (value != 0) as u64,
    }
}

/// [`shift_jam`] for 128 bits.
#[inline(always)]
pub fn shift_jam_wide(value: u128, by: u32) -> u128 {
    match by {
        0 => value,
        1..=127 => value >> by | (value << (128 - by) != 0) as u128,
        _ => (value != 0) as u128,
    }
}

/// Rounds `significand * 2^(exponent - 63)` (bit 63 set, bit 0 sticky) to the format and raises what
/// SDM vol. 1 4.9.1.4 to 4.9.1.6 demand. Tininess is detected after rounding.
#[inline]
pub fn round_pack<F: Format>(env: &mut Env, sign: bool, exponent: i32, significand: u64) -> u64 {
    let field = exponent + F::BIAS;
    let half = 1u64 << (F::ALIGN - 1);
    let mask = (1u64 << F::ALIGN) - 1;
    let rest = significand & mask;
    let up = rounds_up(env.rounding, sign, significand >> F::ALIGN & 1 != 0, rest, half);
    if field < 1 {
        return round_tiny::<F>(env, sign, field, significand, up);
    }
    if field >= F::EXPONENT_MAX as i32 {
        return overflow::<F>(env, sign, rest != 0);
    }
    // The integer bit adds one to the exponent field and so does a carry out of the significand.
    let magnitude = ((field as u64 - 1) << F::FRACTION_BITS) + (significand >> F::ALIGN) + up as u64;
    if magnitude >= F::INFINITY {
        return overflow::<F>(env, sign, rest != 0);
    }
    if rest != 0 {
        env.flags |= PE;
        env.rounded_up = up;
    }
    zero::<F>(sign) | magnitude
}

#[cold]
fn round_tiny<F: Format>(env: &mut Env, sign: bool, field: i32, significand: u64, carry: bool) -> u64 {
    // Rounded with an unbounded exponent the value may still reach the smallest normal one.
    let reaches_normal = field == 0 && carry && significand >> F::ALIGN == u64::MAX >> F::ALIGN;
    let tiny = !reaches_normal;
    let masked = env.masks & UE != 0;
    if tiny && env.ftz && masked {
        env.flags |= UE | PE;
        return zero::<F>(sign);
    }
    let denormal = shift_jam(significand, (1 - field) as u32);
    let mask = (1u64 << F::ALIGN) - 1;
    let rest = denormal & mask;
    let up = rounds_up(
        env.rounding,
        sign,
        denormal >> F::ALIGN & 1 != 0,
        rest,
        1u64 << (F::ALIGN - 1),
    );
    if tiny && !masked {
        // The handler would get the result rounded with an unbounded exponent: denormalisation does not
        // count as a loss (SDM vol. 1 4.9.1.5).
        env.flags |= if significand & mask != 0 { UE | PE } else { UE };
    } else if rest != 0 {
        env.flags |= if tiny { UE | PE } else { PE };
        env.rounded_up = up;
    }
    zero::<F>(sign) | ((denormal >> F::ALIGN) + up as u64)
}

#[cold]
fn overflow<F: Format>(env: &mut Env, sign: bool, inexact: bool) -> u64 {
    // Masked, the delivered value is always inexact; unmasked only the rounding itself counts.
    env.flags |= if inexact || env.masks & OE != 0 {
        OE | PE
    } else {
        OE
    };
    let to_infinity = match env.rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    env.rounded_up = to_infinity;
    if to_infinity {
        infinity::<F>(sign)
    } else {
        zero::<F>(sign) | (F::INFINITY - 1)
    }
}
