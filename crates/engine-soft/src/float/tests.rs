//! Portable tests: recorded results of processors, special cases, and the host's own arithmetic where
//! Rust guarantees IEEE 754 results.

mod native;
mod recorded_sse;
mod recorded_x87;
mod rounding;
mod special_sse;
mod special_x87;
mod sse_vectors;
mod x87_vectors;

/// A small generator of operands: uniform bit patterns mixed with values near the edges of the format.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number with `fraction` fraction and `exponent` exponent bits.
    fn value(&mut self, fraction: u32, exponent: u32) -> u64 {
        let most = (1 << exponent) - 1;
        let field = match self.next() % 8 {
            0 => 0,
            1 => most,
            2 => 1 + self.next() % 3,
            3 => most - 1 - self.next() % 3,
            4 => most / 2 - 2 + self.next() % 5,
            5 => (most / 4 + self.next() % 8) & most,
            _ => self.next() & most,
        };
        let mask = (1 << fraction) - 1;
        let bits = match self.next() % 6 {
            0 => 0,
            1 => mask,
            2 => 1 << (self.next() % fraction as u64),
            3 => self.next() % 4,
            _ => self.next() & mask,
        };
        (self.next() & 1) << (fraction + exponent) | field << fraction | bits
    }

    fn f32(&mut self) -> f32 {
        f32::from_bits(self.value(23, 8) as u32)
    }

    fn f64(&mut self) -> f64 {
        f64::from_bits(self.value(52, 11))
    }
}
