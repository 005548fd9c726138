//! The local APIC timer (Intel SDM vol. 3A §11.5.4).

use super::registers::{Lvt, Registers};
use donjon_engine::Clock;

/// Timer mode, LVT bits 17-18.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

/// The host's timer thread is woken for a periodic timer at most this often, in nanoseconds; a shorter
/// period is served late and its missed ticks are lost, like those of an interrupt that is held off.
const SHORTEST_PERIOD: u64 = 50_000;

impl Registers {
    pub fn timer_mode(&self) -> Mode {
        [Mode::OneShot, Mode::Periodic, Mode::TscDeadline, Mode::Reserved]
            [(self.lvt(Lvt::Timer) >> 17 & 3) as usize]
    }

    /// Nanoseconds a count, as a power of two: the bus clock's tick is one nanosecond.
    fn divisor_log2(&self) -> u32 {
        let v = self.divide & 3 | self.divide >> 1 & 4;
        (v + 1) & 7
    }

    /// The length of one countdown in nanoseconds; at most 2^39.
    fn period(&self) -> u64 {
        (self.initial_count as u64) << self.divisor_log2()
    }

    /// Brings the timer up to `now`; whether it has expired since it was last looked at. Every change and
    /// every read settles first, so that a late timer thread cannot be noticed.
    pub fn settle(&mut self, now: u64) -> bool {
        let Some(due) = self.timer_due.filter(|&due| due <= now) else {
            return false;
        };
        self.timer_due = match (self.timer_mode(), self.period()) {
            (Mode::Periodic, period @ 1..) => {
                let late = (now - due) / period;
                Some(due.saturating_add(late.saturating_add(1).saturating_mul(period)))
            }
            _ => None,
        };
        self.tsc_deadline = 0;
        true
    }

    /// The current count, once settled.
    pub fn current_count(&self, now: u64) -> u32 {
        match (self.timer_mode(), self.timer_due) {
            (Mode::OneShot | Mode::Periodic, Some(due)) => {
                let left = due.saturating_sub(now).div_ceil(1 << self.divisor_log2());
                left.min(self.initial_count as u64) as u32
            }
            _ => 0,
        }
    }

    /// Starts a countdown from the initial count.
    pub fn start_count(&mut self, initial: u32, now: u64) {
        self.initial_count = initial;
        self.timer_due = (initial != 0).then(|| now.saturating_add(self.period()));
    }

    /// Goes on with a countdown of which this much is left.
    pub fn go_on_counting(&mut self, left: u32, now: u64) {
        self.timer_due = (left != 0).then(|| now.saturating_add((left as u64) << self.divisor_log2()));
    }

    /// Changes the divisor; the count goes on from where it is.
    pub fn set_divide(&mut self, value: u32, now: u64) {
        let count = self.current_count(now);
        self.divide = value & 0xb;
        if self.timer_mode() != Mode::TscDeadline && self.timer_due.is_some() {
            self.timer_due = Some(now.saturating_add((count as u64) << self.divisor_log2()));
        }
    }

    /// Sets IA32_TSC_DEADLINE; zero disarms.
    pub fn set_deadline(&mut self, tsc: u64, clock: &Clock) {
        self.tsc_deadline = tsc;
        self.timer_due = (tsc != 0).then(|| clock.nanoseconds_at(tsc));
    }

    /// Stops both the count and the deadline.
    pub fn stop_timer(&mut self) {
        self.initial_count = 0;
        self.tsc_deadline = 0;
        self.timer_due = None;
    }

    /// When to look again, in nanoseconds: at the next expiry, if it would interrupt.
    pub fn wake_at(&self, now: u64) -> Option<u64> {
        self.active(Lvt::Timer)?;
        let due = self.timer_due?;
        let short = self.timer_mode() == Mode::Periodic && self.period() < SHORTEST_PERIOD;
        Some(if short {
            due.max(now.saturating_add(SHORTEST_PERIOD))
        } else {
            due
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(mode: u32, divide: u32, initial: u32) -> Registers {
        let mut r = Registers::reset();
        r.lvt[Lvt::Timer as usize] = mode << 17 | 0x40;
        r.set_divide(divide, 0);
        r.start_count(initial, 1000);
        r
    }

    #[test]
    fn divisors_are_those_of_figure_11_10() {
        let divisors = [0, 1, 2, 3, 8, 9, 10, 11].map(|v| 1u32 << with(0, v, 0).divisor_log2());
        assert_eq!(divisors, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn counts_down_once_or_again_and_again() {
        let mut once = with(0, 3, 100_000);
        assert_eq!(once.current_count(1000), 100_000);
        assert_eq!(once.current_count(1000 + 16 * 40_000), 60_000);
        assert_eq!(once.wake_at(2000), Some(1000 + 1_600_000));
        assert!(!once.settle(1000 + 1_599_999));
        assert!(once.settle(1000 + 1_600_000));
        assert_eq!(
            (once.current_count(2_000_000), once.wake_at(2_000_000)),
            (0, None)
        );
        let mut again = with(1, 3, 100_000);
        assert!(again.settle(1000 + 3 * 1_600_000 + 16 * 40_000));
        assert_eq!(again.current_count(1000 + 3 * 1_600_000 + 16 * 40_000), 60_000);
        assert_eq!(again.wake_at(0), Some(1000 + 4 * 1_600_000));
    }

    #[test]
    fn changing_the_divisor_keeps_the_count() {
        let mut r = with(0, 11, 100_000);
        let now = 1000 + 30_000;
        r.set_divide(3, now);
        assert_eq!(r.current_count(now), 70_000);
        assert_eq!(r.current_count(now + 160), 69_990);
    }

    proptest! {
        #[test]
        fn no_setting_panics_or_floods(
            mode in 0u32..4, divide: u32, initial: u32, due: Option<u64>, deadline: u64, now: u64,
        ) {
            let clock = Clock::new(2_100_000_000);
            let mut r = with(mode, divide, initial);
            r.timer_due = due;
            if mode == 2 {
                r.set_deadline(deadline, &clock);
            }
            r.settle(now);
            prop_assert!(r.current_count(now) <= initial);
            r.set_divide(divide.rotate_left(7), now);
            r.settle(now);
            prop_assert!(r.wake_at(now).is_none_or(|at| at > now || at == u64::MAX));
        }
    }
}
