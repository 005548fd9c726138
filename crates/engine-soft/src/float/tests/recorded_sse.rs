//! The SSE operations against recorded executions.

use super::super::sse::*;
use super::super::{Env, FmaSigns};
use super::sse_vectors::VECTORS;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    AddF64,
    MulF64,
    DivF64,
    SqrtF64,
    /// VFMADD213SD with `a`, `b` and `c` as first to third operand.
    FmaF64,
    MinF64,
    MaxF64,
    AddF32,
    MulF32,
    DivF32,
    F64ToF32,
    F32ToF64,
}

fn run(op: Op, env: &mut Env, [a, b, c]: [u64; 3]) -> u64 {
    match op {
        Op::AddF64 => add_f64(env, a, b),
        Op::MulF64 => mul_f64(env, a, b),
        Op::DivF64 => div_f64(env, a, b),
        Op::SqrtF64 => sqrt_f64(env, a),
        Op::FmaF64 => {
            let (x, y, z) = FmaForm::F213.order(a, b, c);
            fma_f64(env, x, y, z, FmaSigns::default())
        }
        Op::MinF64 => min_f64(env, a, b),
        Op::MaxF64 => max_f64(env, a, b),
        Op::AddF32 => add_f32(env, a as u32, b as u32) as u64,
        Op::MulF32 => mul_f32(env, a as u32, b as u32) as u64,
        Op::DivF32 => div_f32(env, a as u32, b as u32) as u64,
        Op::F64ToF32 => f64_to_f32(env, a) as u64,
        Op::F32ToF64 => f32_to_f64(env, a as u32),
    }
}

#[test]
fn recorded() {
    for &(op, mxcsr, operands, result, flags) in VECTORS {
        let mut env = Env::from_mxcsr(mxcsr);
        let ours = run(op, &mut env, operands);
        assert_eq!(
            (ours, env.flags),
            (result, flags),
            "{op:?} MXCSR {mxcsr:#x} {operands:x?}: {ours:#x}"
        );
    }
}
