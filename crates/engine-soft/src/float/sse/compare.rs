//! CMPxx and (U)COMISx.

use super::super::soft::compare::{Relation, compare};
use super::super::soft::env::Env;
use super::super::soft::format::{F32, F64, Format};

/// RFLAGS.CF, set by [`comis_f32`] and its kin.
pub const CF: u32 = 1;
/// RFLAGS.PF.
pub const PF: u32 = 1 << 2;
/// RFLAGS.ZF.
pub const ZF: u32 = 1 << 6;

const LT: u8 = 1;
const EQ: u8 = 2;
const GT: u8 = 4;
const UN: u8 = 8;

/// The relations for which each of the first 16 predicates holds; the other 16 repeat them with the
/// opposite treatment of quiet NaNs (SDM vol. 2, CMPPD, table "Comparison Predicate").
const HOLDS: [u8; 16] = [
    EQ,
    LT,
    LT | EQ,
    UN,
    LT | GT | UN,
    EQ | GT | UN,
    GT | UN,
    LT | EQ | GT,
    EQ | UN,
    LT | UN,
    LT | EQ | UN,
    0,
    LT | GT,
    EQ | GT,
    GT,
    LT | EQ | GT | UN,
];

/// The first 16 predicates that are invalid on a quiet NaN, as a bit set.
const SIGNALING: u16 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14;

#[inline(always)]
fn cmp<F: Format>(env: &mut Env, a: u64, b: u64, predicate: u8) -> bool {
    let base = predicate & 15;
    let signaling = (SIGNALING >> base & 1 != 0) != (predicate & 16 != 0);
    let relation = match compare::<F>(env, a, b, signaling) {
        Relation::Less => LT,
        Relation::Equal => EQ,
        Relation::Greater => GT,
        Relation::Unordered => UN,
    };
    HOLDS[base as usize] & relation != 0
}

/// CMPPS/CMPSS: all ones if the predicate (low five bits; legacy encodings have three) holds.
#[inline]
pub fn cmp_f32(env: &mut Env, a: u32, b: u32, predicate: u8) -> u32 {
    if cmp::<F32>(env, a as u64, b as u64, predicate) {
        u32::MAX
    } else {
        0
    }
}

/// CMPPD/CMPSD: all ones if the predicate (low five bits; legacy encodings have three) holds.
#[inline]
pub fn cmp_f64(env: &mut Env, a: u64, b: u64, predicate: u8) -> u64 {
    if cmp::<F64>(env, a, b, predicate) {
        u64::MAX
    } else {
        0
    }
}

#[inline(always)]
fn condition<F: Format>(env: &mut Env, a: u64, b: u64, signaling: bool) -> u32 {
    match compare::<F>(env, a, b, signaling) {
        Relation::Unordered => ZF | PF | CF,
        Relation::Greater => 0,
        Relation::Less => CF,
        Relation::Equal => ZF,
    }
}

/// COMISS: [`ZF`], [`PF`] and [`CF`] as RFLAGS bits; OF, SF and AF are cleared by the instruction.
#[inline]
pub fn comis_f32(env: &mut Env, a: u32, b: u32) -> u32 {
    condition::<F32>(env, a as u64, b as u64, true)
}

/// COMISD.
#[inline]
pub fn comis_f64(env: &mut Env, a: u64, b: u64) -> u32 {
    condition::<F64>(env, a, b, true)
}

/// UCOMISS: quiet NaNs are not invalid.
#[inline]
pub fn ucomis_f32(env: &mut Env, a: u32, b: u32) -> u32 {
    condition::<F32>(env, a as u64, b as u64, false)
}

/// UCOMISD.
#[inline]
pub fn ucomis_f64(env: &mut Env, a: u64, b: u64) -> u32 {
    condition::<F64>(env, a, b, false)
}
