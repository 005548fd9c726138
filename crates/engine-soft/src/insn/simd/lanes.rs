//! Vectors as lanes of elements. Almost every vector instruction works on 128-bit lanes independently, so
//! the lane is the unit everything here is written in.

/// One 128-bit lane, element 0 in the low bits.
pub(crate) type V = u128;

/// A YMM register or its low half, as [`crate::cpu::Cpu::ymm`] keeps it.
pub(crate) type Y = [u64; 4];

/// The low lane.
#[inline(always)]
pub(crate) fn low(y: &Y) -> V {
    y[0] as V | (y[1] as V) << 64
}

/// The high lane.
#[inline(always)]
pub(crate) fn high(y: &Y) -> V {
    y[2] as V | (y[3] as V) << 64
}

/// Two lanes as a register.
#[inline(always)]
pub(crate) fn pair(lo: V, hi: V) -> Y {
    [lo as u64, (lo >> 64) as u64, hi as u64, (hi >> 64) as u64]
}

/// An integer that lanes are made of.
pub(crate) trait Element: Copy + Default + PartialOrd {
    /// Elements in a lane.
    const N: usize;
    /// Size in bits.
    const BITS: u32 = 128 / Self::N as u32;
    /// All bits set.
    const ONES: Self;
    /// Element `i`.
    fn at(v: V, i: usize) -> Self;
    /// `v` with element `i` replaced.
    fn with(self, v: V, i: usize) -> V;
    /// A lane whose element `i` is `f(i)`; `f` runs in order of `i`.
    fn build(f: impl FnMut(usize) -> Self) -> V;
    /// Applies `f` to each element.
    fn map(v: V, f: impl FnMut(Self) -> Self) -> V;
    /// Applies `f` to each pair of elements at the same place.
    fn zip(a: V, b: V, f: impl FnMut(Self, Self) -> Self) -> V;

    /// The same value in every element.
    #[inline(always)]
    fn splat(self) -> V {
        Self::build(|_| self)
    }

    /// The vector comparison: all ones where `f` holds, zero elsewhere.
    #[inline(always)]
    fn compare(a: V, b: V, mut f: impl FnMut(&Self, &Self) -> bool) -> V {
        Self::zip(a, b, |x, y| if f(&x, &y) { Self::ONES } else { Self::default() })
    }

    /// Horizontal operation: `f` on neighbours of `a`, then of `b`.
    #[inline(always)]
    fn neighbours(a: V, b: V, mut f: impl FnMut(Self, Self) -> Self) -> V {
        Self::build(|i| {
            let (v, at) = if i < Self::N / 2 {
                (a, 2 * i)
            } else {
                (b, 2 * i - Self::N)
            };
            f(Self::at(v, at), Self::at(v, at + 1))
        })
    }
}

macro_rules! element {
    ($t:ty, $n:literal, $ones:expr) => {
        impl Element for $t {
            const N: usize = $n;
            const ONES: Self = $ones;
            #[inline(always)]
            fn at(v: V, i: usize) -> Self {
                let bit = i as u32 * (128 / $n);
                let half = if bit & 64 == 0 {
                    v as u64
                } else {
                    (v >> 64) as u64
                };
                (half >> (bit & 63)) as $t
            }
            #[inline(always)]
            fn with(self, v: V, i: usize) -> V {
                let shift = i as u32 % $n * (128 / $n);
                v & !((V::MAX >> (128 - 128 / $n)) << shift)
                    | u128::from_le_bytes(widen(self.to_le_bytes())) << shift
            }
            #[inline(always)]
            fn build(f: impl FnMut(usize) -> Self) -> V {
                join(std::array::from_fn::<_, $n, _>(f).map(Self::to_le_bytes))
            }
            #[inline(always)]
            fn map(v: V, mut f: impl FnMut(Self) -> Self) -> V {
                let v = split::<$n, { 16 / $n }>(v);
                Self::build(|i| f(Self::from_le_bytes(v[i])))
            }
            #[inline(always)]
            fn zip(a: V, b: V, mut f: impl FnMut(Self, Self) -> Self) -> V {
                let (a, b) = (split::<$n, { 16 / $n }>(a), split::<$n, { 16 / $n }>(b));
                Self::build(|i| f(Self::from_le_bytes(a[i]), Self::from_le_bytes(b[i])))
            }
        }
    };
}
element!(u8, 16, u8::MAX);
element!(i8, 16, -1);
element!(u16, 8, u16::MAX);
element!(i16, 8, -1);
element!(u32, 4, u32::MAX);
element!(i32, 4, -1);
element!(u64, 2, u64::MAX);
element!(i64, 2, -1);

// Through byte arrays rather than shifts: the optimiser turns this shape into vector code.
#[inline(always)]
fn split<const N: usize, const S: usize>(v: V) -> [[u8; S]; N] {
    let bytes = v.to_le_bytes();
    let (chunks, _) = bytes.as_chunks::<S>();
    std::array::from_fn(|i| chunks[i])
}

#[inline(always)]
fn join<const N: usize, const S: usize>(a: [[u8; S]; N]) -> V {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(a.as_flattened());
    V::from_le_bytes(bytes)
}

#[inline(always)]
fn widen<const S: usize>(a: [u8; S]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..S].copy_from_slice(&a);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: V = 0x0f0e0d0c_0b0a0908_07060504_03020100;

    #[test]
    fn elements_count_from_the_low_end() {
        assert_eq!(u8::at(SAMPLE, 5), 5);
        assert_eq!(u16::at(SAMPLE, 1), 0x0302);
        assert_eq!(i32::at(SAMPLE, 3), 0x0f0e0d0c);
        assert_eq!(u64::at(SAMPLE, 1), 0x0f0e0d0c_0b0a0908);
        assert_eq!(u8::build(|i| i as u8), SAMPLE);
        assert_eq!(u16::map(SAMPLE, |x| x), SAMPLE);
        assert_eq!(u64::zip(SAMPLE, SAMPLE, |x, y| x ^ y), 0);
        assert_eq!(pair(SAMPLE, 7)[1..], [0x0f0e0d0c_0b0a0908, 7, 0]);
        assert_eq!((low(&pair(SAMPLE, 7)), high(&pair(SAMPLE, 7))), (SAMPLE, 7));
    }

    #[test]
    fn replacing_an_element_keeps_the_others() {
        for i in 0..8 {
            let v = 0xabcdu16.with(SAMPLE, i);
            for j in 0..8 {
                assert_eq!(u16::at(v, j), if i == j { 0xabcd } else { u16::at(SAMPLE, j) });
            }
        }
        assert_eq!((-1i8).with(0, 15), 0xff << 120);
        assert_eq!(u64::MAX.with(0, 1), (u64::MAX as V) << 64);
    }

    #[test]
    fn neighbours_come_from_both_operands() {
        let r = u8::neighbours(SAMPLE, SAMPLE, |x, y| x + y);
        assert_eq!(r as u64, 0x1d19_1511_0d09_0501);
        assert_eq!((r >> 64) as u64, r as u64);
    }

    #[test]
    fn comparisons_give_masks() {
        assert_eq!(i8::compare(0xff, 1, i8::gt), 0);
        assert_eq!(u8::compare(0xff, 1, u8::gt), 0xff);
        assert_eq!(u32::compare(SAMPLE, SAMPLE, u32::eq), V::MAX);
    }
}
