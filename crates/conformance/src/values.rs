//! Operand values: mostly those at which arithmetic changes its mind.

use crate::rng::Rng;

/// An integer of `bits` bits, zero-extended.
pub fn integer(rng: &mut Rng, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let sign = 1u64 << (bits - 1);
    let v = match rng.below(16) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => sign,
        4 => sign - 1,
        5 => 1 << rng.below(bits as u64),
        6 => (1u64 << rng.below(bits as u64)).wrapping_sub(1),
        7 => !(1u64 << rng.below(bits as u64)),
        8 => rng.below(64),
        9 => rng.below(64).wrapping_neg(),
        10 => sign.wrapping_add(rng.range(-3, 3) as u64),
        // Boundaries of the narrower sizes.
        11 => rng.pick(&[
            0x7f,
            0x80,
            0xff,
            0x100,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ]),
        12 => rng
            .pick(&[0x7fu64, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000])
            .wrapping_neg(),
        13 => rng.draw() & rng.draw() & rng.draw(),
        _ => rng.draw(),
    };
    v & mask
}

/// An encoding of binary32 or binary64, by its widths.
fn binary(rng: &mut Rng, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let fraction_mask = (1u64 << fraction_bits) - 1;
    let exponent_max = (1u64 << exponent_bits) - 1;
    let bias = exponent_max >> 1;
    let fraction = match rng.below(8) {
        0 => 0,
        1 => fraction_mask,
        2 => 1,
        3 => 1 << (fraction_bits - 1),
        4 => 1 << rng.below(fraction_bits as u64),
        // Few significant bits, so that sums and products are often exact or ties.
        5 => rng.draw() & fraction_mask & (fraction_mask << (fraction_bits - 6)),
        _ => rng.draw() & fraction_mask,
    };
    let (exponent, fraction) = match rng.below(20) {
        0 => (0, 0),
        1 => (0, fraction),
        2 => (exponent_max, 0),
        // Quiet and signalling NaNs.
        3 => (exponent_max, fraction | 1 << (fraction_bits - 1)),
        4 => (exponent_max, (fraction & (fraction_mask >> 1)) | 1),
        5 => (1, fraction),
        6 => (exponent_max - 1, fraction),
        // Where conversions to 32 and 64 bits run over.
        7 => (bias + rng.pick(&[30u64, 31, 32, 62, 63, 64]), fraction),
        8 => (bias + rng.below(fraction_bits as u64 + 3), fraction),
        9 => (bias.wrapping_sub(1 + rng.below(3)), fraction),
        10 => (bias, 0),
        11..16 => (bias - 4 + rng.below(9), fraction),
        // Around the square roots of the largest and smallest numbers, where products run over.
        16 => (bias / 2 + rng.below(4), fraction),
        17 => (bias + bias / 2 + rng.below(4), fraction),
        _ => (rng.draw() & exponent_max, fraction),
    };
    let sign = rng.draw() & 1;
    sign << (exponent_bits + fraction_bits) | (exponent & exponent_max) << fraction_bits | fraction
}

/// Binary32.
pub fn single(rng: &mut Rng) -> u32 {
    binary(rng, 8, 23) as u32
}

/// Binary64.
pub fn double(rng: &mut Rng) -> u64 {
    binary(rng, 11, 52)
}

/// Binary16.
pub fn half(rng: &mut Rng) -> u16 {
    binary(rng, 5, 10) as u16
}

/// Double extended: significand, sign and exponent, of every class of Intel SDM vol. 1 table 8-3,
/// the unsupported encodings included.
pub fn extended(rng: &mut Rng) -> (u64, u16) {
    const ONE: u64 = 1 << 63;
    let fraction = match rng.below(8) {
        0 => 0,
        1 => u64::MAX >> 1,
        2 => 1,
        3 => 1 << 62,
        // Representable as binary64 or binary32, or just not.
        4 => (rng.draw() >> 1) & !0x7ff,
        5 => (rng.draw() >> 1) & !0xff_ffff_ffff,
        6 => (rng.draw() >> 1) & !0x3ff,
        _ => rng.draw() >> 1,
    };
    let (significand, exponent) = match rng.below(24) {
        0 => (0, 0),
        1 => (fraction, 0),
        2 => (ONE | fraction, 0),
        3 => (ONE, 0x7fff),
        4 => (ONE | 1 << 62 | fraction, 0x7fff),
        5 => (ONE | (fraction & !(1 << 62)) | 1, 0x7fff),
        // Pseudo-infinity, pseudo-NaN, unnormal.
        6 => (if rng.chance(1, 2) { 0 } else { fraction }, 0x7fff),
        7 => (fraction, 1 + rng.below(0x7ffe) as u16),
        8 => (ONE | fraction, 0x7ffe),
        9 => (ONE | fraction, 1),
        10 => (
            ONE | fraction,
            0x3fff + rng.pick(&[14u16, 15, 16, 30, 31, 32, 62, 63, 64]),
        ),
        // The edges of binary32 and binary64.
        11 => (ONE | fraction, 0x3fff + rng.pick(&[127u16, 128, 1023, 1024])),
        12 => (
            ONE | fraction,
            0x3fff - rng.pick(&[126u16, 127, 149, 150, 1022, 1023, 1074, 1075]),
        ),
        13 => (ONE, 0x3fff),
        14 => (ONE | fraction, rng.below(0x7fff) as u16),
        15 => (ONE | fraction, 0x3fff - 1 - rng.below(4) as u16),
        16 => (ONE | fraction, 0x3fff + rng.below(66) as u16),
        _ => (ONE | fraction, 0x3fff - 4 + rng.below(9) as u16),
    };
    (significand, exponent | (rng.draw() as u16 & 0x8000))
}

/// What a vector register or a memory operand holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavor {
    /// Whole numbers of these many bits.
    Integer(u32),
    /// Binary16.
    Half,
    /// Binary32.
    Single,
    /// Binary64.
    Double,
    /// Printable ASCII, for string comparison.
    Text,
}

impl Flavor {
    /// Any of them.
    pub fn any(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Integer(8),
            1 => Self::Integer(16),
            2 => Self::Integer(32),
            3 => Self::Integer(64),
            4 | 5 => Self::Single,
            _ => Self::Double,
        }
    }

    /// 64 bits of it.
    pub fn word(self, rng: &mut Rng) -> u64 {
        let lanes = |rng: &mut Rng, bits: u32, f: &dyn Fn(&mut Rng) -> u64| {
            (0..64 / bits).fold(0, |w, lane| w | f(rng) << (lane * bits))
        };
        match self {
            Self::Integer(64) => integer(rng, 64),
            Self::Integer(bits) => {
                // One draw in four is plain random: cheaper, and every byte differs.
                if rng.chance(1, 4) {
                    rng.draw()
                } else {
                    lanes(rng, bits, &|r| integer(r, bits))
                }
            }
            Self::Half => lanes(rng, 16, &|r| half(r) as u64),
            Self::Single => lanes(rng, 32, &|r| single(r) as u64),
            Self::Double => double(rng),
            Self::Text => lanes(rng, 8, &|r| r.pick(b"aabbAZz09\0\0\xff") as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_double_turns_up() {
        let mut rng = Rng::new(3, 3);
        let drawn: Vec<f64> = (0..2000).map(|_| f64::from_bits(double(&mut rng))).collect();
        for (name, class) in [
            ("NaN", (|v: &f64| v.is_nan()) as fn(&f64) -> bool),
            ("infinity", |v| v.is_infinite()),
            ("denormal", |v| v.is_subnormal()),
            ("negative zero", |v| *v == 0.0 && v.is_sign_negative()),
            ("beyond 64 bits", |v| {
                v.is_finite() && v.abs() >= 18446744073709551616.0
            }),
            ("near one", |v| (0.5..2.0).contains(v)),
        ] {
            assert!(drawn.iter().any(class), "{name}");
        }
    }

    #[test]
    fn integers_stay_within_their_size() {
        let mut rng = Rng::new(4, 4);
        for bits in [8, 16, 32, 64] {
            let drawn: Vec<u64> = (0..500).map(|_| integer(&mut rng, bits)).collect();
            assert!(drawn.iter().all(|v| bits == 64 || v >> bits == 0));
            assert!(drawn.contains(&(u64::MAX >> (64 - bits))) && drawn.contains(&0));
        }
    }
}
