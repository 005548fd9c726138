//! DPPS and DPPD.
//!
//! The instructions run in steps: all products, then the pairwise sums, then the final sum. Each step
//! evaluates its exceptions like an instruction of its own, and an unmasked one ends the whole (SDM
//! vol. 2, DPPS).

use super::super::soft::env::Env;
use super::arith::{add_f32, add_f64, mul_f32, mul_f64};

/// DPPS on `N` 128-bit lanes: products selected by imm8\[7:4\] are summed as `(p0 + p1) + (p2 + p3)` and
/// the sum goes to the elements selected by imm8\[3:0\], zero to the others. Without meaning if
/// [`Env::sse_fault`] says so.
pub fn dpps<const N: usize>(env: &mut Env, a: [[u32; 4]; N], b: [[u32; 4]; N], imm8: u8) -> [[u32; 4]; N] {
    let product = |env: &mut Env, lane: usize, i: usize| {
        if imm8 >> (4 + i) & 1 != 0 {
            mul_f32(env, a[lane][i], b[lane][i])
        } else {
            0
        }
    };
    let sums = env
        .step(|env| -> [[u32; 4]; N] {
            std::array::from_fn(|lane| std::array::from_fn(|i| product(env, lane, i)))
        })
        .and_then(|p| env.step(|env| p.map(|p| [add_f32(env, p[0], p[1]), add_f32(env, p[2], p[3])])))
        .and_then(|p| env.step(|env| p.map(|p| add_f32(env, p[0], p[1]))));
    let sums = sums.unwrap_or([0; N]);
    sums.map(|sum| std::array::from_fn(|i| if imm8 >> i & 1 != 0 { sum } else { 0 }))
}

/// DPPD: imm8\[5:4\] select products, imm8\[1:0\] the elements that receive their sum (SDM vol. 2, DPPD).
/// Without meaning if [`Env::sse_fault`] says so.
pub fn dppd(env: &mut Env, a: [u64; 2], b: [u64; 2], imm8: u8) -> [u64; 2] {
    let product = |env: &mut Env, i: usize| {
        if imm8 >> (4 + i) & 1 != 0 {
            mul_f64(env, a[i], b[i])
        } else {
            0
        }
    };
    let sum = env
        .step(|env| [product(env, 0), product(env, 1)])
        .and_then(|p| env.step(|env| add_f64(env, p[0], p[1])))
        .unwrap_or(0);
    std::array::from_fn(|i| if imm8 >> i & 1 != 0 { sum } else { 0 })
}
