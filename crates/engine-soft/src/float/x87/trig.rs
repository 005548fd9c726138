//! FSIN, FCOS, FSINCOS and FPTAN.
//!
//! Arguments are reduced with the 66-bit value of pi of SDM vol. 1 8.3.8, exactly: near multiples of pi
//! the results are those of the processor's pi, not of the true one.

use super::super::soft::env::Env;
use super::super::soft::format::{Class, Unpacked};
use super::F80;
use super::deliver::{denormal_stops, invalid, nan_single};
use super::series::{cosine, deliver_inexact, sine};
use super::wide::Wide;

/// Half of the 66-bit pi in units of 2^-65.
const HALF_PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// An argument reduced to at most a quarter of pi either way.
struct Reduced {
    /// Number of right angles taken off, modulo 4.
    quadrant: u8,
    rest: Wide,
}

fn reduce(value: &Unpacked) -> Reduced {
    // Anything below 1/2 is in range; from there on the argument is a multiple of 2^-65 and the
    // largest, just below 2^63, fills 128 bits in that unit.
    if value.exponent < -1 {
        return Reduced {
            quadrant: 0,
            rest: Wide::new(value),
        };
    }
    let units = (value.significand as u128) << (value.exponent + 2);
    let mut turns = (units / HALF_PI_66) as u8;
    let mut rest = units % HALF_PI_66;
    let mut sign = false;
    if rest * 2 > HALF_PI_66 {
        rest = HALF_PI_66 - rest;
        turns = turns.wrapping_add(1);
        sign = true;
    }
    let quadrant = if value.sign { turns.wrapping_neg() } else { turns } & 3;
    Reduced {
        quadrant,
        rest: Wide::from_int(sign != value.sign, rest, -65),
    }
}

impl Reduced {
    fn sin(&self) -> Wide {
        let magnitude = if self.quadrant & 1 == 0 {
            sine(self.rest)
        } else {
            cosine(self.rest)
        };
        if self.quadrant & 2 == 0 {
            magnitude
        } else {
            magnitude.neg()
        }
    }

    fn cos(&self) -> Wide {
        Reduced {
            quadrant: (self.quadrant + 1) & 3,
            rest: self.rest,
        }
        .sin()
    }
}

/// Result of an instruction with a limited argument range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trig<T> {
    /// The result; C2 is cleared.
    Done(T),
    /// The argument is 2^63 or more in magnitude: C2 is set and the registers stay as they are
    /// (SDM vol. 1 8.3.7 and vol. 2, FSIN).
    OutOfRange,
}

/// What the trigonometric instructions have in common: `at_zero` gives the result for a zero of a sign.
fn evaluate<T>(
    env: &mut Env,
    a: F80,
    special: impl Fn(F80) -> T,
    at_zero: impl Fn(bool) -> T,
    compute: impl Fn(&mut Env, &Reduced) -> T,
) -> Trig<T> {
    let value = a.unpack();
    if let Some(nan) = nan_single(env, &value) {
        return Trig::Done(special(nan));
    }
    match value.class {
        Class::Infinite => return Trig::Done(special(invalid(env))),
        Class::Zero => return Trig::Done(at_zero(value.sign)),
        _ => {}
    }
    if value.exponent >= 63 {
        return Trig::OutOfRange;
    }
    if denormal_stops(env, &value, &value) {
        return Trig::Done(special(F80::INDEFINITE));
    }
    Trig::Done(compute(env, &reduce(&value)))
}

/// FSIN.
pub fn sin(env: &mut Env, a: F80) -> Trig<F80> {
    evaluate(env, a, |x| x, F80::zero, |env, r| deliver_inexact(env, r.sin()))
}

/// FCOS.
pub fn cos(env: &mut Env, a: F80) -> Trig<F80> {
    evaluate(
        env,
        a,
        |x| x,
        |_| F80::ONE,
        |env, r| deliver_inexact(env, r.cos()),
    )
}

/// FSINCOS: sine and cosine. The sine replaces ST(0), the cosine is pushed.
pub fn sin_cos(env: &mut Env, a: F80) -> Trig<(F80, F80)> {
    evaluate(
        env,
        a,
        |x| (x, x),
        |sign| (F80::zero(sign), F80::ONE),
        |env, r| {
            let sin = deliver_inexact(env, r.sin());
            (sin, deliver_inexact(env, r.cos()))
        },
    )
}

/// FPTAN: the tangent, which replaces ST(0), and what is pushed on top of it: 1.0, or the same NaN.
pub fn tan(env: &mut Env, a: F80) -> Trig<(F80, F80)> {
    evaluate(
        env,
        a,
        |x| (x, x),
        |sign| (F80::zero(sign), F80::ONE),
        |env, r| (deliver_inexact(env, r.sin().div(r.cos())), F80::ONE),
    )
}
