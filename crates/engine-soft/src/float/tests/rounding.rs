//! Relations that must hold between the rounding modes, for any operation.

use super::super::Env;
use super::super::soft::env::Rounding;
use super::super::soft::env::{OE, PE, UE};
use super::super::sse::*;
use super::Random;

/// Distance of two finite results of the same sign or of zero in units of the last place.
fn steps(low: u64, high: u64) -> i64 {
    let ordered = |bits: u64| {
        if bits >> 63 != 0 {
            i64::MIN.wrapping_sub(bits as i64)
        } else {
            bits as i64
        }
    };
    ordered(high).wrapping_sub(ordered(low))
}

#[test]
fn modes_bracket_the_exact_result() {
    let mut random = Random(4);
    type Operation = fn(&mut Env, u64, u64) -> u64;
    let operations: [Operation; 4] = [add_f64, sub_f64, mul_f64, div_f64];
    for i in 0..200_000 {
        let (a, b) = (random.value(52, 11), random.value(52, 11));
        let run = |rounding| {
            let mut env = Env {
                rounding,
                ..Env::default()
            };
            (operations[i % 4](&mut env, a, b), env.flags)
        };
        let (nearest, flags) = run(Rounding::Nearest);
        let (down, up, zero) = (run(Rounding::Down).0, run(Rounding::Up).0, run(Rounding::Zero).0);
        if f64::from_bits(nearest).is_nan() {
            continue;
        }
        if flags & PE == 0 {
            // Only the sign of a zero may depend on the mode.
            assert!(f64::from_bits(down) == f64::from_bits(nearest) && up == nearest && zero == nearest);
            continue;
        }
        assert_eq!(steps(down, up), 1, "{a:x} {b:x}: {down:x} {up:x}");
        assert!(nearest == down || nearest == up);
        assert_eq!(zero, if nearest >> 63 != 0 { up } else { down });
    }
}

#[test]
fn underflow_is_detected_after_rounding() {
    // The product rounds up to the smallest normal number. At full precision it is still below it for
    // the first pair and reaches it for the second.
    let just_below = 1.0f64.to_bits() - 1;
    for (a, b, expected) in [
        (f64::MIN_POSITIVE.to_bits(), just_below, UE | PE),
        (0x0010_0000_0000_0001, just_below, PE),
    ] {
        let mut env = Env::default();
        assert_eq!(mul_f64(&mut env, a, b), f64::MIN_POSITIVE.to_bits());
        assert_eq!(env.flags, expected);
    }
}

#[test]
fn flush_to_zero_needs_masked_underflow() {
    let (tiny, half) = (f64::MIN_POSITIVE.to_bits(), 0.5f64.to_bits());
    let mut env = Env {
        ftz: true,
        ..Env::default()
    };
    assert_eq!(mul_f64(&mut env, tiny, half), 0);
    assert_eq!(env.flags, UE | PE);

    let mut env = Env {
        ftz: true,
        masks: !UE,
        ..Env::default()
    };
    mul_f64(&mut env, tiny, half);
    assert_eq!(env.flags, UE);
    assert!(env.sse_fault());

    // An exact denormal result is no underflow while that is masked.
    let mut env = Env::default();
    assert_eq!(mul_f64(&mut env, tiny, half), tiny / 2);
    assert_eq!(env.flags, 0);
}

#[test]
fn overflow_depends_on_the_mode() {
    let most = f64::MAX.to_bits();
    let sign = 1 << 63;
    let infinity = f64::INFINITY.to_bits();
    for (rounding, positive, negative) in [
        (Rounding::Nearest, infinity, infinity),
        (Rounding::Down, most, infinity),
        (Rounding::Up, infinity, most),
        (Rounding::Zero, most, most),
    ] {
        let mut env = Env {
            rounding,
            ..Env::default()
        };
        assert_eq!(add_f64(&mut env, most, most), positive);
        assert_eq!(env.flags, OE | PE);
        assert_eq!(add_f64(&mut env, most | sign, most | sign), negative | sign);
    }
}
