//! One counter of an 8254 (Intel 82C54 datasheet, 231244-006), as a function of time: nothing ticks.
//!
//! Times are ticks of the 1.193182 MHz input since power-on.

use serde::{Deserialize, Serialize};

/// Which bytes a read or write transfers, bits 4-5 of the control word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Counter {
    /// 0-5.
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    /// The count register: what counting starts from; `None` until it is written after the mode.
    reload: Option<u32>,
    /// A count written while counting, and the tick at which it takes effect: the next cycle's first in mode
    /// 2, the next half cycle's in mode 3, never by itself in modes 1 and 5.
    next_reload: Option<(u32, u64)>,
    /// When counting began, the first tick after the count was loaded; `None` while stopped.
    start: Option<u64>,
    /// Modes 0 and 4 with the gate low: ticks counted so far.
    held: Option<u64>,
    /// The low byte of a count half written.
    write_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    pub fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: Access::LowThenHigh,
            gate,
            reload: None,
            next_reload: None,
            start: None,
            held: None,
            write_low: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Counts in a full turn of the counting element.
    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// A count register's value as a number of ticks: zero is the largest (datasheet, "Mode Definitions").
    fn decode(&self, written: u16) -> u32 {
        let v = if self.bcd {
            // Digits above nine count what they are worth, within the four digits there are.
            (0..4)
                .rev()
                .fold(0, |n, i| n * 10 + (written as u32 >> (i * 4) & 15))
                % 10_000
        } else {
            written as u32
        };
        match (self.mode, v) {
            (_, 0) => self.modulus() as u32,
            // One is not a legal period: there is no time for a pulse.
            (2 | 3, 1) => 2,
            _ => v,
        }
    }

    fn encode(&self, count: u64) -> u16 {
        let n = (count % self.modulus()) as u16;
        if !self.bcd {
            return n;
        }
        (0..4)
            .fold((n, 0), |(n, bcd), i| (n / 10, bcd | (n % 10) << (i * 4)))
            .1
    }

    /// Ticks counted at `now`; `None` if not counting.
    fn elapsed(&self, now: u64) -> Option<u64> {
        self.held.or_else(|| self.start.map(|s| now.saturating_sub(s)))
    }

    /// Starts the cycle of mode 2 or 3 that a new count has been waiting for.
    fn settle(&mut self, now: u64) {
        let (Some((next, at)), Some(reload), Some(start)) = (self.next_reload, self.reload, self.start)
        else {
            return;
        };
        if now < at || !matches!(self.mode, 2 | 3) {
            return;
        }
        // Half-way through mode 3's cycle the new count begins with its low half.
        let into = if (at.saturating_sub(start)) % reload as u64 == 0 {
            0
        } else {
            next.div_ceil(2) as u64
        };
        self.start = Some(at.saturating_sub(into));
        self.reload = Some(next);
        self.next_reload = None;
    }

    /// The first tick after `now` at which a cycle, or in mode 3 half a cycle, is over.
    fn boundary(&self, now: u64) -> Option<u64> {
        let (n, start) = (self.reload? as u64, self.start?);
        let t = now.saturating_sub(start);
        let half = n.div_ceil(2);
        let ahead = if self.mode == 3 && t % n < half {
            half - t % n
        } else {
            n - t % n
        };
        Some(now.max(start).saturating_add(ahead))
    }

    /// OUT.
    pub fn output(&mut self, now: u64) -> bool {
        self.settle(now);
        let (Some(n), Some(t)) = (self.reload.map(u64::from), self.elapsed(now)) else {
            // Before the first count only mode 0 is low; the hardware-triggered modes wait high.
            return self.mode != 0;
        };
        match self.mode {
            0 => t >= n,
            // Low from the tick after the trigger.
            1 => t >= n || self.start.is_some_and(|start| now < start),
            2 => !self.gate || t % n != n - 1,
            3 => !self.gate || t % n < n.div_ceil(2),
            // A strobe: low for one tick.
            _ => t != n,
        }
    }

    /// The counting element at `now`.
    fn count(&mut self, now: u64) -> u16 {
        self.settle(now);
        let (Some(n), Some(t)) = (self.reload.map(u64::from), self.elapsed(now)) else {
            return self.encode(self.reload.unwrap_or(0) as u64);
        };
        let m = self.modulus();
        let value = match self.mode {
            2 => n - t % n,
            3 => {
                // Counts by two, twice a period; an odd count is one longer in its high half.
                let (t, high) = (t % n, n.div_ceil(2));
                let even = n & !1;
                if t < high {
                    even.saturating_sub(2 * t)
                } else {
                    even.saturating_sub(2 * (t - high))
                }
            }
            // Goes on below zero (datasheet, modes 0, 1, 4 and 5).
            _ => n + m - t % m,
        };
        self.encode(value)
    }

    /// The status byte of the read-back command.
    fn status(&mut self, now: u64) -> u8 {
        self.settle(now);
        let null = self.reload.is_none() || self.next_reload.is_some() || self.start.is_some_and(|s| now < s);
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        (self.output(now) as u8) << 7 | (null as u8) << 6 | access << 4 | self.mode << 1 | self.bcd as u8
    }

    /// A control word for this counter (not a read-back command).
    pub fn control(&mut self, word: u8, now: u64) {
        self.access = match word >> 4 & 3 {
            0 => return self.latch_count(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let mode = word >> 1 & 7;
        *self = Self {
            access: self.access,
            // 6 and 7 are 2 and 3: the high bit does not matter there.
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: word & 1 != 0,
            ..Self::new(self.gate)
        };
    }

    /// The counter-latch command: the first of several counts.
    pub fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(now));
        }
    }

    /// The read-back command's status latch.
    pub fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(now));
        }
    }

    pub fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.count(now))
            .to_le_bytes();
        match self.access {
            Access::Low => {
                self.latched_count = None;
                low
            }
            Access::High => {
                self.latched_count = None;
                high
            }
            Access::LowThenHigh if self.read_high_next => {
                self.read_high_next = false;
                self.latched_count = None;
                high
            }
            Access::LowThenHigh => {
                self.read_high_next = true;
                low
            }
        }
    }

    pub fn write(&mut self, value: u8, now: u64) {
        let written = match (self.access, self.write_low) {
            (Access::Low, _) => value as u16,
            (Access::High, _) => (value as u16) << 8,
            (Access::LowThenHigh, Some(low)) => {
                self.write_low = None;
                u16::from_le_bytes([low, value])
            }
            (Access::LowThenHigh, None) => {
                self.write_low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count and drops OUT (datasheet, "Mode 0").
                    self.reload = None;
                    self.start = None;
                    self.held = None;
                }
                return;
            }
        };
        self.load(self.decode(written), now);
    }

    fn load(&mut self, count: u32, now: u64) {
        self.settle(now);
        // The count reaches the counting element with the next tick.
        let start = now.saturating_add(1);
        match self.mode {
            0 | 4 => {
                self.reload = Some(count);
                self.start = self.gate.then_some(start);
                self.held = (!self.gate).then_some(0);
            }
            2 | 3 => match self.boundary(now) {
                Some(at) => self.next_reload = Some((count, at)),
                None => {
                    self.reload = Some(count);
                    self.start = self.gate.then_some(start);
                }
            },
            // Modes 1 and 5 count from their trigger on. A count under way is not disturbed.
            _ if self.start.is_some() => self.next_reload = Some((count, u64::MAX)),
            _ => self.reload = Some(count),
        }
    }

    pub fn gate(&self) -> bool {
        self.gate
    }

    pub fn set_gate(&mut self, level: bool, now: u64) {
        if level == self.gate {
            return;
        }
        self.settle(now);
        match (self.mode, level) {
            // The gate holds the count (modes 0 and 4).
            (0 | 4, false) => {
                self.held = self.reload.and_then(|_| self.elapsed(now));
                self.start = None;
            }
            (0 | 4, true) => self.start = self.held.take().map(|done| now.saturating_sub(done)),
            // Low stops and a rise starts a new cycle (modes 2 and 3).
            (2 | 3, false) => self.start = None,
            // A rise triggers (modes 1 and 5), again and again. OUT stays low through a second trigger.
            (_, true) => {
                let next = if self.output(now) {
                    now.saturating_add(1)
                } else {
                    now
                };
                self.reload = self.next_reload.take().map(|(count, _)| count).or(self.reload);
                self.start = self.reload.map(|_| next);
            }
            _ => {}
        }
        self.gate = level;
    }

    /// The first tick after `now` at which OUT rises, if it will on its own.
    pub fn next_rise(&mut self, now: u64) -> Option<u64> {
        self.settle(now);
        let (n, start) = (self.reload? as u64, self.start?);
        let t = now.saturating_sub(start);
        let at = match self.mode {
            0 | 1 => n,
            // At the end of a cycle; a new count may come into force half-way through this one.
            2 | 3 => {
                return match self.next_reload {
                    Some((next, at)) if (at.saturating_sub(start)) % n != 0 => {
                        Some(at.saturating_add(next as u64 / 2)).filter(|&tick| tick > now)
                    }
                    _ => Some(now.max(start).saturating_add(n - t % n)).filter(|&tick| tick > now),
                };
            }
            // The strobe ends a tick after it began.
            _ => n + 1,
        };
        Some(start.saturating_add(at)).filter(|&tick| tick > now)
    }

    /// Whether a saved counter is one that can exist.
    pub fn is_legal(&self) -> bool {
        let least = if matches!(self.mode, 2 | 3) { 2 } else { 1 };
        let possible = |count: u32| (least..=self.modulus()).contains(&(count as u64));
        self.mode <= 5
            && self.reload.is_none_or(possible)
            && self.next_reload.is_none_or(|(count, _)| possible(count))
            && self.held.is_none_or(|t| t <= 1 << 62)
    }
}
