//! DPPS and DPPD.

use super::super::soft::env::Env;
use super::arith::{add_f32, add_f64, mul_f32, mul_f64};

/// One 128-bit lane of DPPS: products selected by imm8[7:4] are summed pairwise, `(p0 + p1) + (p2 + p3)`,
/// and the sum goes to the elements selected by imm8[3:0] (SDM vol. 2, DPPS).
pub fn dpps(env: &mut Env, a: [u32; 4], b: [u32; 4], imm8: u8) -> [u32; 4] {
    let mut products = [0; 4];
    for i in 0..4 {
        if imm8 >> (4 + i) & 1 != 0 {
            products[i] = mul_f32(env, a[i], b[i]);
        }
    }
    // An unmasked exception of the multiplication stage ends the instruction there.
    if env.sse_fault() {
        return [0; 4];
    }
    let low = add_f32(env, products[0], products[1]);
    let high = add_f32(env, products[2], products[3]);
    if env.sse_fault() {
        return [0; 4];
    }
    let sum = add_f32(env, low, high);
    std::array::from_fn(|i| if imm8 >> i & 1 != 0 { sum } else { 0 })
}

/// One 128-bit lane of DPPD (SDM vol. 2, DPPD): imm8[5:4] select products, imm8[1:0] destinations.
pub fn dppd(env: &mut Env, a: [u64; 2], b: [u64; 2], imm8: u8) -> [u64; 2] {
    let mut products = [0; 2];
    for i in 0..2 {
        if imm8 >> (4 + i) & 1 != 0 {
            products[i] = mul_f64(env, a[i], b[i]);
        }
    }
    if env.sse_fault() {
        return [0; 2];
    }
    let sum = add_f64(env, products[0], products[1]);
    std::array::from_fn(|i| if imm8 >> i & 1 != 0 { sum } else { 0 })
}
