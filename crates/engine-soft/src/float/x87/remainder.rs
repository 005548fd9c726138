//! FPREM and FPREM1.

use super::super::soft::env::Env;
use super::super::soft::format::Class;
use super::deliver::{deliver, deliver_unpacked, denormal_stops, invalid, nan_operand};
use super::{C0, C1, C2, C3, F80};

/// Result of a partial remainder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remainder {
    /// The (partial) remainder.
    pub value: F80,
    /// C2 set if the reduction is incomplete; otherwise C0, C3 and C1 hold bits 2, 1 and 0 of the
    /// quotient (SDM vol. 2, FPREM).
    pub codes: u16,
}

/// FPREM: remainder of the truncated quotient.
pub fn remainder_truncate(env: &mut Env, a: F80, b: F80) -> Remainder {
    remainder(env, a, b, false)
}

/// FPREM1: remainder of the quotient rounded to nearest even, the IEEE remainder.
pub fn remainder_nearest(env: &mut Env, a: F80, b: F80) -> Remainder {
    remainder(env, a, b, true)
}

fn remainder(env: &mut Env, a: F80, b: F80, nearest: bool) -> Remainder {
    let complete = |value| Remainder { value, codes: 0 };
    let (a, b) = (a.unpack(), b.unpack());
    if let Some(nan) = nan_operand(env, &a, &b) {
        return complete(nan);
    }
    if a.class == Class::Infinite || b.class == Class::Zero {
        return complete(invalid(env));
    }
    if denormal_stops(env, &a, &b) {
        return complete(F80::INDEFINITE);
    }
    if a.class == Class::Zero {
        return complete(F80::zero(a.sign));
    }
    let distance = a.exponent - b.exponent;
    if b.class == Class::Infinite || distance < -1 {
        return complete(deliver_unpacked(env, &a));
    }
    if distance >= 64 {
        return partial(env, &a, &b, distance);
    }
    // At a distance of -1 the quotient is 0, but for FPREM1 perhaps to be rounded up to 1: one more
    // fraction bit on the divisor brings both to the same scale.
    let (dividend, divisor, scale) = if distance < 0 {
        (a.significand as u128, (b.significand as u128) << 1, a.exponent)
    } else {
        (
            (a.significand as u128) << distance,
            b.significand as u128,
            b.exponent,
        )
    };
    let mut quotient = dividend / divisor;
    let mut rest = dividend % divisor;
    let mut sign = a.sign;
    if nearest {
        let twice = rest << 1;
        if twice > divisor || (twice == divisor && quotient & 1 != 0) {
            rest = divisor - rest;
            quotient += 1;
            sign = !sign;
        }
    }
    let bit = |n: u32, code: u16| if quotient >> n & 1 != 0 { code } else { 0 };
    let codes = bit(2, C0) | bit(1, C3) | bit(0, C1);
    Remainder {
        value: deliver_rest(env, sign, a.sign, scale, rest),
        codes,
    }
}

/// Reduces the exponent difference by 63 at most, by truncation in both instructions.
fn partial(env: &mut Env, a: &super::Unpacked, b: &super::Unpacked, distance: i32) -> Remainder {
    let by = reduction(distance);
    let rest = ((a.significand as u128) << by) % b.significand as u128;
    let scale = b.exponent + distance - by;
    Remainder {
        value: deliver_rest(env, a.sign, a.sign, scale, rest),
        codes: C2,
    }
}

/// By how much a step reduces an exponent difference of 64 or more. The SDM allows 32 to 63.
fn reduction(distance: i32) -> i32 {
    32 + distance % 32
}

/// Delivers `rest * 2^(scale - 63)`; a zero has the sign of the dividend.
fn deliver_rest(env: &mut Env, sign: bool, zero_sign: bool, scale: i32, rest: u128) -> F80 {
    if rest == 0 {
        return F80::zero(zero_sign);
    }
    let shift = rest.leading_zeros();
    deliver(env, sign, scale + 64 - shift as i32, rest << shift, 64)
}
