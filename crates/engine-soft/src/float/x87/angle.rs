//! FPATAN.

use super::super::soft::env::Env;
use super::super::soft::format::Class;
use super::F80;
use super::deliver::{denormal_stops, nan_operand};
use super::series::{arctangent, deliver_inexact};
use super::wide::Wide;

/// `atan(i / 8)` for i from 0 to 8.
const TABLE: [Wide; 9] = [
    Wide::ZERO,
    Wide::positive(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::positive(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::positive(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::positive(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::positive(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::positive(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::positive(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide {
        exponent: -1,
        ..Wide::PI
    },
];

/// `atan(y / x)` for `0 < y <= x`.
fn first_octant(y: Wide, x: Wide) -> Wide {
    // The table entry nearest to y / x; below 1/16 it is 0 and the quotient keeps its full precision.
    let distance = (x.exponent - y.exponent) as u32;
    let nearest = if distance > 5 {
        0
    } else {
        let quotient = ((y.significand >> 64) << 16 >> distance) / (x.significand >> 64);
        (quotient as usize + (1 << 12)) >> 13
    };
    if nearest == 0 {
        return arctangent(y.div(x));
    }
    let step = Wide::from_int(false, nearest as u128, -3);
    let numerator = y.sub(x.mul(step));
    let rest = numerator.div(x.add(y.mul(step)));
    if rest.is_zero() {
        TABLE[nearest]
    } else {
        TABLE[nearest].add(arctangent(rest))
    }
}

/// FPATAN: the angle of the point with ordinate `y` in ST(1) and abscissa `x` in ST(0), from -pi to pi
/// (SDM vol. 2, FPATAN, for zeros and infinities; no combination is invalid).
pub fn angle(env: &mut Env, y: F80, x: F80) -> F80 {
    let (y, x) = (y.unpack(), x.unpack());
    if let Some(nan) = nan_operand(env, &x, &y) {
        return nan;
    }
    if denormal_stops(env, &x, &y) {
        return F80::INDEFINITE;
    }
    // On the axes and diagonals the angle is a multiple of pi/4, given here in eighths of a turn for
    // the upper half plane.
    let eighths = match (y.class, x.class) {
        (Class::Infinite, Class::Infinite) => Some(if x.sign { 3 } else { 1 }),
        (Class::Infinite, _) => Some(2),
        (Class::Zero, _) | (_, Class::Infinite) => Some(if x.sign { 4 } else { 0 }),
        (_, Class::Zero) => Some(2),
        _ => None,
    };
    let result = match eighths {
        Some(0) => return F80::zero(y.sign),
        Some(n) => Wide::PI.mul(Wide::from_int(false, n, -2)),
        None => {
            let (wide_y, wide_x) = (Wide::new(&y).abs(), Wide::new(&x).abs());
            let steep = (wide_y.exponent, wide_y.significand) > (wide_x.exponent, wide_x.significand);
            let right = if steep {
                Wide::HALF_PI.sub(first_octant(wide_x, wide_y))
            } else {
                first_octant(wide_y, wide_x)
            };
            if x.sign { Wide::PI.sub(right) } else { right }
        }
    };
    deliver_inexact(
        env,
        Wide {
            sign: y.sign,
            ..result
        },
    )
}
