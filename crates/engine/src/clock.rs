//! A domain's time: one counter that all its vCPUs and timers read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Guest time since power-on. The time-stamp counter runs at [`Clock::hz`] whatever the host's does, so
/// that a domain keeps its frequency when it moves.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    wall_at_start: Duration,
    hz: u64,
}

impl Clock {
    /// The frequency domains get: one tick a nanosecond.
    pub const DEFAULT_HZ: u64 = 1_000_000_000;

    /// A clock that starts now.
    pub fn new(hz: u64) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start: Instant::now(),
            wall_at_start: wall,
            hz,
        }
    }

    /// Ticks a second of the time-stamp counter.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Nanoseconds since power-on.
    #[inline]
    pub fn nanoseconds(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The time-stamp counter.
    #[inline]
    pub fn tsc(&self) -> u64 {
        self.ticks(self.nanoseconds())
    }

    /// Nanoseconds since power-on as time-stamp ticks.
    pub fn ticks(&self, nanoseconds: u64) -> u64 {
        if self.hz == Self::DEFAULT_HZ {
            return nanoseconds;
        }
        (nanoseconds as u128 * self.hz as u128 / 1_000_000_000) as u64
    }

    /// When the time-stamp counter reaches `tsc`, in nanoseconds since power-on (rounded up).
    pub fn nanoseconds_at(&self, tsc: u64) -> u64 {
        if self.hz == Self::DEFAULT_HZ {
            return tsc;
        }
        ((tsc as u128 * 1_000_000_000).div_ceil(self.hz as u128)).min(u64::MAX as u128) as u64
    }

    /// The host instant of a time since power-on; `None` if too far away to tell.
    pub fn instant(&self, nanoseconds: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// Time of day at power-on, since 1970.
    pub fn wall_at_start(&self) -> Duration {
        self.wall_at_start
    }
}
