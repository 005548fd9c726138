//! The power series behind the transcendentals, and the delivery of their results.

use super::super::soft::env::Env;
use super::F80;
use super::deliver::deliver;
use super::wide::{FIXED_ONE, Wide, mul_fixed};

/// Delivers a result that is known to be irrational: always inexact (SDM vol. 1 8.3.10).
pub fn deliver_inexact(env: &mut Env, value: Wide) -> F80 {
    deliver(env, value.sign, value.exponent, value.significand | 1, 64)
}

/// Multiplies `x` by a correction factor just below or above one. A factor that came out as exactly one
/// was cut off; it is moved by its last place so that directed rounding goes the right way.
fn corrected(x: Wide, factor: u128, below: bool) -> Wide {
    let factor = match (factor == FIXED_ONE, below) {
        (true, true) => FIXED_ONE - 1,
        (true, false) => FIXED_ONE + 2,
        _ => factor,
    };
    x.mul(Wide::from_fixed(factor))
}

/// `sin(x)` for |x| up to pi/4: `x (1 - x^2/(2*3) (1 - x^2/(4*5) (...)))`.
pub fn sine(x: Wide) -> Wide {
    let square = x.square().to_fixed();
    let mut sum = FIXED_ONE;
    for k in (1..=16u128).rev() {
        sum = FIXED_ONE - mul_fixed(square, sum) / (2 * k * (2 * k + 1));
    }
    corrected(x, sum, true)
}

/// `cos(x)` for |x| up to pi/4.
pub fn cosine(x: Wide) -> Wide {
    let square = x.square().to_fixed();
    let mut sum = FIXED_ONE;
    for k in (1..=16u128).rev() {
        sum = FIXED_ONE - mul_fixed(square, sum) / (2 * k * (2 * k - 1));
    }
    corrected(Wide::ONE, sum, true)
}

/// `atan(x)` for |x| up to about 1/16: `x (1 - x^2/3 + x^4/5 - ...)`.
pub fn arctangent(x: Wide) -> Wide {
    let square = x.square().to_fixed();
    let mut sum = 0;
    for k in (0..=16u128).rev() {
        sum = FIXED_ONE / (2 * k + 1) - mul_fixed(square, sum);
    }
    corrected(x, sum, true)
}

/// `atanh(x)` for |x| up to 0.172.
pub fn area_tangent(x: Wide) -> Wide {
    let square = x.square().to_fixed();
    let mut sum = 0;
    for k in (0..=25u128).rev() {
        sum = FIXED_ONE / (2 * k + 1) + mul_fixed(square, sum);
    }
    corrected(x, sum, false)
}

/// `e^x - 1` for |x| up to ln 2: `x (1 + x/2 (1 + x/3 (...)))`.
pub fn exponential_minus_1(x: Wide) -> Wide {
    let magnitude = x.to_fixed();
    let mut sum = FIXED_ONE;
    for k in (2..=32u128).rev() {
        let term = mul_fixed(magnitude, sum) / k;
        sum = if x.sign {
            FIXED_ONE - term
        } else {
            FIXED_ONE + term
        };
    }
    corrected(x, sum, x.sign)
}
