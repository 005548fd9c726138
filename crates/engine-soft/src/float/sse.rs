//! Scalar lane operations of the SSE, AVX, FMA and F16C instructions.
//!
//! Every function works on the bit pattern of one lane and collects exceptions in the [`Env`]; a packed
//! instruction calls it once per lane with the same `Env` and asks [`Env::sse_flags`] and
//! [`Env::sse_fault`] afterwards. "First" and "second" operand are those of SDM vol. 1 table 4-7: for a
//! two-operand form the destination is the first, for a VEX form the `vvvv` register is.
//!
//! [`Env`]: super::Env
//! [`Env::sse_flags`]: super::Env::sse_flags
//! [`Env::sse_fault`]: super::Env::sse_fault

mod approximate;
mod arith;
mod compare;
mod convert;
mod dot;

pub use approximate::{rcp_f32, rsqrt_f32};
pub use arith::{
    FmaForm, add_f32, add_f64, div_f32, div_f64, fma_f32, fma_f64, max_f32, max_f64, min_f32, min_f64,
    mul_f32, mul_f64, sqrt_f32, sqrt_f64, sub_f32, sub_f64,
};
pub use compare::{CF, PF, ZF, cmp_f32, cmp_f64, comis_f32, comis_f64, ucomis_f32, ucomis_f64};
pub use convert::{
    f16_to_f32, f32_to_f16, f32_to_f64, f32_to_i32, f32_to_i32_truncate, f32_to_i64, f32_to_i64_truncate,
    f64_to_f32, f64_to_i32, f64_to_i32_truncate, f64_to_i64, f64_to_i64_truncate, i32_to_f32, i32_to_f64,
    i64_to_f32, i64_to_f64, round_f32, round_f64,
};
pub use dot::{dppd, dpps};
