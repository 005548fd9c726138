//! The x87 operations against recorded executions.

use super::super::Env;
use super::super::x87::*;
use super::x87_vectors::VECTORS;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    RoundToInt,
    Scale,
    Prem,
    Prem1,
}

#[test]
fn recorded() {
    for &(op, fcw, a, b, result, status) in VECTORS {
        let register = |image: u128| F80 {
            significand: image as u64,
            sign_exponent: (image >> 64) as u16,
        };
        let (a, b, result) = (register(a), register(b), register(result));
        let mut env = Env::from_fcw(fcw);
        let mut codes = None;
        let mut partial = |remainder: Remainder| {
            codes = Some(remainder.codes);
            remainder.value
        };
        let ours = match op {
            Op::Add => add(&mut env, a, b),
            Op::Sub => sub(&mut env, a, b),
            Op::Mul => mul(&mut env, a, b),
            Op::Div => div(&mut env, a, b),
            Op::Sqrt => sqrt(&mut env, a),
            Op::RoundToInt => round_to_int(&mut env, a),
            Op::Scale => scale(&mut env, a, b),
            Op::Prem => partial(remainder_truncate(&mut env, a, b)),
            Op::Prem1 => partial(remainder_nearest(&mut env, a, b)),
        };
        let codes = codes.unwrap_or(if env.rounded_up { C1 } else { 0 });
        let ours = (ours, codes | env.flags as u16);
        assert_eq!(ours, (result, status), "{op:?} FCW {fcw:#x} {a:x?} {b:x?}");
    }
}
