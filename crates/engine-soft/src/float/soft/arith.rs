//! Addition, multiplication, division, square root and fused multiply-add with the SSE rules for NaNs
//! and denormal operands (SDM vol. 1 4.8.3.5 and 11.5.2).

use super::env::{DE, Env, IE, ZE};
use super::format::{Class, Format, Unpacked, infinity, operand, quiet_nan, zero};
use super::round::{round_pack, shift_jam, shift_jam_wide};

/// The masked response to an invalid operation.
#[inline]
pub fn invalid<F: Format>(env: &mut Env) -> u64 {
    env.flags |= IE;
    F::INDEFINITE
}

/// The NaN an operation on `values` returns: the first one among them (SDM vol. 1 table 4-7).
#[cold]
fn nan_result<F: Format>(env: &mut Env, values: &[&Unpacked]) -> u64 {
    let mut result = None;
    for value in values {
        if value.class == Class::Signaling {
            env.flags |= IE;
        }
        if value.is_nan() && result.is_none() {
            result = Some(quiet_nan::<F>(value));
        }
    }
    result.unwrap_or(F::INDEFINITE)
}

/// Raises DE for a denormal operand.
#[inline(always)]
fn note_denormal(env: &mut Env, value: &Unpacked) {
    if value.class == Class::Denormal {
        env.flags |= DE;
    }
}

/// The sign of an exact zero sum of opposite operands (SDM vol. 1 4.8.3.1).
#[inline(always)]
fn cancelled_sign(env: &Env) -> bool {
    env.rounding == super::env::Rounding::Down
}

/// `a + b`.
#[inline]
pub fn add<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    add_signed::<F>(env, a, b, false)
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    add_signed::<F>(env, a, b, true)
}

#[inline(always)]
fn add_signed<F: Format>(env: &mut Env, a: u64, b: u64, negate: bool) -> u64 {
    let a = operand::<F>(env, a);
    let b = operand::<F>(env, b);
    if a.class == Class::Normal && b.class == Class::Normal {
        return add_finite::<F>(env, &a, b.sign ^ negate, &b);
    }
    add_special::<F>(env, a, b, negate)
}

fn add_special<F: Format>(env: &mut Env, a: Unpacked, b: Unpacked, negate: bool) -> u64 {
    if a.is_nan() || b.is_nan() {
        return nan_result::<F>(env, &[&a, &b]);
    }
    let b_sign = b.sign ^ negate;
    if a.class == Class::Infinite && b.class == Class::Infinite && a.sign != b_sign {
        return invalid::<F>(env);
    }
    note_denormal(env, &a);
    note_denormal(env, &b);
    if a.class == Class::Infinite {
        return infinity::<F>(a.sign);
    }
    if b.class == Class::Infinite {
        return infinity::<F>(b_sign);
    }
    match (a.class == Class::Zero, b.class == Class::Zero) {
        (true, true) => zero::<F>(if a.sign == b_sign {
            a.sign
        } else {
            cancelled_sign(env)
        }),
        // Through rounding: a denormal must still meet FTZ and the underflow exception.
        (true, false) => round_pack::<F>(env, b_sign, b.exponent, b.significand),
        (false, true) => round_pack::<F>(env, a.sign, a.exponent, a.significand),
        (false, false) => add_finite::<F>(env, &a, b_sign, &b),
    }
}

#[inline(always)]
fn add_finite<F: Format>(env: &mut Env, a: &Unpacked, b_sign: bool, b: &Unpacked) -> u64 {
    let (mut large, mut small) = ((a.exponent, a.significand), (b.exponent, b.significand));
    let mut sign = a.sign;
    if small > large {
        std::mem::swap(&mut large, &mut small);
        sign = b_sign;
    }
    // One bit of headroom for the carry; the formats leave at least 11 zero bits, which is more than
    // the guard and sticky bits an alignment shift needs.
    let first = large.1 >> 1;
    let second = shift_jam(small.1 >> 1, (large.0 - small.0) as u32);
    let sum = if a.sign == b_sign {
        first + second
    } else {
        first - second
    };
    if sum == 0 {
        return zero::<F>(cancelled_sign(env));
    }
    let shift = sum.leading_zeros();
    round_pack::<F>(env, sign, large.0 + 1 - shift as i32, sum << shift)
}

/// `a * b`.
#[inline]
pub fn mul<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    let a = operand::<F>(env, a);
    let b = operand::<F>(env, b);
    if a.class == Class::Normal && b.class == Class::Normal {
        return mul_finite::<F>(env, &a, &b);
    }
    mul_special::<F>(env, a, b)
}

fn mul_special<F: Format>(env: &mut Env, a: Unpacked, b: Unpacked) -> u64 {
    if a.is_nan() || b.is_nan() {
        return nan_result::<F>(env, &[&a, &b]);
    }
    let sign = a.sign ^ b.sign;
    let infinite = a.class == Class::Infinite || b.class == Class::Infinite;
    let null = a.class == Class::Zero || b.class == Class::Zero;
    if infinite && null {
        return invalid::<F>(env);
    }
    note_denormal(env, &a);
    note_denormal(env, &b);
    if infinite {
        infinity::<F>(sign)
    } else if null {
        zero::<F>(sign)
    } else {
        mul_finite::<F>(env, &a, &b)
    }
}

#[inline(always)]
fn mul_finite<F: Format>(env: &mut Env, a: &Unpacked, b: &Unpacked) -> u64 {
    let product = a.significand as u128 * b.significand as u128;
    let high = (product >> 64) as u64 | (product as u64 != 0) as u64;
    let shift = high.leading_zeros();
    round_pack::<F>(
        env,
        a.sign ^ b.sign,
        a.exponent + b.exponent + 1 - shift as i32,
        high << shift,
    )
}

/// `a / b`.
#[inline]
pub fn div<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    let a = operand::<F>(env, a);
    let b = operand::<F>(env, b);
    if a.class == Class::Normal && b.class == Class::Normal {
        return div_finite::<F>(env, &a, &b);
    }
    div_special::<F>(env, a, b)
}

fn div_special<F: Format>(env: &mut Env, a: Unpacked, b: Unpacked) -> u64 {
    if a.is_nan() || b.is_nan() {
        return nan_result::<F>(env, &[&a, &b]);
    }
    let sign = a.sign ^ b.sign;
    if a.class == b.class && (a.class == Class::Zero || a.class == Class::Infinite) {
        return invalid::<F>(env);
    }
    if b.class == Class::Zero && a.class != Class::Infinite {
        // Division by zero outranks a denormal dividend (SDM vol. 1 4.9.2).
        env.flags |= ZE;
        return infinity::<F>(sign);
    }
    note_denormal(env, &a);
    note_denormal(env, &b);
    if a.class == Class::Infinite {
        infinity::<F>(sign)
    } else if a.class == Class::Zero || b.class == Class::Infinite {
        zero::<F>(sign)
    } else {
        div_finite::<F>(env, &a, &b)
    }
}

#[inline(always)]
fn div_finite<F: Format>(env: &mut Env, a: &Unpacked, b: &Unpacked) -> u64 {
    let sign = a.sign ^ b.sign;
    let mut exponent = a.exponent - b.exponent;
    let less = a.significand < b.significand;
    exponent -= less as i32;
    // The quotient of significands is normalised to [1, 2) by doubling the dividend when needed.
    let significand = if F::PRECISION <= 24 {
        // Both significands have 40 zero bits below. Without those of the divisor 64-bit division has
        // enough room: the quotient leads at bit 39.
        let divisor = b.significand >> 40;
        let dividend = (a.significand >> 1) << less as u32;
        let (quotient, rest) = (dividend / divisor, dividend % divisor);
        quotient << 24 | (rest != 0) as u64
    } else {
        let dividend = (a.significand as u128) << (63 + less as u32);
        let divisor = b.significand as u128;
        // Multiplying back is far cheaper than a second 128-bit division for the rest.
        let quotient = dividend / divisor;
        quotient as u64 | (quotient * divisor != dividend) as u64
    };
    round_pack::<F>(env, sign, exponent, significand)
}

/// Square root.
pub fn sqrt<F: Format>(env: &mut Env, a: u64) -> u64 {
    let a = operand::<F>(env, a);
    if a.is_nan() {
        return nan_result::<F>(env, &[&a]);
    }
    if a.class == Class::Zero {
        return zero::<F>(a.sign);
    }
    if a.sign {
        return invalid::<F>(env);
    }
    note_denormal(env, &a);
    if a.class == Class::Infinite {
        return infinity::<F>(false);
    }
    // The radicand is the significand with an even exponent, so that the root is the integer root
    // scaled; the wide one leads at bit 126 or 127 and its root at bit 63.
    let odd = a.exponent & 1;
    let significand = if F::PRECISION <= 24 {
        let radicand = a.significand >> (1 - odd);
        let root = radicand.isqrt();
        root << 32 | (root * root != radicand) as u64
    } else {
        let radicand = (a.significand as u128) << (63 + odd);
        let root = radicand.isqrt();
        root as u64 | (root * root != radicand) as u64
    };
    round_pack::<F>(env, false, a.exponent >> 1, significand)
}

/// Which terms of `a * b + c` are negated: the four instruction groups FMADD, FMSUB, FNMADD and FNMSUB
/// (SDM vol. 1 14.5). NaNs pass through without a change of sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FmaSigns {
    /// Negate the product.
    pub product: bool,
    /// Negate the addend.
    pub addend: bool,
}

/// `±(a * b) ± c` with a single rounding.
pub fn fma<F: Format>(env: &mut Env, a: u64, b: u64, c: u64, signs: FmaSigns) -> u64 {
    let a = operand::<F>(env, a);
    let b = operand::<F>(env, b);
    let c = operand::<F>(env, c);
    let product_sign = a.sign ^ b.sign ^ signs.product;
    let c_sign = c.sign ^ signs.addend;
    if a.class != Class::Normal || b.class != Class::Normal || c.class != Class::Normal {
        if a.is_nan() || b.is_nan() || c.is_nan() {
            return nan_result::<F>(env, &[&a, &b, &c]);
        }
        let infinite = a.class == Class::Infinite || b.class == Class::Infinite;
        let null = a.class == Class::Zero || b.class == Class::Zero;
        if infinite && (null || (c.class == Class::Infinite && c_sign != product_sign)) {
            return invalid::<F>(env);
        }
        note_denormal(env, &a);
        note_denormal(env, &b);
        note_denormal(env, &c);
        if infinite {
            return infinity::<F>(product_sign);
        }
        if c.class == Class::Infinite {
            return infinity::<F>(c_sign);
        }
        if null {
            if c.class != Class::Zero {
                return round_pack::<F>(env, c_sign, c.exponent, c.significand);
            }
            return zero::<F>(if product_sign == c_sign {
                c_sign
            } else {
                cancelled_sign(env)
            });
        }
    }
    let product = a.significand as u128 * b.significand as u128;
    let lead = product.leading_zeros();
    let product = (a.exponent + b.exponent + 1 - lead as i32, product << lead);
    if c.class == Class::Zero {
        return round_wide::<F>(env, product_sign, product.0, product.1);
    }
    let addend = (c.exponent, (c.significand as u128) << 64);
    let (large, small, sign) = if product >= addend {
        (product, addend, product_sign)
    } else {
        (addend, product, c_sign)
    };
    // The narrow formats leave at least 22 zero bits below the product, so sticky shifting is exact
    // enough: bits are lost only at distances where at most one leading bit cancels.
    let first = large.1 >> 1;
    let second = shift_jam_wide(small.1 >> 1, (large.0 - small.0) as u32);
    let sum = if product_sign == c_sign {
        first + second
    } else {
        first - second
    };
    if sum == 0 {
        return zero::<F>(cancelled_sign(env));
    }
    let shift = sum.leading_zeros();
    round_wide::<F>(env, sign, large.0 + 1 - shift as i32, sum << shift)
}

#[inline(always)]
fn round_wide<F: Format>(env: &mut Env, sign: bool, exponent: i32, significand: u128) -> u64 {
    let high = (significand >> 64) as u64 | (significand as u64 != 0) as u64;
    round_pack::<F>(env, sign, exponent, high)
}
