//! The CVT family, F16C and ROUND.

use super::super::soft::convert::{Integer, convert, from_i64, pack, round_to_integral, to_int};
use super::super::soft::env::{Env, Rounding};
use super::super::soft::format::{F16, F32, F64, operand, unpack};

/// CVTPS2PD, CVTSS2SD.
#[inline]
pub fn f32_to_f64(env: &mut Env, a: u32) -> u64 {
    convert::<F32, F64>(env, a as u64)
}

/// CVTPD2PS, CVTSD2SS.
#[inline]
pub fn f64_to_f32(env: &mut Env, a: u64) -> u32 {
    convert::<F64, F32>(env, a) as u32
}

/// CVTPS2DQ, CVTPS2PI, CVTSS2SI with a 32-bit destination.
#[inline]
pub fn f32_to_i32(env: &mut Env, a: u32) -> u32 {
    to_int::<F32>(env, a as u64, Integer::I32, env.rounding) as u32
}

/// CVTTPS2DQ, CVTTPS2PI, CVTTSS2SI with a 32-bit destination.
#[inline]
pub fn f32_to_i32_truncate(env: &mut Env, a: u32) -> u32 {
    to_int::<F32>(env, a as u64, Integer::I32, Rounding::Zero) as u32
}

/// CVTSS2SI with a 64-bit destination.
#[inline]
pub fn f32_to_i64(env: &mut Env, a: u32) -> u64 {
    to_int::<F32>(env, a as u64, Integer::I64, env.rounding)
}

/// CVTTSS2SI with a 64-bit destination.
#[inline]
pub fn f32_to_i64_truncate(env: &mut Env, a: u32) -> u64 {
    to_int::<F32>(env, a as u64, Integer::I64, Rounding::Zero)
}

/// CVTPD2DQ, CVTPD2PI, CVTSD2SI with a 32-bit destination.
#[inline]
pub fn f64_to_i32(env: &mut Env, a: u64) -> u32 {
    to_int::<F64>(env, a, Integer::I32, env.rounding) as u32
}

/// CVTTPD2DQ, CVTTPD2PI, CVTTSD2SI with a 32-bit destination.
#[inline]
pub fn f64_to_i32_truncate(env: &mut Env, a: u64) -> u32 {
    to_int::<F64>(env, a, Integer::I32, Rounding::Zero) as u32
}

/// CVTSD2SI with a 64-bit destination.
#[inline]
pub fn f64_to_i64(env: &mut Env, a: u64) -> u64 {
    to_int::<F64>(env, a, Integer::I64, env.rounding)
}

/// CVTTSD2SI with a 64-bit destination.
#[inline]
pub fn f64_to_i64_truncate(env: &mut Env, a: u64) -> u64 {
    to_int::<F64>(env, a, Integer::I64, Rounding::Zero)
}

/// CVTDQ2PS, CVTPI2PS, CVTSI2SS from 32 bits.
#[inline]
pub fn i32_to_f32(env: &mut Env, a: u32) -> u32 {
    from_i64::<F32>(env, a as i32 as i64) as u32
}

/// CVTSI2SS from 64 bits.
#[inline]
pub fn i64_to_f32(env: &mut Env, a: u64) -> u32 {
    from_i64::<F32>(env, a as i64) as u32
}

/// CVTDQ2PD, CVTPI2PD, CVTSI2SD from 32 bits; always exact.
#[inline]
pub fn i32_to_f64(env: &mut Env, a: u32) -> u64 {
    from_i64::<F64>(env, a as i32 as i64)
}

/// CVTSI2SD from 64 bits.
#[inline]
pub fn i64_to_f64(env: &mut Env, a: u64) -> u64 {
    from_i64::<F64>(env, a as i64)
}

/// VCVTPH2PS. Ignores DAZ and does not raise DE (SDM vol. 2, VCVTPH2PS).
#[inline]
pub fn f16_to_f32(env: &mut Env, a: u16) -> u32 {
    let value = unpack::<F16>(a as u64);
    let mut quiet = Env {
        masks: env.masks,
        ..Env::default()
    };
    let result = pack::<F32>(&mut quiet, &value) as u32;
    env.flags |= quiet.flags & super::super::soft::env::IE;
    result
}

/// VCVTPS2PH with its immediate: bit 2 selects the rounding of MXCSR, otherwise bits 1:0 give it.
/// FTZ does not apply to the half-precision result (SDM vol. 2, VCVTPS2PH).
#[inline]
pub fn f32_to_f16(env: &mut Env, a: u32, imm8: u8) -> u16 {
    let value = operand::<F32>(env, a as u64);
    let mut half = Env {
        ftz: false,
        rounding: imm_rounding(env, imm8),
        ..*env
    };
    let result = pack::<F16>(&mut half, &value) as u16;
    env.flags = half.flags;
    result
}

/// ROUNDPS/ROUNDSS: bits 1:0 of the immediate give the rounding mode unless bit 2 selects that of
/// MXCSR, and bit 3 suppresses the precision exception (SDM vol. 2, ROUNDPD).
#[inline]
pub fn round_f32(env: &mut Env, a: u32, imm8: u8) -> u32 {
    let rounding = imm_rounding(env, imm8);
    round_to_integral::<F32>(env, a as u64, rounding, imm8 & 8 != 0) as u32
}

/// ROUNDPD/ROUNDSD; see [`round_f32`].
#[inline]
pub fn round_f64(env: &mut Env, a: u64, imm8: u8) -> u64 {
    let rounding = imm_rounding(env, imm8);
    round_to_integral::<F64>(env, a, rounding, imm8 & 8 != 0)
}

#[inline(always)]
fn imm_rounding(env: &Env, imm8: u8) -> Rounding {
    if imm8 & 4 != 0 {
        env.rounding
    } else {
        Rounding::from_bits(imm8 as u32)
    }
}
