//! Rounding to the 80-bit format and the responses to exceptional operands.

use super::super::soft::env::{DE, Env, IE, OE, PE, Rounding, UE};
use super::super::soft::format::{Class, Unpacked};
use super::super::soft::round::shift_jam_wide;
use super::{BIAS, EXPONENT_MAX, F80, INTEGER_BIT};

/// What an unmasked overflow takes off the exponent and an unmasked underflow adds to it
/// (SDM vol. 1 8.5.4 and 8.5.5).
const ADJUST: i32 = 24576;

/// Rounds `significand * 2^(exponent - 127)` (bit 127 set, bit 0 sticky) to `precision` significand bits
/// and raises what the rounding entails. The exponent range is that of the format whatever the
/// precision (SDM vol. 1 8.1.5.2).
pub fn deliver(env: &mut Env, sign: bool, exponent: i32, significand: u128, precision: u32) -> F80 {
    let field = exponent + BIAS;
    let (rounded, carry, inexact, up) = round(env.rounding, sign, significand, precision);
    let rounded_field = field + carry as i32;
    if rounded_field < 1 {
        if env.masks & UE != 0 {
            return deliver_denormal(env, sign, field, significand, precision);
        }
        env.flags |= UE;
        return adjusted(env, sign, rounded_field + ADJUST, rounded, inexact, up);
    }
    if rounded_field >= EXPONENT_MAX as i32 {
        if env.masks & OE != 0 {
            return overflow(env, sign, precision);
        }
        env.flags |= OE;
        return adjusted(env, sign, rounded_field - ADJUST, rounded, inexact, up);
    }
    note_inexact(env, inexact, up);
    F80::new(sign, rounded_field as u16, rounded)
}

/// Rounds to the leading `precision` bits of 128: significand, carry into the exponent, inexact, up.
fn round(rounding: Rounding, sign: bool, significand: u128, precision: u32) -> (u64, bool, bool, bool) {
    let drop = 128 - precision;
    let rest = significand & ((1 << drop) - 1);
    let half = 1 << (drop - 1);
    let kept = significand >> drop;
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 != 0),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    };
    let kept = kept + up as u128;
    if kept >> precision != 0 {
        (INTEGER_BIT, true, rest != 0, up)
    } else {
        ((kept << (64 - precision)) as u64, false, rest != 0, up)
    }
}

fn note_inexact(env: &mut Env, inexact: bool, up: bool) {
    if inexact {
        env.flags |= PE;
        env.rounded_up = up;
    }
}

fn deliver_denormal(env: &mut Env, sign: bool, field: i32, significand: u128, precision: u32) -> F80 {
    // The rounding position stays where the precision puts it in the register, so a reduced precision
    // loses one more bit for every place the denormal is shifted down.
    let shifted = shift_jam_wide(significand, (1 - field) as u32);
    let (rounded, _, inexact, up) = round(env.rounding, sign, shifted, precision);
    if inexact {
        env.flags |= UE;
    }
    note_inexact(env, inexact, up);
    // Rounded up to the smallest normal number the exponent follows the integer bit.
    F80::new(sign, (rounded >> 63) as u16, rounded)
}

fn overflow(env: &mut Env, sign: bool, precision: u32) -> F80 {
    env.flags |= OE | PE;
    let to_infinity = match env.rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    env.rounded_up = to_infinity;
    if to_infinity {
        F80::infinity(sign)
    } else {
        F80::new(sign, EXPONENT_MAX - 1, u64::MAX << (64 - precision))
    }
}

/// Delivers a result whose exponent has been moved for the exception handler. Only FSCALE can leave the
/// range even then, and gives the infinity or zero of SDM vol. 1 8.5.4 and 8.5.5.
fn adjusted(env: &mut Env, sign: bool, field: i32, significand: u64, inexact: bool, up: bool) -> F80 {
    if field >= EXPONENT_MAX as i32 {
        note_inexact(env, true, true);
        return F80::infinity(sign);
    }
    if field < 1 {
        note_inexact(env, true, false);
        return F80::zero(sign);
    }
    note_inexact(env, inexact, up);
    F80::new(sign, field as u16, significand)
}

/// Delivers an unpacked finite value at full precision.
pub fn deliver_unpacked(env: &mut Env, value: &Unpacked) -> F80 {
    match value.class {
        Class::Zero => F80::zero(value.sign),
        _ => deliver(
            env,
            value.sign,
            value.exponent,
            (value.significand as u128) << 64,
            64,
        ),
    }
}

/// The masked response to an invalid operation (SDM vol. 1 table 8-10).
pub fn invalid(env: &mut Env) -> F80 {
    env.flags |= IE;
    F80::INDEFINITE
}

/// The result if an operand has no numeric value: unsupported encodings are invalid operations; of two
/// NaNs a quiet one wins over a signaling one, otherwise the larger significand, and with equal
/// significands the positive one (SDM vol. 1 table 4-7 and 4.8.3.5).
#[inline]
pub fn nan_operand(env: &mut Env, a: &Unpacked, b: &Unpacked) -> Option<F80> {
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some(invalid(env));
    }
    if a.class == Class::Signaling || b.class == Class::Signaling {
        env.flags |= IE;
    }
    let first = match (a.class, b.class) {
        (_, class) if class < Class::Quiet => true,
        (class, _) if class < Class::Quiet => false,
        (Class::Quiet, Class::Signaling) => true,
        (Class::Signaling, Class::Quiet) => false,
        _ if a.significand != b.significand => a.significand > b.significand,
        _ => !a.sign,
    };
    Some(F80::quiet(if first { a } else { b }))
}

/// [`nan_operand`] for instructions with one operand.
#[inline]
pub fn nan_single(env: &mut Env, a: &Unpacked) -> Option<F80> {
    nan_operand(env, a, a)
}

/// Raises DE if an operand is denormal; `true` if that ends the instruction.
#[inline]
pub fn denormal_stops(env: &mut Env, a: &Unpacked, b: &Unpacked) -> bool {
    if a.class == Class::Denormal || b.class == Class::Denormal {
        env.flags |= DE;
        return env.unmasked(DE);
    }
    false
}
