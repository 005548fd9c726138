//! Packed decimal integers: 18 digits and a sign in ten bytes (SDM vol. 1 4.7).

use super::super::soft::convert::integral;
use super::super::soft::env::{Env, IE, PE};
use super::super::soft::format::Class;
use super::F80;
use super::transfer::load_int;

const LARGEST: u64 = 999_999_999_999_999_999;

/// The packed BCD integer indefinite (SDM vol. 1 table 4-4).
const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// FBLD: exact. Digits above 9 are undefined by the SDM and count with their value here.
pub fn load_bcd(bytes: [u8; 10]) -> F80 {
    let digits = bytes[..9].iter().rev();
    let magnitude = digits.fold(0u64, |sum, byte| {
        sum * 100 + (byte >> 4) as u64 * 10 + (byte & 15) as u64
    });
    let mut value = load_int(magnitude as i64);
    // The sign bit counts for zero as well.
    value.sign_exponent |= (bytes[9] as u16 & 0x80) << 8;
    value
}

/// FBSTP: rounds under the rounding control; values beyond 18 digits, infinities and NaNs are invalid.
pub fn store_bcd(env: &mut Env, value: F80) -> [u8; 10] {
    let value = value.unpack();
    let rounded = if value.class <= Class::Denormal {
        integral(&value, env.rounding)
    } else {
        None
    };
    let Some(rounded) = rounded.filter(|r| r.magnitude <= LARGEST) else {
        env.flags |= IE;
        return INDEFINITE;
    };
    if rounded.inexact {
        env.flags |= PE;
        env.rounded_up = rounded.up;
    }
    let mut bytes = [0; 10];
    let mut rest = rounded.magnitude;
    for byte in &mut bytes[..9] {
        *byte = ((rest % 10) | ((rest / 10 % 10) << 4)) as u8;
        rest /= 100;
    }
    bytes[9] = (value.sign as u8) << 7;
    bytes
}
