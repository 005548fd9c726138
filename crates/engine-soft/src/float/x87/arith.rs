//! FADD, FSUB, FMUL, FDIV and FSQRT, the instructions precision control applies to (SDM vol. 1 8.1.5.2).

use super::super::soft::env::{Env, Rounding, ZE};
use super::super::soft::format::{Class, Unpacked};
use super::super::soft::round::shift_jam_wide;
use super::F80;
use super::deliver::{deliver, denormal_stops, invalid, nan_operand, nan_single};

/// `a + b`.
pub fn add(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> F80 {
    sum(env, a.into(), b.into(), false)
}

/// `a - b`; the reversed forms exchange the operands.
pub fn sub(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> F80 {
    sum(env, a.into(), b.into(), true)
}

fn sum(env: &mut Env, a: Unpacked, b: Unpacked, negate: bool) -> F80 {
    if let Some(nan) = nan_operand(env, &a, &b) {
        return nan;
    }
    let b_sign = b.sign ^ negate;
    let (a_infinite, b_infinite) = (a.class == Class::Infinite, b.class == Class::Infinite);
    if a_infinite && b_infinite && a.sign != b_sign {
        return invalid(env);
    }
    if denormal_stops(env, &a, &b) {
        return F80::INDEFINITE;
    }
    if a_infinite || b_infinite {
        return F80::infinity(if a_infinite { a.sign } else { b_sign });
    }
    let cancelled = env.rounding == Rounding::Down;
    let wide = |v: &Unpacked| (v.significand as u128) << 64;
    match (a.class == Class::Zero, b.class == Class::Zero) {
        (true, true) => return F80::zero(if a.sign == b_sign { a.sign } else { cancelled }),
        (true, false) => return deliver(env, b_sign, b.exponent, wide(&b), env.precision),
        (false, true) => return deliver(env, a.sign, a.exponent, wide(&a), env.precision),
        (false, false) => {}
    }
    let (mut large, mut small, mut sign) = (&a, &b, a.sign);
    if (b.exponent, b.significand) > (a.exponent, a.significand) {
        (large, small, sign) = (&b, &a, b_sign);
    }
    let first = wide(large) >> 1;
    let second = shift_jam_wide(wide(small) >> 1, (large.exponent - small.exponent) as u32);
    let sum = if a.sign == b_sign {
        first + second
    } else {
        first - second
    };
    if sum == 0 {
        return F80::zero(cancelled);
    }
    let shift = sum.leading_zeros();
    deliver(
        env,
        sign,
        large.exponent + 1 - shift as i32,
        sum << shift,
        env.precision,
    )
}

/// `a * b`.
pub fn mul(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> F80 {
    product(env, a.into(), b.into())
}

fn product(env: &mut Env, a: Unpacked, b: Unpacked) -> F80 {
    if let Some(nan) = nan_operand(env, &a, &b) {
        return nan;
    }
    let sign = a.sign ^ b.sign;
    let infinite = a.class == Class::Infinite || b.class == Class::Infinite;
    let null = a.class == Class::Zero || b.class == Class::Zero;
    if infinite && null {
        return invalid(env);
    }
    if denormal_stops(env, &a, &b) {
        return F80::INDEFINITE;
    }
    if infinite {
        return F80::infinity(sign);
    }
    if null {
        return F80::zero(sign);
    }
    let product = a.significand as u128 * b.significand as u128;
    let shift = product.leading_zeros();
    deliver(
        env,
        sign,
        a.exponent + b.exponent + 1 - shift as i32,
        product << shift,
        env.precision,
    )
}

/// `a / b`; the reversed forms exchange the operands.
pub fn div(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> F80 {
    quotient(env, a.into(), b.into())
}

fn quotient(env: &mut Env, a: Unpacked, b: Unpacked) -> F80 {
    if let Some(nan) = nan_operand(env, &a, &b) {
        return nan;
    }
    let sign = a.sign ^ b.sign;
    if a.class == b.class && (a.class == Class::Zero || a.class == Class::Infinite) {
        return invalid(env);
    }
    if b.class == Class::Zero && a.class != Class::Infinite {
        env.flags |= ZE;
        return F80::infinity(sign);
    }
    if denormal_stops(env, &a, &b) {
        return F80::INDEFINITE;
    }
    if a.class == Class::Infinite {
        return F80::infinity(sign);
    }
    if a.class == Class::Zero || b.class == Class::Infinite {
        return F80::zero(sign);
    }
    let less = a.significand < b.significand;
    let dividend = (a.significand as u128) << (63 + less as u32);
    let divisor = b.significand as u128;
    let quotient = dividend / divisor;
    // Twice the rest against the divisor is the next quotient bit, what remains is sticky.
    let rest = (dividend - quotient * divisor) << 1;
    let guard = rest >= divisor;
    let sticky = rest != 0 && rest != divisor;
    let significand = quotient << 64 | (guard as u128) << 63 | sticky as u128;
    deliver(
        env,
        sign,
        a.exponent - b.exponent - less as i32,
        significand,
        env.precision,
    )
}

/// Square root.
pub fn sqrt(env: &mut Env, a: impl Into<Unpacked>) -> F80 {
    let a = a.into();
    if let Some(nan) = nan_single(env, &a) {
        return nan;
    }
    if a.class == Class::Zero {
        return F80::zero(a.sign);
    }
    if a.sign {
        return invalid(env);
    }
    if denormal_stops(env, &a, &a) {
        return F80::INDEFINITE;
    }
    if a.class == Class::Infinite {
        return F80::infinity(false);
    }
    let radicand = (a.significand as u128) << (63 + (a.exponent & 1));
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // (root + 1/2)^2 = root^2 + root + 1/4: the next bit is set exactly if the rest exceeds the root.
    let significand = root << 64 | ((rest > root) as u128) << 63 | (rest != 0) as u128;
    deliver(env, false, a.exponent >> 1, significand, env.precision)
}
