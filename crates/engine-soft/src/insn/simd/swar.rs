//! Arithmetic on all elements of a lane at once in one wide integer. The bytewise forms of these are where
//! string functions spend their time, and element by element they would take an order of magnitude longer.
//!
//! `T` gives the size of the elements; where signs matter there are two functions, so that signed and
//! unsigned types of a size are the same here.

use super::lanes::{Element, V};

/// Bit 0 of every element.
const fn ones<T: Element>() -> V {
    V::MAX / (V::MAX >> (128 - T::BITS))
}

/// The top bit of every element.
#[inline(always)]
const fn tops<T: Element>() -> V {
    ones::<T>() << (T::BITS - 1)
}

/// All ones in the elements whose top bit is set in `v`.
#[inline(always)]
pub(super) fn mask<T: Element>(v: V) -> V {
    let top = v & tops::<T>();
    (top - (top >> (T::BITS - 1))) | top
}

/// `a` where `mask` is ones, `b` where it is zero.
#[inline(always)]
pub(super) fn select(mask: V, a: V, b: V) -> V {
    b ^ (mask & (a ^ b))
}

/// Wrapping sum: the top bits are added apart from the others, so that nothing carries across.
#[inline(always)]
pub(super) fn add<T: Element>(a: V, b: V) -> V {
    let tops = tops::<T>();
    ((a & !tops) + (b & !tops)) ^ ((a ^ b) & tops)
}

/// Wrapping difference.
#[inline(always)]
pub(super) fn sub<T: Element>(a: V, b: V) -> V {
    let tops = tops::<T>();
    ((a | tops) - (b & !tops)) ^ ((a ^ !b) & tops)
}

/// Top bits set where the unsigned `a - b = d` borrows.
#[inline(always)]
fn borrows(a: V, b: V, d: V) -> V {
    (!a & b) | ((!a | b) & d)
}

/// The unsigned comparison `a < b`.
#[inline(always)]
fn below<T: Element>(a: V, b: V) -> V {
    mask::<T>(borrows(a, b, sub::<T>(a, b)))
}

/// The signed comparison `a > b`.
#[inline(always)]
pub(super) fn greater<T: Element>(a: V, b: V) -> V {
    below::<T>(b ^ tops::<T>(), a ^ tops::<T>())
}

/// The comparison `a == b`.
#[inline(always)]
pub(super) fn equal<T: Element>(a: V, b: V) -> V {
    let (x, rest) = (a ^ b, !tops::<T>());
    // Adding `rest` carries into the top bit from any other bit of the element.
    mask::<T>(!(((x & rest) + rest) | x))
}

/// Unsigned minimum.
#[inline(always)]
pub(super) fn min_unsigned<T: Element>(a: V, b: V) -> V {
    select(below::<T>(a, b), a, b)
}

/// Unsigned maximum.
#[inline(always)]
pub(super) fn max_unsigned<T: Element>(a: V, b: V) -> V {
    select(below::<T>(a, b), b, a)
}

/// Signed minimum.
#[inline(always)]
pub(super) fn min_signed<T: Element>(a: V, b: V) -> V {
    select(greater::<T>(b, a), a, b)
}

/// Signed maximum.
#[inline(always)]
pub(super) fn max_signed<T: Element>(a: V, b: V) -> V {
    select(greater::<T>(a, b), a, b)
}

/// Unsigned sum, all ones where it overflows.
#[inline(always)]
pub(super) fn add_unsigned<T: Element>(a: V, b: V) -> V {
    let sum = add::<T>(a, b);
    sum | mask::<T>((a & b) | ((a | b) & !sum))
}

/// Unsigned difference, zero where it overflows.
#[inline(always)]
pub(super) fn sub_unsigned<T: Element>(a: V, b: V) -> V {
    let difference = sub::<T>(a, b);
    difference & !mask::<T>(borrows(a, b, difference))
}

/// The largest or, where `a` is negative, the smallest signed value.
#[inline(always)]
fn limit<T: Element>(a: V) -> V {
    !tops::<T>() + (a >> (T::BITS - 1) & ones::<T>())
}

/// Signed sum with saturation.
#[inline(always)]
pub(super) fn add_signed<T: Element>(a: V, b: V) -> V {
    let sum = add::<T>(a, b);
    select(mask::<T>(!(a ^ b) & (a ^ sum)), limit::<T>(a), sum)
}

/// Signed difference with saturation.
#[inline(always)]
pub(super) fn sub_signed<T: Element>(a: V, b: V) -> V {
    let difference = sub::<T>(a, b);
    select(mask::<T>((a ^ b) & (a ^ difference)), limit::<T>(a), difference)
}

/// Absolute value; the smallest value stays.
#[inline(always)]
pub(super) fn absolute<T: Element>(a: V) -> V {
    let negative = mask::<T>(a);
    sub::<T>(a ^ negative, negative)
}

/// `a` with the sign of `b`, zero where that is zero (PSIGNx).
#[inline(always)]
pub(super) fn sign<T: Element>(a: V, b: V) -> V {
    let negative = mask::<T>(b);
    sub::<T>(a ^ negative, negative) & !equal::<T>(b, 0)
}

/// The unsigned mean, rounded up.
#[inline(always)]
pub(super) fn average<T: Element>(a: V, b: V) -> V {
    (a | b) - ((a ^ b) >> 1 & !tops::<T>())
}

/// The elements of the low half of `v`, each in one of twice the size.
#[inline(always)]
pub(super) fn spread<T: Element>(v: V) -> V {
    let mut v = v & u64::MAX as V;
    let mut shift = 32;
    while shift >= T::BITS {
        v = (v | v << shift) & (V::MAX / (((1 as V) << shift) + 1));
        shift /= 2;
    }
    v
}

/// The low half of every element of twice the size of `T`, together in the low half.
#[inline(always)]
pub(super) fn gather<T: Element>(v: V) -> V {
    let mut shift = T::BITS;
    let mut v = v & (V::MAX / (((1 as V) << shift) + 1));
    while shift < 64 {
        v = (v | v >> shift) & (V::MAX / (((1 as V) << (2 * shift)) + 1));
        shift *= 2;
    }
    v & u64::MAX as V
}

/// The sum of the bytes of each quadword.
#[inline(always)]
pub(super) fn sum_bytes(v: V) -> V {
    let pairs = (v & EVEN_BYTES) + (v >> 8 & EVEN_BYTES);
    u64::map(pairs, |q| q.wrapping_mul(0x0001_0001_0001_0001) >> 48)
}

const EVEN_BYTES: V = V::MAX / 0x101;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lanes that between them have every pair of bytes.
    fn every_pair(mut f: impl FnMut(V, V)) {
        for a in (0..=255u8).step_by(16) {
            for b in 0..=255u8 {
                f(u8::build(|i| a + i as u8), b.splat());
            }
        }
    }

    #[test]
    fn bytes_agree_with_the_elementwise_definitions() {
        every_pair(|a, b| {
            assert_eq!(add::<u8>(a, b), u8::zip(a, b, u8::wrapping_add));
            assert_eq!(sub::<u8>(a, b), u8::zip(a, b, u8::wrapping_sub));
            assert_eq!(add_unsigned::<u8>(a, b), u8::zip(a, b, u8::saturating_add));
            assert_eq!(sub_unsigned::<u8>(a, b), u8::zip(a, b, u8::saturating_sub));
            assert_eq!(add_signed::<u8>(a, b), i8::zip(a, b, i8::saturating_add));
            assert_eq!(sub_signed::<u8>(a, b), i8::zip(a, b, i8::saturating_sub));
            assert_eq!(
                equal::<u8>(a, b),
                u8::zip(a, b, |x, y| if x == y { 255 } else { 0 })
            );
            assert_eq!(greater::<u8>(a, b), i8::zip(a, b, |x, y| -((x > y) as i8)));
            assert_eq!(min_unsigned::<u8>(a, b), u8::zip(a, b, u8::min));
            assert_eq!(max_unsigned::<u8>(a, b), u8::zip(a, b, u8::max));
            assert_eq!(min_signed::<u8>(a, b), i8::zip(a, b, i8::min));
            assert_eq!(max_signed::<u8>(a, b), i8::zip(a, b, i8::max));
            assert_eq!(
                average::<u8>(a, b),
                u8::zip(a, b, |x, y| (x as u16 + y as u16).div_ceil(2) as u8)
            );
            assert_eq!(sign::<u8>(a, b), i8::zip(a, b, |x, y| x.wrapping_mul(y.signum())));
            assert_eq!(absolute::<u8>(a), i8::map(a, i8::wrapping_abs));
        });
    }

    #[test]
    fn wider_elements_agree_too() {
        every_pair(|a, b| {
            // Spread the interesting values to the ends of words.
            let (a, b) = (a ^ a << 56, b ^ b >> 57);
            assert_eq!(add::<u16>(a, b), u16::zip(a, b, u16::wrapping_add));
            assert_eq!(sub::<u32>(a, b), u32::zip(a, b, u32::wrapping_sub));
            assert_eq!(sub_signed::<u16>(a, b), i16::zip(a, b, i16::saturating_sub));
            assert_eq!(greater::<u64>(a, b), i64::zip(a, b, |x, y| -((x > y) as i64)));
            assert_eq!(min_signed::<u32>(a, b), i32::zip(a, b, i32::min));
            assert_eq!(
                equal::<u64>(a, b),
                u64::zip(a, b, |x, y| if x == y { u64::MAX } else { 0 })
            );
            assert_eq!(absolute::<u32>(a), i32::map(a, i32::wrapping_abs));
        });
    }

    #[test]
    fn spreading_and_gathering() {
        let v = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
        assert_eq!(spread::<u8>(v), 0x0007_0006_0005_0004_0003_0002_0001_0000);
        assert_eq!(spread::<u16>(v), 0x0000_0706_0000_0504_0000_0302_0000_0100);
        assert_eq!(spread::<u32>(v), 0x0000_0000_0706_0504_0000_0000_0302_0100);
        assert_eq!(gather::<u8>(v), 0x0e0c_0a08_0604_0200);
        assert_eq!(gather::<u16>(v), 0x0d0c_0908_0504_0100);
        assert_eq!(gather::<u32>(v), 0x0b0a_0908_0302_0100);
        assert_eq!(sum_bytes(V::MAX), 2040 << 64 | 2040);
    }
}
