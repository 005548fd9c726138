//! Against Rust's native arithmetic: round to nearest, results only. NaNs are compared as such, since
//! their payloads are the host's business.

use super::super::sse::*;
use super::super::{Env, FmaSigns};
use super::Random;

const CASES: usize = 100_000;

fn same32(ours: u32, host: f32, what: &str, operands: &[f32]) {
    let ours = f32::from_bits(ours);
    let equal = ours.to_bits() == host.to_bits() || (ours.is_nan() && host.is_nan());
    assert!(equal, "{what} of {operands:?}: {ours:e}, host {host:e}");
}

fn same64(ours: u64, host: f64, what: &str, operands: &[f64]) {
    let ours = f64::from_bits(ours);
    let equal = ours.to_bits() == host.to_bits() || (ours.is_nan() && host.is_nan());
    assert!(equal, "{what} of {operands:?}: {ours:e}, host {host:e}");
}

#[test]
fn single_precision() {
    let mut random = Random(1);
    let env = &mut Env::default();
    for _ in 0..CASES {
        let (a, b, c) = (random.f32(), random.f32(), random.f32());
        let (x, y, z) = (a.to_bits(), b.to_bits(), c.to_bits());
        same32(add_f32(env, x, y), a + b, "sum", &[a, b]);
        same32(sub_f32(env, x, y), a - b, "difference", &[a, b]);
        same32(mul_f32(env, x, y), a * b, "product", &[a, b]);
        same32(div_f32(env, x, y), a / b, "quotient", &[a, b]);
        same32(sqrt_f32(env, x), a.sqrt(), "root", &[a]);
        same32(
            fma_f32(env, x, y, z, FmaSigns::default()),
            a.mul_add(b, c),
            "fma",
            &[a, b, c],
        );
        same32(round_f32(env, x, 0), a.round_ties_even(), "nearest integer", &[a]);
        same32(round_f32(env, x, 3), a.trunc(), "integer part", &[a]);
        same64(f32_to_f64(env, x), a as f64, "widening", &[a as f64]);
    }
}

#[test]
fn double_precision() {
    let mut random = Random(2);
    let env = &mut Env::default();
    for _ in 0..CASES {
        let (a, b, c) = (random.f64(), random.f64(), random.f64());
        let (x, y, z) = (a.to_bits(), b.to_bits(), c.to_bits());
        same64(add_f64(env, x, y), a + b, "sum", &[a, b]);
        same64(sub_f64(env, x, y), a - b, "difference", &[a, b]);
        same64(mul_f64(env, x, y), a * b, "product", &[a, b]);
        same64(div_f64(env, x, y), a / b, "quotient", &[a, b]);
        same64(sqrt_f64(env, x), a.sqrt(), "root", &[a]);
        same64(
            fma_f64(env, x, y, z, FmaSigns::default()),
            a.mul_add(b, c),
            "fma",
            &[a, b, c],
        );
        same64(round_f64(env, x, 1), a.floor(), "floor", &[a]);
        same64(round_f64(env, x, 2), a.ceil(), "ceiling", &[a]);
        same32(f64_to_f32(env, x), a as f32, "narrowing", &[a as f32]);
    }
}

#[test]
fn integers() {
    let mut random = Random(3);
    let env = &mut Env::default();
    for _ in 0..CASES {
        let n = random.next() >> (random.next() % 64);
        let signed = n as i64;
        same64(i64_to_f64(env, n), signed as f64, "integer", &[]);
        same32(i64_to_f32(env, n), signed as f32, "integer", &[]);
        same32(i32_to_f32(env, n as u32), n as i32 as f32, "integer", &[]);
        same64(i32_to_f64(env, n as u32), n as i32 as f64, "integer", &[]);
        let a = random.f64();
        if a.abs() < i64::MAX as f64 {
            assert_eq!(f64_to_i64_truncate(env, a.to_bits()) as i64, a as i64, "{a:e}");
        }
        if a.abs() < i32::MAX as f64 {
            assert_eq!(f64_to_i32_truncate(env, a.to_bits()) as i32, a as i32, "{a:e}");
            assert_eq!(
                f64_to_i32(env, a.to_bits()) as i32,
                a.round_ties_even() as i32,
                "{a:e}"
            );
        }
    }
}
