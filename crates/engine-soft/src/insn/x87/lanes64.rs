//! 64-bit vectors as lanes.

use std::array::from_fn;

/// A vector whose byte `i` is `f(i)`.
#[inline(always)]
pub fn join_bytes(f: impl Fn(usize) -> u8) -> u64 {
    u64::from_le_bytes(from_fn(f))
}

/// A vector whose word `i` is `f(i)`.
#[inline(always)]
pub fn join_words(f: impl Fn(usize) -> u16) -> u64 {
    (0..4).fold(0, |v, i| v | (f(i) as u64) << (16 * i))
}

/// A vector whose doubleword `i` is `f(i)`.
#[inline(always)]
pub fn join_dwords(f: impl Fn(usize) -> u32) -> u64 {
    f(0) as u64 | (f(1) as u64) << 32
}

/// Applies `f` to unsigned bytes.
#[inline(always)]
pub fn bytes(a: u64, b: u64, f: impl Fn(u8, u8) -> u8) -> u64 {
    join_bytes(|i| f((a >> (8 * i)) as u8, (b >> (8 * i)) as u8))
}

/// Applies `f` to signed bytes.
#[inline(always)]
pub fn sbytes(a: u64, b: u64, f: impl Fn(i8, i8) -> i8) -> u64 {
    bytes(a, b, |x, y| f(x as i8, y as i8) as u8)
}

/// Applies `f` to unsigned words.
#[inline(always)]
pub fn words(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    join_words(|i| f((a >> (16 * i)) as u16, (b >> (16 * i)) as u16))
}

/// Applies `f` to signed words.
#[inline(always)]
pub fn swords(a: u64, b: u64, f: impl Fn(i16, i16) -> i16) -> u64 {
    words(a, b, |x, y| f(x as i16, y as i16) as u16)
}

/// Applies `f` to unsigned doublewords.
#[inline(always)]
pub fn dwords(a: u64, b: u64, f: impl Fn(u32, u32) -> u32) -> u64 {
    join_dwords(|i| f((a >> (32 * i)) as u32, (b >> (32 * i)) as u32))
}

/// Applies `f` to signed doublewords.
#[inline(always)]
pub fn sdwords(a: u64, b: u64, f: impl Fn(i32, i32) -> i32) -> u64 {
    dwords(a, b, |x, y| f(x as i32, y as i32) as u32)
}

/// Applies `f` to neighbouring words of `a`, then of `b`.
#[inline(always)]
pub fn horizontal_words(a: u64, b: u64, f: impl Fn(i16, i16) -> i16) -> u64 {
    join_words(|i| {
        let pair = if i < 2 { a } else { b } >> (32 * (i % 2));
        f(pair as i16, (pair >> 16) as i16) as u16
    })
}

/// Applies `f` to the doublewords of `a`, then to those of `b`.
#[inline(always)]
pub fn horizontal_dwords(a: u64, b: u64, f: impl Fn(i32, i32) -> i32) -> u64 {
    join_dwords(|i| {
        let pair = if i == 0 { a } else { b };
        f(pair as i32, (pair >> 32) as i32) as u32
    })
}

/// The nearest signed byte.
pub fn saturate_i8(v: i16) -> u8 {
    v.clamp(i8::MIN as i16, i8::MAX as i16) as u8
}

/// The nearest unsigned byte.
pub fn saturate_u8(v: i16) -> u8 {
    v.clamp(0, u8::MAX as i16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_places() {
        let v = 0x0102_0304_0506_0708;
        assert_eq!(bytes(v, 0, |x, _| x), v);
        assert_eq!(words(v, 0, |x, _| x), v);
        assert_eq!(dwords(v, 0, |x, _| x), v);
        assert_eq!(
            horizontal_words(0x0004_0003_0002_0001, 0x0040_0030_0020_0010, |x, y| x - y),
            0xfff0_fff0_ffff_ffff
        );
        assert_eq!(
            horizontal_dwords(0x2_0000_0001, 0x20_0000_0010, |x, y| x + y),
            0x30_0000_0003
        );
    }
}
