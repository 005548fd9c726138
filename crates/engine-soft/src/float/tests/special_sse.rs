//! Special cases of the SSE helpers.

use super::super::soft::convert::{Integer, to_int};
use super::super::soft::env::Rounding;
use super::super::soft::env::{DE, IE, OE, PE, UE, ZE};
use super::super::soft::format::F64;
use super::super::sse::*;
use super::super::{Env, FmaSigns};

const QUIET: u64 = 0x7ff8_0000_0000_0001;
const SIGNALING: u64 = 0x7ff0_0000_0000_0002;
const INDEFINITE: u64 = 0xfff8_0000_0000_0000;
const INFINITY: u64 = 0x7ff0_0000_0000_0000;
const DENORMAL: u64 = 1;
const ONE: u64 = 0x3ff0_0000_0000_0000;
const SIGN: u64 = 1 << 63;

type Binary = fn(&mut Env, u64, u64) -> u64;

#[test]
fn invalid_and_nan() {
    let cases: &[(Binary, u64, u64, u64, u8)] = &[
        (add_f64, QUIET, SIGNALING, QUIET, IE),
        (add_f64, SIGNALING, QUIET, SIGNALING | 1 << 51, IE),
        (sub_f64, ONE, QUIET, QUIET, 0),
        (sub_f64, DENORMAL, QUIET, QUIET, 0),
        (sub_f64, INFINITY, INFINITY, INDEFINITE, IE),
        (mul_f64, 0, INFINITY | SIGN, INDEFINITE, IE),
        (div_f64, 0, SIGN, INDEFINITE, IE),
        (div_f64, INFINITY, INFINITY, INDEFINITE, IE),
        (div_f64, ONE, SIGN, INFINITY | SIGN, ZE),
        (div_f64, DENORMAL, 0, INFINITY, ZE),
        (div_f64, 0, DENORMAL, 0, DE),
        (div_f64, INFINITY, 0, INFINITY, 0),
        (min_f64, QUIET, ONE, ONE, IE),
        (min_f64, ONE, SIGNALING, SIGNALING, IE),
        (min_f64, 0, SIGN, SIGN, 0),
        (max_f64, SIGN, 0, 0, 0),
        (max_f64, DENORMAL, 0, DENORMAL, DE),
    ];
    for &(op, a, b, result, flags) in cases {
        let mut env = Env::default();
        assert_eq!((op(&mut env, a, b), env.flags), (result, flags), "{a:x} {b:x}");
    }
}

#[test]
fn denormals_are_zeros() {
    let mut env = Env {
        daz: true,
        ..Env::default()
    };
    assert_eq!(mul_f64(&mut env, DENORMAL | SIGN, ONE), SIGN);
    assert_eq!(max_f64(&mut env, DENORMAL, SIGN | ONE), 0);
    assert_eq!(cmp_f64(&mut env, DENORMAL, 0, 0), u64::MAX);
    assert_eq!(round_f64(&mut env, DENORMAL, 2), 0);
    assert_eq!(env.flags, 0);
    assert_eq!(div_f64(&mut env, ONE, DENORMAL), INFINITY);
    assert_eq!(env.flags, ZE);
}

#[test]
fn fma_precedence() {
    let fma = |a, b, c| {
        let mut env = Env::default();
        (
            fma_f64(
                &mut env,
                a,
                b,
                c,
                FmaSigns {
                    product: true,
                    addend: true,
                },
            ),
            env.flags,
        )
    };
    assert_eq!(fma(ONE, QUIET, QUIET + 1), (QUIET, 0));
    assert_eq!(fma(INFINITY, 0, QUIET), (QUIET, 0));
    assert_eq!(fma(INFINITY, 0, SIGNALING), (SIGNALING | 1 << 51, IE));
    assert_eq!(fma(INFINITY, 0, ONE), (INDEFINITE, IE));
    assert_eq!(fma(INFINITY, ONE, INFINITY | SIGN), (INDEFINITE, IE));
    assert_eq!(FmaForm::F132.order(1, 2, 3), (1, 3, 2));
    assert_eq!(FmaForm::F231.order(1, 2, 3), (2, 3, 1));
}

#[test]
fn predicates() {
    // Less, equal, greater, unordered for each predicate, and whether a quiet NaN is invalid.
    let operands = [(0, ONE), (ONE, ONE), (ONE, 0), (ONE, QUIET)];
    let holds = [
        "_e__", "l___", "le__", "___u", "l_gu", "_egu", "__gu", "leg_", "_e_u", "l__u", "le_u", "____",
        "l_g_", "_eg_", "__g_", "legu",
    ];
    for predicate in 0..32u8 {
        let signaling = matches!(predicate & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14) != (predicate >= 16);
        for (i, (a, b)) in operands.into_iter().enumerate() {
            let mut env = Env::default();
            let expected = holds[predicate as usize & 15].as_bytes()[i] != b'_';
            assert_eq!(
                cmp_f64(&mut env, a, b, predicate) != 0,
                expected,
                "{predicate} {i}"
            );
            assert_eq!(env.flags, if i == 3 && signaling { IE } else { 0 });
        }
    }
    let mut env = Env::default();
    assert_eq!(ucomis_f64(&mut env, QUIET, 0), ZF | PF | CF);
    assert_eq!(
        (comis_f64(&mut env, 0, SIGN), comis_f64(&mut env, 0, ONE)),
        (ZF, CF)
    );
    assert_eq!(env.flags, 0);
    comis_f64(&mut env, QUIET, 0);
    assert_eq!(env.flags, IE);
}

#[test]
fn integer_conversions() {
    let cases: &[(f64, Integer, Rounding, u64, u8)] = &[
        (2.5, Integer::I32, Rounding::Nearest, 2, PE),
        (-2.5, Integer::I32, Rounding::Down, (-3i32) as u32 as u64, PE),
        (2147483647.5, Integer::I32, Rounding::Zero, 0x7fff_ffff, PE),
        (2147483647.5, Integer::I32, Rounding::Nearest, 0x8000_0000, IE),
        (-2147483648.5, Integer::I32, Rounding::Nearest, 0x8000_0000, PE),
        (9.3e18, Integer::I64, Rounding::Zero, 1 << 63, IE),
        (-9223372036854775808.0, Integer::I64, Rounding::Zero, 1 << 63, 0),
        (f64::NAN, Integer::I64, Rounding::Zero, 1 << 63, IE),
        (-0.5, Integer::U32, Rounding::Nearest, 0, PE),
        (-1.0, Integer::U32, Rounding::Nearest, 0xffff_ffff, IE),
        (4294967295.0, Integer::U32, Rounding::Nearest, 0xffff_ffff, 0),
        (
            1.8e19,
            Integer::U64,
            Rounding::Nearest,
            18_000_000_000_000_000_000,
            0,
        ),
        (1e-310, Integer::I32, Rounding::Up, 1, PE),
    ];
    for &(value, to, rounding, result, flags) in cases {
        let mut env = Env::default();
        assert_eq!(
            (to_int::<F64>(&mut env, value.to_bits(), to, rounding), env.flags),
            (result, flags)
        );
    }
}

#[test]
fn half_precision() {
    let mut env = Env::default();
    assert_eq!(f16_to_f32(&mut env, 0x0001), 0x3380_0000);
    assert_eq!(f16_to_f32(&mut env, 0x7bff), 65504f32.to_bits());
    assert_eq!(f16_to_f32(&mut env, 0xfe01), 0xffc0_2000);
    assert_eq!(env.flags, 0);
    assert_eq!(f16_to_f32(&mut env, 0x7c01), 0x7fc0_2000);
    assert_eq!(env.flags, IE);

    let half = |value: f32, imm8| {
        let mut env = Env {
            ftz: true,
            ..Env::default()
        };
        (f32_to_f16(&mut env, value.to_bits(), imm8), env.flags)
    };
    assert_eq!(half(1.0, 0), (0x3c00, 0));
    assert_eq!(half(65520.0, 0), (0x7c00, OE | PE));
    assert_eq!(half(65536.0, 3), (0x7bff, OE | PE));
    assert_eq!(half(6e-8, 4), (0x0001, UE | PE));
}

#[test]
fn precomputation_exceptions_hide_later_ones() {
    // One lane divides by zero, the other is inexact.
    let mut env = Env {
        masks: !ZE,
        ..Env::default()
    };
    div_f64(&mut env, ONE, 0);
    div_f64(&mut env, ONE, 3.0f64.to_bits());
    assert_eq!((env.sse_flags(), env.sse_fault()), (ZE, true));
    env.masks = !0;
    assert_eq!((env.sse_flags(), env.sse_fault()), (ZE | PE, false));
}

#[test]
fn dot_products() {
    let lanes = |v: [f32; 4]| v.map(f32::to_bits);
    let mut env = Env::default();
    let result = dpps(
        &mut env,
        [lanes([1.0, 2.0, 3.0, 4.0])],
        [lanes([5.0, 6.0, 7.0, f32::NAN])],
        0x75,
    );
    assert_eq!(result, [lanes([38.0, 0.0, 38.0, 0.0])]);
    let result = dppd(&mut env, [2.0f64.to_bits(), 3.0f64.to_bits()], [ONE, ONE], 0x32);
    assert_eq!(result, [0, 5.0f64.to_bits()]);
    assert_eq!(env.flags, 0);
}

#[test]
fn approximations() {
    for bits in (0x0080_0000..0x7e80_0000u32).step_by(0x1234) {
        let a = f32::from_bits(bits) as f64;
        let check = |ours: u32, exact: f64| {
            let error = (f32::from_bits(ours) as f64 / exact - 1.0).abs();
            assert!(error <= 1.5 / 4096.0, "{a:e}: {error}");
        };
        check(rcp_f32(bits), 1.0 / a);
        check(rsqrt_f32(bits), 1.0 / a.sqrt());
    }
    let infinity = f32::INFINITY.to_bits();
    assert_eq!(
        (rcp_f32(0x8000_0001), rcp_f32(infinity), rcp_f32(0x7f00_0000)),
        (0xff80_0000, 0, 0)
    );
    assert_eq!(
        (rsqrt_f32(0x8000_0000), rsqrt_f32(0xbf80_0000)),
        (0xff80_0000, 0xffc0_0000)
    );
    assert_eq!((rsqrt_f32(infinity), rsqrt_f32(0x7f80_0001)), (0, 0x7fc0_0001));
}
