//! F2XM1, FYL2X and FYL2XP1.

use super::super::soft::env::{Env, PE, UE, ZE};
use super::super::soft::format::{Class, Unpacked};
use super::deliver::{deliver, denormal_stops, invalid, nan_operand, nan_single};
use super::series::{area_tangent, deliver_inexact, exponential_minus_1};
use super::wide::Wide;
use super::{BIAS, F80};

/// F2XM1: `2^a - 1`. Outside -1 to +1 the SDM leaves the result undefined; here the operand is returned.
pub fn two_to_x_minus_1(env: &mut Env, a: F80) -> F80 {
    let value = a.unpack();
    if let Some(nan) = nan_single(env, &value) {
        return nan;
    }
    match value.class {
        Class::Zero => return a,
        Class::Infinite => {
            return if value.sign {
                F80::new(true, BIAS as u16, 1 << 63)
            } else {
                a
            };
        }
        _ => {}
    }
    if denormal_stops(env, &value, &value) {
        return F80::INDEFINITE;
    }
    if value.exponent >= 0 {
        // Processors report even the exact results at plus and minus one as inexact.
        env.flags |= PE;
        let minus_one = value.sign && value.exponent == 0 && value.significand == 1 << 63;
        return if minus_one {
            F80::new(true, BIAS as u16 - 1, 1 << 63)
        } else {
            a
        };
    }
    deliver_inexact(env, exponential_minus_1(Wide::new(&value).mul(Wide::LN_2)))
}

/// `log2(1 + excess)` by way of `atanh(excess / (2 + excess))`, for `excess` between about -0.3 and 0.42.
fn log2_near_1(excess: Wide) -> Wide {
    let ratio = excess.div(Wide::TWO.add(excess));
    area_tangent(ratio).mul(Wide::LOG2_E).shifted(1)
}

/// `log2(x)` of a positive number.
fn log2(x: Wide) -> Wide {
    /// The square root of two, roughly: where the next power of two becomes the nearer one.
    const TURN: u128 = 0xb504_f333_f9de_6484 << 64;
    let exponent = x.exponent + (x.significand > TURN) as i32;
    let excess = Wide {
        exponent: x.exponent - exponent,
        ..x
    }
    .sub(Wide::ONE);
    let whole = Wide::from_int(exponent < 0, exponent.unsigned_abs() as u128, 0);
    if excess.is_zero() {
        whole
    } else {
        whole.add(log2_near_1(excess))
    }
}

/// The result where the logarithm is an integer. The product may be exact, but processors report it as
/// inexact nevertheless, and hence as an underflow if it is denormal.
fn y_times_integer(env: &mut Env, y: &Unpacked, logarithm: i32) -> F80 {
    let product = y.significand as u128 * logarithm.unsigned_abs() as u128;
    let product = Wide::from_int(y.sign != (logarithm < 0), product, y.exponent - 63);
    let result = deliver(env, product.sign, product.exponent, product.significand, 64);
    env.flags |= if result.sign_exponent & 0x7fff == 0 {
        UE | PE
    } else {
        PE
    };
    result
}

/// FYL2X: `y * log2(x)` with y in ST(1) and x in ST(0).
pub fn y_log2_x(env: &mut Env, y: F80, x: F80) -> F80 {
    let (y, x) = (y.unpack(), x.unpack());
    if let Some(nan) = nan_operand(env, &x, &y) {
        return nan;
    }
    if x.sign && x.class != Class::Zero {
        return invalid(env);
    }
    let one = x.class == Class::Normal && x.exponent == 0 && x.significand == 1 << 63;
    let clash = match x.class {
        Class::Zero | Class::Infinite => y.class == Class::Zero,
        _ => one && y.class == Class::Infinite,
    };
    if clash {
        return invalid(env);
    }
    if x.class == Class::Zero && y.class != Class::Infinite {
        env.flags |= ZE;
        return F80::infinity(!y.sign);
    }
    if denormal_stops(env, &x, &y) {
        return F80::INDEFINITE;
    }
    let log_negative = x.class == Class::Zero || (x.class != Class::Infinite && x.exponent < 0);
    let sign = y.sign ^ log_negative;
    if x.class == Class::Infinite || x.class == Class::Zero || y.class == Class::Infinite {
        return F80::infinity(sign);
    }
    if y.class == Class::Zero || one {
        return F80::zero(sign);
    }
    if x.significand == 1 << 63 {
        return y_times_integer(env, &y, x.exponent);
    }
    deliver_inexact(env, Wide::new(&y).mul(log2(Wide::new(&x))))
}

/// FYL2XP1: `y * log2(1 + x)` with y in ST(1) and x in ST(0), precise for x near zero. The SDM defines
/// it for |x| up to `1 - sqrt(1/2)`; beyond, this goes on as long as the logarithm exists, and then
/// gives x, as AMD processors do.
pub fn y_log2_x_plus_1(env: &mut Env, y: F80, x: F80) -> F80 {
    let (y, operand) = (y.unpack(), x);
    let x = x.unpack();
    if let Some(nan) = nan_operand(env, &x, &y) {
        return nan;
    }
    if x.class == Class::Infinite && x.sign {
        return invalid(env);
    }
    let clash = match x.class {
        Class::Zero => y.class == Class::Infinite,
        Class::Infinite => y.class == Class::Zero,
        _ => false,
    };
    if clash {
        return invalid(env);
    }
    if denormal_stops(env, &x, &y) {
        return F80::INDEFINITE;
    }
    let sign = x.sign ^ y.sign;
    if x.class == Class::Infinite || y.class == Class::Infinite {
        return F80::infinity(sign);
    }
    if x.class == Class::Zero || y.class == Class::Zero {
        return F80::zero(sign);
    }
    if x.sign && x.exponent >= 0 {
        env.flags |= PE;
        return operand;
    }
    let excess = Wide::new(&x);
    let logarithm = if x.exponent < -2 {
        log2_near_1(excess)
    } else {
        let power = Wide::ONE.add(excess);
        if power.significand == 1 << 127 {
            return y_times_integer(env, &y, power.exponent);
        }
        log2(power)
    };
    deliver_inexact(env, Wide::new(&y).mul(logarithm))
}
