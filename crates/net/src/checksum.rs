//! The checksum of the Internet protocols (RFC 1071).

/// The sum of the 16-bit words of `bytes`, the last of them filled up with a zero byte. Sums of pieces that begin
/// at even places may be added.
pub fn sum(bytes: &[u8]) -> u64 {
    // The sum does not mind in which order bytes are in a word, and carries do not mind the word's size.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(sum)).into()
}

/// A sum in 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What goes into the field for a sum in which the field was zero, or held that of the pseudo header. Never zero,
/// which to UDP means that there is none, and to the others is the same as this.
pub fn of(sum: u64) -> [u8; 2] {
    match !fold(sum) {
        0 => [0xff; 2],
        n => n.to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 §4.1 does it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(of(0xddf2), [0x22, 0x0d]);
        assert_eq!(of(0xffff), [0xff, 0xff]);
        assert_eq!(of(0), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_rfc(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 0..1000usize) {
            prop_assert_eq!(sum(&bytes), u64::from(reference(&bytes)));
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            // Zero and all ones are the same number.
            prop_assert_eq!(fold(sum(a) + sum(b)) % 0xffff, reference(&bytes) % 0xffff);
        }

        #[test]
        fn sums_of_many_ones_carry(len in 60_000..66_000usize) {
            let bytes = vec![0xff; len];
            prop_assert_eq!(sum(&bytes), u64::from(reference(&bytes)));
        }
    }
}
