//! RCPPS and RSQRTPS.
//!
//! The SDM promises a relative error of at most 1.5 * 2^-12 and leaves the rest to the implementation;
//! processors differ in the low bits. Here the exact value is rounded to 13 significand bits. Neither
//! instruction looks at MXCSR or raises exceptions (SDM vol. 2, RCPPS and RSQRTPS).

use super::super::soft::format::{Class, F32, infinity, quiet_nan, unpack, zero};

/// Significand bits of the results, integer bit included.
const BITS: u32 = 13;

/// Approximation of `1 / a`.
pub fn rcp_f32(a: u32) -> u32 {
    let value = unpack::<F32>(a as u64);
    let result = match value.class {
        // Denormals count as zero whatever DAZ says.
        Class::Zero | Class::Denormal => infinity::<F32>(value.sign),
        Class::Infinite => zero::<F32>(value.sign),
        Class::Normal => {
            let significand = value.significand >> 40;
            // 2^47 / [2^23, 2^24): between 2^23 exclusive and 2^24 inclusive.
            let quotient = (1u64 << 47) / significand;
            assemble(value.sign, -1 - value.exponent, quotient, 23)
        }
        _ => quiet_nan::<F32>(&value),
    };
    result as u32
}

/// Approximation of `1 / sqrt(a)`.
pub fn rsqrt_f32(a: u32) -> u32 {
    let value = unpack::<F32>(a as u64);
    let result = match value.class {
        Class::Zero | Class::Denormal => infinity::<F32>(value.sign),
        Class::Quiet | Class::Signaling => quiet_nan::<F32>(&value),
        _ if value.sign => F32_INDEFINITE,
        Class::Infinite => 0,
        _ => {
            let odd = value.exponent & 1;
            // The significand in [1, 4) scaled by 2^62, its root by 2^31.
            let root = (value.significand >> (1 - odd)).isqrt();
            // 2^55 / [2^31, 2^32): between 2^23 exclusive and 2^24 inclusive.
            let quotient = (1u64 << 55) / root;
            assemble(false, -1 - (value.exponent >> 1), quotient, 23)
        }
    };
    result as u32
}

const F32_INDEFINITE: u64 = 0xffc0_0000;

/// Rounds `significand * 2^(exponent - lead)` to [`BITS`] bits; results below the normal range are
/// flushed to zero, and so is 1 / 2^126, which the SDM leaves open.
fn assemble(sign: bool, exponent: i32, significand: u64, lead: u32) -> u64 {
    let drop = lead + 1 - BITS;
    let rounded = (significand + (1 << (drop - 1))) >> drop << drop;
    // A carry moves into the exponent by itself.
    let field = exponent + 127;
    if field < 1 {
        return zero::<F32>(sign);
    }
    zero::<F32>(sign) | (((field as i64 - 1) << 23) + rounded as i64) as u64
}
