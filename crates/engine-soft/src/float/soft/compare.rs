//! Ordering of two values.

use super::env::{DE, Env, IE};
use super::format::{Class, Format, Unpacked, operand};

/// The four mutually exclusive relations (SDM vol. 1 4.8.3.4 for the unordered one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// First below second.
    Less,
    /// Equal; zeros of either sign are.
    Equal,
    /// First above second.
    Greater,
    /// At least one NaN.
    Unordered,
}

/// Orders two unpacked values; anything without a numeric value is unordered.
#[inline]
pub fn relation(a: &Unpacked, b: &Unpacked) -> Relation {
    if a.is_nan() || b.is_nan() {
        return Relation::Unordered;
    }
    let key = |v: &Unpacked| {
        let rank = match v.class {
            Class::Zero => 0,
            Class::Infinite => 2,
            _ => 1,
        };
        (rank, v.exponent, v.significand)
    };
    let (ka, kb) = (key(a), key(b));
    let (a_negative, b_negative) = (a.sign && ka.0 != 0, b.sign && kb.0 != 0);
    if a_negative != b_negative {
        return if a_negative {
            Relation::Less
        } else {
            Relation::Greater
        };
    }
    match (ka.cmp(&kb), a_negative) {
        (std::cmp::Ordering::Equal, _) => Relation::Equal,
        (std::cmp::Ordering::Less, false) | (std::cmp::Ordering::Greater, true) => Relation::Less,
        _ => Relation::Greater,
    }
}

/// Compares under the SSE rules; `signaling` makes a quiet NaN invalid as well.
#[inline]
pub fn compare<F: Format>(env: &mut Env, a: u64, b: u64, signaling: bool) -> Relation {
    let a = operand::<F>(env, a);
    let b = operand::<F>(env, b);
    if a.is_nan() || b.is_nan() {
        if signaling || a.class == Class::Signaling || b.class == Class::Signaling {
            env.flags |= IE;
        }
        return Relation::Unordered;
    }
    if a.class == Class::Denormal || b.class == Class::Denormal {
        env.flags |= DE;
    }
    relation(&a, &b)
}
