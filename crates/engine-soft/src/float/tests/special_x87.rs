//! Special cases of the x87 operations.

use super::super::Env;
use super::super::soft::compare::Relation;
use super::super::soft::convert::Integer;
use super::super::soft::env::Rounding;
use super::super::soft::env::{ALL, DE, IE, OE, PE, UE, ZE};
use super::super::x87::*;

fn env() -> Env {
    Env::from_fcw(0x37f)
}

fn value(x: f64) -> F80 {
    load_f64(&mut env(), x.to_bits())
}

fn ulps(a: F80, b: F80) -> u64 {
    assert_eq!(a.sign_exponent, b.sign_exponent, "{a:x?} {b:x?}");
    a.significand.abs_diff(b.significand)
}

#[test]
fn encodings() {
    let infinity = F80::from_bytes([0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]);
    assert_eq!(infinity.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]);
    let f80 = |sign_exponent, significand| F80 {
        significand,
        sign_exponent,
    };
    let cases = [
        (F80::ZERO, C3),
        (F80::ONE, C2),
        (infinity, C2 | C0),
        (F80::INDEFINITE, C1 | C0),
        (f80(0x7fff, 1 << 63 | 1), C0),
        (f80(0x8000, 1), C1 | C3 | C2),
        // Pseudo-denormal, pseudo-zero, unnormal, pseudo-infinity, pseudo-NaN.
        (f80(0, 1 << 63), C3 | C2),
        (f80(1, 0), 0),
        (f80(0x4000, 1), 0),
        (f80(0x7fff, 0), 0),
        (f80(0xffff, 1), C1),
    ];
    for (x, codes) in cases {
        assert_eq!(examine(x), codes, "{x:x?}");
        if codes & !C1 == 0 {
            let mut env = env();
            assert_eq!((add(&mut env, x, F80::ONE), env.flags), (F80::INDEFINITE, IE));
        }
    }
}

#[test]
fn nan_precedence() {
    let nan = |sign_exponent, payload: u64| F80 {
        significand: 1 << 63 | payload,
        sign_exponent,
    };
    let quiet = 1 << 62;
    // The larger significand, a quiet one before a signaling one, the positive one among equals.
    let cases = [
        (
            nan(0xffff, quiet | 1),
            nan(0x7fff, quiet | 2),
            nan(0x7fff, quiet | 2),
            0,
        ),
        (nan(0x7fff, quiet | 1), nan(0x7fff, 2), nan(0x7fff, quiet | 1), IE),
        (nan(0x7fff, 3), nan(0xffff, 2), nan(0x7fff, quiet | 3), IE),
        (nan(0xffff, quiet), nan(0x7fff, quiet), nan(0x7fff, quiet), 0),
    ];
    for (a, b, result, flags) in cases {
        let mut env = env();
        assert_eq!((mul(&mut env, a, b), env.flags), (result, flags));
        assert_eq!(mul(&mut env, b, a), result);
    }
}

#[test]
fn precision_control() {
    let third = |fcw| {
        let mut env = Env::from_fcw(fcw);
        (div(&mut env, F80::ONE, value(3.0)).significand, env.rounded_up)
    };
    assert_eq!(third(0x037f), (0xaaaa_aaaa_aaaa_aaab, true));
    assert_eq!(third(0x027f), (0xaaaa_aaaa_aaaa_a800, false));
    assert_eq!(third(0x007f), (0xaaaa_ab00_0000_0000, true));
}

#[test]
fn unmasked_responses() {
    let unmasked = |flag: u8| Env {
        masks: ALL & !flag,
        ..env()
    };
    let huge = F80 {
        significand: 1 << 63,
        sign_exponent: 0x7ffe,
    };
    let tiny = F80 {
        significand: 1 << 63,
        sign_exponent: 1,
    };

    let mut env = unmasked(OE);
    assert_eq!(
        mul(&mut env, huge, huge).sign_exponent,
        (2 * 0x7ffe - 16383 - 24576) as u16
    );
    assert_eq!((env.flags, env.x87_writes_register()), (OE, true));

    let mut env = unmasked(UE);
    assert_eq!(
        mul(&mut env, tiny, tiny).sign_exponent,
        (2 - 16383 + 24576) as u16
    );
    assert_eq!((env.flags, env.x87_writes_register()), (UE, true));

    let mut env = unmasked(DE);
    div(
        &mut env,
        F80 {
            significand: 1,
            sign_exponent: 0,
        },
        value(3.0),
    );
    assert_eq!((env.flags, env.x87_writes_register()), (DE, false));

    let mut env = unmasked(OE);
    store_f32(&mut env, huge);
    assert_eq!((env.flags, env.x87_writes_memory()), (OE, false));

    let mut env = unmasked(PE);
    let pi = constant(&env, Constant::Pi);
    store_f32(&mut env, pi);
    assert_eq!((env.flags, env.x87_writes_memory()), (PE, true));

    let mut env = unmasked(DE);
    assert_eq!(load_f64(&mut env, 1).sign_exponent, 16383 - 1074);
    assert_eq!((env.flags, env.x87_writes_load()), (DE, true));
}

#[test]
fn stores_and_loads() {
    let mut e = env();
    assert_eq!(store_int(&mut e, value(-2.5), Integer::I16), 0xfffe);
    assert_eq!(
        store_int_truncate(&mut e, value(-2.9), Integer::I64),
        -2i64 as u64
    );
    assert_eq!(e.flags, PE);
    assert_eq!(store_int(&mut e, value(32767.5), Integer::I16), 0x8000);
    assert_eq!(e.flags, PE | IE);
    assert_eq!(store_f64(&mut e, load_int(i64::MIN)), (i64::MIN as f64).to_bits());

    let digits = [0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0x80];
    assert_eq!(load_bcd(digits), load_int(-1_234_567_890));
    assert_eq!(store_bcd(&mut e, load_int(-1_234_567_890)), digits);
    let mut e = env();
    assert_eq!(
        store_bcd(&mut e, load_int(1_000_000_000_000_000_000))[7..],
        [0xc0, 0xff, 0xff]
    );
    assert_eq!(e.flags, IE);
}

#[test]
fn comparisons() {
    let mut e = env();
    assert_eq!(compare(&mut e, value(-0.0), F80::ZERO), Relation::Equal);
    assert_eq!(
        compare(&mut e, value(-1.0), operand_f32(0xbf00_0000)),
        Relation::Less
    );
    assert_eq!(
        compare_unordered(&mut e, F80::INDEFINITE, F80::ONE),
        Relation::Unordered
    );
    assert_eq!(e.flags, 0);
    assert_eq!(condition_codes(test(&mut e, F80::INDEFINITE)), C3 | C2 | C0);
    assert_eq!(e.flags, IE);
}

#[test]
fn extract_and_scale() {
    let mut e = env();
    assert_eq!(extract(&mut e, value(-12.0)), (value(3.0), value(-1.5)));
    assert_eq!(scale(&mut e, value(-1.5), value(3.9)), value(-12.0));
    assert_eq!(e.flags, 0);
    assert_eq!(
        extract(&mut e, value(-0.0)),
        (value(f64::NEG_INFINITY), value(-0.0))
    );
    assert_eq!(e.flags, ZE);
}

#[test]
fn transcendentals_at_special_points() {
    let (zero, one, infinity) = (F80::ZERO, F80::ONE, value(f64::INFINITY));
    let run = |op: &dyn Fn(&mut Env) -> F80| {
        let mut env = env();
        (op(&mut env), env.flags)
    };
    assert_eq!(run(&|e| two_to_x_minus_1(e, value(-0.0))), (value(-0.0), 0));
    assert_eq!(run(&|e| two_to_x_minus_1(e, value(-1.0))).0, value(-0.5));
    assert_eq!(run(&|e| y_log2_x(e, one, zero)), (value(f64::NEG_INFINITY), ZE));
    assert_eq!(run(&|e| y_log2_x(e, zero, zero)), (F80::INDEFINITE, IE));
    assert_eq!(run(&|e| y_log2_x(e, one, value(-1.0))), (F80::INDEFINITE, IE));
    assert_eq!(run(&|e| y_log2_x(e, value(3.0), value(0.125))).0, value(-9.0));
    assert_eq!(run(&|e| y_log2_x(e, value(-1.0), one)), (value(-0.0), 0));
    assert_eq!(run(&|e| y_log2_x(e, infinity, one)), (F80::INDEFINITE, IE));
    assert_eq!(run(&|e| angle(e, value(-0.0), one)), (value(-0.0), 0));
    let pi = constant(&env(), Constant::Pi);
    assert_eq!(run(&|e| angle(e, zero, value(-0.0))), (pi, PE));
    assert_eq!(
        run(&|e| angle(e, infinity, one)),
        (scale(&mut env(), pi, value(-1.0)), PE)
    );

    let mut e = env();
    assert_eq!(cos(&mut e, zero), Trig::Done(one));
    assert_eq!(tan(&mut e, value(-0.0)), Trig::Done((value(-0.0), one)));
    assert_eq!(sin(&mut e, value(9223372036854775808.0)), Trig::OutOfRange);
    assert_eq!(e.flags, 0);
    assert_eq!(sin(&mut e, infinity), Trig::Done(F80::INDEFINITE));
    assert_eq!(e.flags, IE);
}

#[test]
fn sine_near_pi_shows_the_66_bit_pi() {
    // 66-bit pi minus pi cut to 64 bits leaves the last two bits, exactly 1.5 * 2^-63. The true pi would
    // give a full significand.
    let pi = constant(
        &Env {
            rounding: Rounding::Zero,
            ..env()
        },
        Constant::Pi,
    );
    let Trig::Done(sine) = sin(&mut env(), pi) else {
        panic!("pi is in range")
    };
    assert_eq!(
        sine,
        F80 {
            significand: 3 << 62,
            sign_exponent: 16383 - 63
        }
    );
}

#[test]
fn transcendentals_agree_with_each_other() {
    let mut e = env();
    for i in 1..500 {
        let x = div(&mut e, load_int(i), load_int(500));
        // atan(tan x) = x below pi/2, and log2(1 + (2^x - 1)) = x.
        let Trig::Done((tangent, one)) = tan(&mut e, x) else {
            panic!("in range")
        };
        assert!(ulps(angle(&mut e, tangent, one), x) <= 1);
        let power = two_to_x_minus_1(&mut e, x);
        assert!(ulps(y_log2_x_plus_1(&mut e, F80::ONE, power), x) <= 2);
        let power = add(&mut e, power, F80::ONE);
        let logarithm = y_log2_x(&mut e, F80::ONE, power);
        let error = sub(&mut e, logarithm, x);
        assert!(error.sign_exponent & 0x7fff <= 16383 - 63 + 1);
        let Trig::Done((s, c)) = sin_cos(&mut e, x) else {
            panic!("in range")
        };
        assert_eq!((Trig::Done(s), Trig::Done(c)), (sin(&mut e, x), cos(&mut e, x)));
        assert!(ulps(div(&mut e, s, c), tangent) <= 3);
    }
}
