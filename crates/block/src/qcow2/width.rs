//! Refcounts of 1 to 64 bits in a block.

use super::bytes::{be16, be32, be64};
use std::ops::Range;

/// Count number `at` of a block, of `1 << order` bits.
pub(super) fn load(bytes: &[u8], at: usize, order: u32) -> u64 {
    match order {
        0..=2 => {
            let (bits, per) = (1usize << order, 8usize >> order);
            u64::from(bytes[at / per]) >> (at % per * bits) & ((1 << bits) - 1)
        }
        3 => u64::from(bytes[at]),
        4 => u64::from(be16(bytes, at * 2)),
        5 => u64::from(be32(bytes, at * 4)),
        _ => be64(bytes, at * 8),
    }
}

/// Stores a count that fits; returns the bytes it is in.
pub(super) fn save(bytes: &mut [u8], at: usize, order: u32, count: u64) -> Range<usize> {
    match order {
        0..=2 => {
            let (bits, per) = (1usize << order, 8usize >> order);
            let (byte, shift) = (at / per, at % per * bits);
            let mask = ((1u64 << bits) - 1) << shift;
            bytes[byte] = ((u64::from(bytes[byte]) & !mask) | count << shift & mask) as u8;
            byte..byte + 1
        }
        _ => {
            let len = 1usize << (order - 3);
            let range = at * len..(at + 1) * len;
            bytes[range.clone()].copy_from_slice(&count.to_be_bytes()[8 - len..]);
            range
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_of_all_widths_are_kept_apart(order in 0u32..=6, counts in proptest::collection::vec(any::<u64>(), 64)) {
            let max = u64::MAX >> (64 - (1u32 << order));
            let mut block = vec![0; 512];
            for (at, count) in counts.iter().enumerate() {
                let range = save(&mut block, at, order, count & max);
                prop_assert!(!range.is_empty() && range.end <= 512);
            }
            for (at, count) in counts.iter().enumerate() {
                prop_assert_eq!(load(&block, at, order), count & max);
            }
        }
    }
}
