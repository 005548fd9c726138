//! FCOM, FUCOM, their FxxI forms, FTST and FXAM.

use super::super::soft::compare::{Relation, relation};
use super::super::soft::env::{Env, IE};
use super::super::soft::format::{Class, Unpacked};
use super::deliver::denormal_stops;
use super::{C0, C1, C2, C3, F80};

fn ordered(env: &mut Env, a: Unpacked, b: Unpacked, quiet_is_invalid: bool) -> Relation {
    if a.is_nan() || b.is_nan() {
        let quiet = |v: &Unpacked| v.class <= Class::Quiet;
        if quiet_is_invalid || !quiet(&a) || !quiet(&b) {
            env.flags |= IE;
        }
        return Relation::Unordered;
    }
    denormal_stops(env, &a, &b);
    relation(&a, &b)
}

/// FCOM, FCOMI and their popping forms: every NaN is invalid.
pub fn compare(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> Relation {
    ordered(env, a.into(), b.into(), true)
}

/// FUCOM, FUCOMI and their popping forms: quiet NaNs are not invalid.
pub fn compare_unordered(env: &mut Env, a: impl Into<Unpacked>, b: impl Into<Unpacked>) -> Relation {
    ordered(env, a.into(), b.into(), false)
}

/// FTST: compares with zero.
pub fn test(env: &mut Env, a: F80) -> Relation {
    compare(env, a, F80::ZERO)
}

/// C3, C2 and C0 of a comparison (SDM vol. 1 8.3.6); the instructions clear C1.
pub fn condition_codes(relation: Relation) -> u16 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => C0,
        Relation::Equal => C3,
        Relation::Unordered => C3 | C2 | C0,
    }
}

/// ZF, PF and CF of the FxxI forms (SDM vol. 1 8.3.6) as RFLAGS bits.
pub fn rflags(relation: Relation) -> u32 {
    use super::super::sse::{CF, PF, ZF};
    match relation {
        Relation::Greater => 0,
        Relation::Less => CF,
        Relation::Equal => ZF,
        Relation::Unordered => ZF | PF | CF,
    }
}

/// FXAM of a register that is not empty: C3, C2, C0 for the class and C1 for the sign (SDM vol. 1
/// 8.3.6 and vol. 2, FXAM). An empty register gives `C3 | C0` and the sign of its contents.
pub fn examine(a: F80) -> u16 {
    let class = match a.unpack().class {
        Class::Unsupported => 0,
        Class::Quiet | Class::Signaling => C0,
        Class::Normal => C2,
        Class::Infinite => C2 | C0,
        Class::Zero => C3,
        Class::Denormal => C3 | C2,
    };
    class | if a.sign() { C1 } else { 0 }
}
