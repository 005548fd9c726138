//! Keeping to a limit.

use crate::bucket::Level;
use crate::limit::{Bucket, Limit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Keeps any number of threads together within one [`Limit`].
///
/// An operation may begin when there is anything in each bucket, and then takes all it needs, into debt if that
/// is more: an operation larger than the burst passes, and those after it wait. In any stretch of time `t`,
/// no more passes than `burst + rate * t` and one operation.
///
/// The time is the caller's, and one that lies before another thread's counts as that.
#[derive(Debug)]
pub struct Limiter {
    /// Whether there is anything to keep to, so that who is not limited takes no lock.
    limited: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    bandwidth: Option<Level>,
    operations: Option<Level>,
    /// When the levels were right.
    at: Instant,
}

impl State {
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        for level in [&mut self.bandwidth, &mut self.operations].into_iter().flatten() {
            level.fill(elapsed);
        }
        self.at = self.at.max(now);
    }
}

impl Limiter {
    /// With full buckets.
    pub fn new(now: Instant, limit: Limit) -> Self {
        Self {
            limited: AtomicBool::new(!limit.is_unlimited()),
            state: Mutex::new(State {
                limit,
                bandwidth: limit.bandwidth.map(Level::new),
                operations: limit.operations.map(Level::new),
                at: now,
            }),
        }
    }

    /// Whether everything passes, in which case nobody needs to know what time it is. One relaxed load.
    #[inline]
    pub fn is_unlimited(&self) -> bool {
        !self.limited.load(Ordering::Relaxed)
    }

    /// Takes what one operation of so many bytes needs.
    ///
    /// The error is how long there is to wait at least, more than zero; then ask again, as another thread may
    /// have been faster or the limit another.
    #[inline]
    pub fn take(&self, now: Instant, bytes: u64) -> Result<(), Duration> {
        if self.is_unlimited() {
            return Ok(());
        }
        let mut state = self.state();
        state.advance(now);
        let wait = |level: &Option<Level>| level.as_ref().and_then(Level::wait);
        if let Some(wait) = wait(&state.bandwidth).max(wait(&state.operations)) {
            return Err(wait);
        }
        if let Some(level) = &mut state.bandwidth {
            level.take(bytes);
        }
        if let Some(level) = &mut state.operations {
            level.take(1);
        }
        Ok(())
    }

    /// Takes more bytes for an operation that has passed already, into debt if need be: when it turns out how
    /// large it is.
    pub fn charge(&self, bytes: u64) {
        if self.is_unlimited() {
            return;
        }
        if let Some(level) = &mut self.state().bandwidth {
            level.take(bytes);
        }
    }

    /// Gives back what [`Self::take`] took for one operation of so many bytes that then did not happen.
    pub fn refund(&self, bytes: u64) {
        if self.is_unlimited() {
            return;
        }
        let mut state = self.state();
        if let Some(level) = &mut state.bandwidth {
            level.put(bytes);
        }
        if let Some(level) = &mut state.operations {
            level.put(1);
        }
    }

    /// Another limit from now on. What is in a bucket, or owed, stays; a bucket that is new is full.
    pub fn set(&self, now: Instant, limit: Limit) {
        let change = |level: &mut Option<Level>, bucket: Option<Bucket>| match (level.as_mut(), bucket) {
            (Some(level), Some(bucket)) => level.resize(bucket),
            (_, bucket) => *level = bucket.map(Level::new),
        };
        let mut state = self.state();
        state.advance(now);
        change(&mut state.bandwidth, limit.bandwidth);
        change(&mut state.operations, limit.operations);
        state.limit = limit;
        self.limited.store(!limit.is_unlimited(), Ordering::Relaxed);
    }

    /// The limit.
    pub fn limit(&self) -> Limit {
        self.state().limit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
