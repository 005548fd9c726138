//! FABS, FCHS, FRNDINT, FSCALE and FXTRACT.

use super::super::soft::convert::integral;
use super::super::soft::env::{Env, PE, Rounding, ZE};
use super::super::soft::format::{Class, Unpacked};
use super::deliver::{deliver, denormal_stops, invalid, nan_operand, nan_single};
use super::transfer::load_int;
use super::{BIAS, F80};

/// FABS: clears the sign of anything.
#[inline]
pub fn abs(a: F80) -> F80 {
    F80 {
        sign_exponent: a.sign_exponent & 0x7fff,
        ..a
    }
}

/// FCHS: inverts the sign of anything.
#[inline]
pub fn change_sign(a: F80) -> F80 {
    F80 {
        sign_exponent: a.sign_exponent ^ 0x8000,
        ..a
    }
}

/// FRNDINT.
pub fn round_to_int(env: &mut Env, a: F80) -> F80 {
    let value = a.unpack();
    if let Some(nan) = nan_single(env, &value) {
        return nan;
    }
    if denormal_stops(env, &value, &value) {
        return F80::INDEFINITE;
    }
    if matches!(value.class, Class::Zero | Class::Infinite) || value.exponent >= 63 {
        return a;
    }
    let Some(rounded) = integral(&value, env.rounding) else {
        return a;
    };
    if rounded.inexact {
        env.flags |= PE;
        env.rounded_up = rounded.up;
    }
    if rounded.magnitude == 0 {
        return F80::zero(value.sign);
    }
    let shift = rounded.magnitude.leading_zeros();
    F80::new(
        value.sign,
        (BIAS + 63 - shift as i32) as u16,
        rounded.magnitude << shift,
    )
}

/// FSCALE: `a * 2^trunc(b)` (SDM vol. 2, FSCALE, for the special cases).
pub fn scale(env: &mut Env, a: F80, b: F80) -> F80 {
    let (a, b) = (a.unpack(), b.unpack());
    if let Some(nan) = nan_operand(env, &a, &b) {
        return nan;
    }
    if b.class == Class::Infinite {
        let conflict = if b.sign { Class::Infinite } else { Class::Zero };
        if a.class == conflict {
            return invalid(env);
        }
    }
    if denormal_stops(env, &a, &b) {
        return F80::INDEFINITE;
    }
    if b.class == Class::Infinite {
        return if b.sign {
            F80::zero(a.sign)
        } else {
            F80::infinity(a.sign)
        };
    }
    match a.class {
        Class::Zero => F80::zero(a.sign),
        Class::Infinite => F80::infinity(a.sign),
        _ => deliver(
            env,
            a.sign,
            a.exponent + scale_amount(&b),
            (a.significand as u128) << 64,
            64,
        ),
    }
}

/// The integer part of a scale factor, limited to what leaves the exponent range from any start even
/// with the adjustment for an exception handler.
fn scale_amount(b: &Unpacked) -> i32 {
    const LIMIT: u64 = 0x1_8000;
    let magnitude = match integral(b, Rounding::Zero) {
        Some(whole) => whole.magnitude.min(LIMIT) as i32,
        None => LIMIT as i32,
    };
    if b.sign { -magnitude } else { magnitude }
}

/// FXTRACT: exponent and significand, in this order. The instruction replaces ST(0) by the exponent and
/// pushes the significand (SDM vol. 2, FXTRACT).
pub fn extract(env: &mut Env, a: F80) -> (F80, F80) {
    let value = a.unpack();
    if let Some(nan) = nan_single(env, &value) {
        return (nan, nan);
    }
    match value.class {
        Class::Infinite => return (F80::infinity(false), a),
        Class::Zero => {
            env.flags |= ZE;
            return (F80::infinity(true), a);
        }
        _ => {}
    }
    if denormal_stops(env, &value, &value) {
        return (F80::INDEFINITE, F80::INDEFINITE);
    }
    (
        load_int(value.exponent as i64),
        F80::new(value.sign, BIAS as u16, value.significand),
    )
}
