//! One bucket's level.

use crate::limit::Bucket;
use std::num::NonZeroU64;
use std::time::Duration;

/// Nanoseconds in a second: the level counts in tokens divided by this, so that every nanosecond adds a whole
/// number (the rate) and nothing is ever rounded.
const SCALE: i128 = 1_000_000_000;

/// What is in a bucket. At most the burst; below zero after an operation that took more than there was.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    rate: NonZeroU64,
    full: i128,
    level: i128,
}

impl Level {
    /// A full one.
    pub fn new(bucket: Bucket) -> Self {
        let full = i128::from(bucket.burst.get()) * SCALE;
        Self {
            rate: bucket.rate,
            full,
            level: full,
        }
    }

    /// Another size; what is in it stays in it, as far as it fits.
    pub fn resize(&mut self, bucket: Bucket) {
        let level = self.level;
        *self = Self::new(bucket);
        self.level = level.min(self.full);
    }

    /// Time passes.
    pub fn fill(&mut self, elapsed: Duration) {
        // Both factors are below 2^64. What there is room for is positive.
        let nanos = elapsed.as_nanos().min(u64::MAX.into());
        let gain = nanos * u128::from(self.rate.get());
        let room = (self.full - self.level) as u128;
        self.level += gain.min(room) as i128;
    }

    /// How long until something may be taken; nothing if it may be now.
    pub fn wait(&self) -> Option<Duration> {
        if self.level > 0 {
            return None;
        }
        let nanos = ((1 - self.level) as u128).div_ceil(self.rate.get().into());
        let scale = SCALE as u128;
        // The level is above -2^64 * SCALE, so these are seconds below 2^64.
        Some(Duration::new((nanos / scale) as u64, (nanos % scale) as u32))
    }

    /// Takes tokens, into debt if there are not as many.
    pub fn take(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * SCALE;
    }

    /// Gives tokens back, as far as they fit.
    pub fn put(&mut self, tokens: u64) {
        self.level = (self.level + i128::from(tokens) * SCALE).min(self.full);
    }
}
