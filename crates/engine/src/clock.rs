//! A domain's time: one counter that all its vCPUs and timers read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Guest time since power-on. The time-stamp counter runs at [`Clock::hz`] whatever the host's does, so
/// that a domain keeps its frequency when it moves.
///
/// What the guest reads of it, the counter and KVM's system time, may have been counted by other hardware for a
/// while, which is never exactly as fast as this clock: [`Clock::went_on`] says where they have got to, so that
/// they go on from there.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    wall_at_start: Duration,
    hz: u64,
    /// By how much the time-stamp counter is ahead of this clock, in ticks, and the system time, in nanoseconds;
    /// both wrap.
    tsc_lead: AtomicU64,
    system_lead: AtomicU64,
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
            tsc_lead: AtomicU64::new(0),
            system_lead: AtomicU64::new(0),
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
        self.tsc_at(self.nanoseconds())
    }

    /// The time-stamp counter at a time since power-on.
    #[inline]
    pub fn tsc_at(&self, nanoseconds: u64) -> u64 {
        self.ticks(nanoseconds).wrapping_add(self.tsc_lead.load(Relaxed))
    }

    /// KVM's system time, in nanoseconds, at a time since power-on.
    pub fn system_time_at(&self, nanoseconds: u64) -> u64 {
        nanoseconds.wrapping_add(self.system_lead.load(Relaxed))
    }

    /// Time of day, since 1970, when the system time was zero.
    pub fn wall_at_system_start(&self) -> Duration {
        let lead = self.system_lead.load(Relaxed) as i64;
        let by = Duration::from_nanos(lead.unsigned_abs());
        match lead {
            0.. => self.wall_at_start.saturating_sub(by),
            _ => self.wall_at_start + by,
        }
    }

    /// Somebody else has counted: at `nanoseconds` since power-on the time-stamp counter and the system time were
    /// these. No vCPU runs meanwhile.
    pub fn went_on(&self, nanoseconds: u64, tsc: u64, system_time: u64) {
        self.tsc_lead
            .store(tsc.wrapping_sub(self.ticks(nanoseconds)), Relaxed);
        self.system_lead
            .store(system_time.wrapping_sub(nanoseconds), Relaxed);
    }

    /// Nanoseconds since power-on as time-stamp ticks.
    fn ticks(&self, nanoseconds: u64) -> u64 {
        if self.hz == Self::DEFAULT_HZ {
            return nanoseconds;
        }
        (nanoseconds as u128 * self.hz as u128 / 1_000_000_000) as u64
    }

    /// When the time-stamp counter reaches `tsc`, in nanoseconds since power-on (rounded up).
    pub fn nanoseconds_at(&self, tsc: u64) -> u64 {
        // A counter that is behind the clock has deadlines before power-on: they are past.
        let lead = self.tsc_lead.load(Relaxed) as i64;
        let tsc = match lead {
            0.. => tsc.saturating_sub(lead.unsigned_abs()),
            _ => tsc.saturating_add(lead.unsigned_abs()),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_from_where_others_left_them() {
        for hz in [Clock::DEFAULT_HZ, 2_899_123_000] {
            let clock = Clock::new(hz);
            assert_eq!(clock.tsc_at(1_000_000_000), hz);
            for (tsc, system) in [(5 * hz, 4_000_000_000), (hz / 2, 400_000_000)] {
                clock.went_on(1_000_000_000, tsc, system);
                assert_eq!(clock.tsc_at(1_000_000_000), tsc);
                assert_eq!(clock.tsc_at(2_000_000_000), tsc + hz);
                assert_eq!(clock.system_time_at(1_500_000_000), system + 500_000_000);
                assert_eq!(clock.nanoseconds_at(tsc + hz), 2_000_000_000);
                let wall = clock.wall_at_system_start() + Duration::from_nanos(system);
                assert_eq!(wall, clock.wall_at_start() + Duration::from_secs(1));
            }
        }
    }
}
