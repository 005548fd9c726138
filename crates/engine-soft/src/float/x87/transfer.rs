//! FLD, FILD, FST, FIST and FISTTP between registers and memory formats.
//!
//! FLD and FSTP with an 80-bit memory operand move the bytes unchanged and raise nothing
//! (SDM vol. 2, FLD and FST).

use super::super::soft::convert::{Integer, pack, unpacked_to_int};
use super::super::soft::env::{Env, IE, OE, PE, Rounding, UE};
use super::super::soft::format::{Class, F32, F64, Format, Unpacked, unpack};
use super::F80;
use super::deliver::{deliver_unpacked, denormal_stops};

/// A 32-bit memory operand of an arithmetic instruction.
#[inline]
pub fn operand_f32(bits: u32) -> Unpacked {
    unpack::<F32>(bits as u64)
}

/// A 64-bit memory operand of an arithmetic instruction.
#[inline]
pub fn operand_f64(bits: u64) -> Unpacked {
    unpack::<F64>(bits)
}

/// An integer memory operand, sign-extended (FIADD and the like).
#[inline]
pub fn operand_int(value: i64) -> Unpacked {
    load_int(value).unpack()
}

fn load(env: &mut Env, value: Unpacked) -> F80 {
    denormal_stops(env, &value, &value);
    match value.class {
        Class::Infinite => F80::infinity(value.sign),
        Class::Quiet => F80::quiet(&value),
        Class::Signaling | Class::Unsupported => {
            env.flags |= IE;
            F80::quiet(&value)
        }
        _ => deliver_unpacked(env, &value),
    }
}

/// FLD m32fp: exact, but a denormal raises DE and a signaling NaN IE. [`Env::x87_writes_load`] tells
/// whether the value is pushed.
pub fn load_f32(env: &mut Env, bits: u32) -> F80 {
    load(env, operand_f32(bits))
}

/// FLD m64fp.
pub fn load_f64(env: &mut Env, bits: u64) -> F80 {
    load(env, operand_f64(bits))
}

/// FILD of a sign-extended integer: always exact.
pub fn load_int(value: i64) -> F80 {
    if value == 0 {
        return F80::ZERO;
    }
    let shift = value.unsigned_abs().leading_zeros();
    F80::new(
        value < 0,
        (super::BIAS + 63 - shift as i32) as u16,
        value.unsigned_abs() << shift,
    )
}

fn store<F: Format>(env: &mut Env, value: F80) -> u64 {
    let mut value = value.unpack();
    // A store does not report a denormal source (SDM vol. 2, FST); the destination has the exceptions.
    if value.class == Class::Denormal {
        value.class = Class::Normal;
    }
    let result = pack::<F>(env, &value);
    // Nothing is stored after an unmasked overflow or underflow, so nothing has been rounded either.
    if env.unmasked(OE | UE) {
        env.flags &= !PE;
        env.rounded_up = false;
    }
    result
}

/// FST m32fp.
pub fn store_f32(env: &mut Env, value: F80) -> u32 {
    store::<F32>(env, value) as u32
}

/// FST m64fp.
pub fn store_f64(env: &mut Env, value: F80) -> u64 {
    store::<F64>(env, value)
}

/// FIST: rounds under the rounding control; the low `to.bits` bits are the value, the integer
/// indefinite if it is invalid.
pub fn store_int(env: &mut Env, value: F80, to: Integer) -> u64 {
    unpacked_to_int(env, &value.unpack(), to, env.rounding)
}

/// FISTTP: truncates.
pub fn store_int_truncate(env: &mut Env, value: F80, to: Integer) -> u64 {
    unpacked_to_int(env, &value.unpack(), to, Rounding::Zero)
}
