//! The clock's registers as a function of time: nothing ticks.

use super::calendar::Date;
use serde::{Deserialize, Serialize};

pub(super) const SECOND: i128 = 1_000_000_000;
const DAY: i64 = 86_400;
/// How long before an update the update-in-progress bit is set (MC146818A datasheet, figure 14).
const UPDATE_WARNING: i128 = 244_000;

pub(super) mod register {
    pub const SECONDS_ALARM: u8 = 1;
    pub const MINUTES_ALARM: u8 = 3;
    pub const HOURS_ALARM: u8 = 5;
    pub const A: u8 = 0xa;
    pub const B: u8 = 0xb;
    pub const C: u8 = 0xc;
    pub const D: u8 = 0xd;
    /// Where PC firmware keeps the century.
    pub const CENTURY: u8 = 0x32;
}

/// Register B.
pub(super) mod control {
    pub const SET: u8 = 0x80;
    pub const BINARY: u8 = 0x04;
    pub const HOURS_24: u8 = 0x02;
    /// Periodic, alarm and update-ended interrupts: the same bits as the flags of register C.
    pub const INTERRUPTS: u8 = 0x70;
    pub const SQUARE_WAVE: u8 = 0x08;
}

/// Register C.
pub(super) mod flag {
    pub const ANY: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
}

/// The time registers: second, minute, hour, weekday, day, month, year, century.
type Fields = [u8; 8];

/// Which of [`Fields`] an address is.
fn field(address: u8) -> Option<usize> {
    match address {
        0 | 2 | 4 => Some(address as usize / 2),
        6..=9 => Some(address as usize - 3),
        register::CENTURY => Some(7),
        _ => None,
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Chip {
    pub index: u8,
    /// Battery-backed memory; registers A, B and the alarm are in it, the others are unused.
    pub memory: Vec<u8>,
    /// The time of day at power-on in nanoseconds since 1970, as the guest has set it.
    pub offset: i128,
    /// What a guest that counts weekdays differently has added.
    pub weekday_shift: u8,
    /// The time registers while updates are stopped.
    pub stopped: Option<Fields>,
    /// Register C.
    pub flags: u8,
    /// When the flags were last brought up to date, in nanoseconds.
    pub settled: u64,
}

impl Chip {
    pub fn new(offset: i128, now: u64) -> Self {
        let mut memory = vec![0; 128];
        // 32.768 kHz crystal, 1.024 kHz periodic rate; 24 hours, BCD.
        memory[register::A as usize] = 0x26;
        memory[register::B as usize] = control::HOURS_24;
        Self {
            index: 0,
            memory,
            offset,
            weekday_shift: 0,
            stopped: None,
            flags: 0,
            settled: now,
        }
    }

    fn a(&self) -> u8 {
        self.memory[register::A as usize]
    }

    fn b(&self) -> u8 {
        self.memory[register::B as usize]
    }

    /// The divider chain is held in reset (register A, DV = 11x).
    fn divider_reset(&self) -> bool {
        self.a() & 0x60 == 0x60
    }

    fn time(&self, now: u64) -> i128 {
        self.offset + now as i128
    }

    fn encode(&self, v: u8) -> u8 {
        if self.b() & control::BINARY != 0 {
            v
        } else {
            v / 10 % 10 * 16 + v % 10
        }
    }

    fn decode(&self, v: u8) -> u8 {
        if self.b() & control::BINARY != 0 {
            v
        } else {
            (v >> 4) * 10 + (v & 15)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b() & control::HOURS_24 != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, v: u8) -> u8 {
        if self.b() & control::HOURS_24 != 0 {
            return self.decode(v);
        }
        self.decode(v & 0x7f) % 12 + if v & 0x80 != 0 { 12 } else { 0 }
    }

    fn fields(&self, now: u64) -> Fields {
        if let Some(fields) = self.stopped {
            return fields;
        }
        let seconds = self.time(now).div_euclid(SECOND) as i64;
        let d = Date::from_seconds(seconds);
        let weekday = (Date::weekday(seconds) - 1 + self.weekday_shift) % 7 + 1;
        let (year, century) = (
            d.year.rem_euclid(100) as u8,
            d.year.div_euclid(100).rem_euclid(100) as u8,
        );
        [
            self.encode(d.second),
            self.encode(d.minute),
            self.encode_hour(d.hour),
            self.encode(weekday),
            self.encode(d.day),
            self.encode(d.month),
            self.encode(year),
            self.encode(century),
        ]
    }

    /// Makes `fields` the time, `phase` nanoseconds into the second.
    fn set_fields(&mut self, fields: Fields, phase: i128, now: u64) {
        let date = Date {
            year: self.decode(fields[7]) as i64 * 100 + self.decode(fields[6]) as i64,
            month: self.decode(fields[5]),
            day: self.decode(fields[4]),
            hour: self.decode_hour(fields[2]),
            minute: self.decode(fields[1]),
            second: self.decode(fields[0]),
        };
        let seconds = date.seconds();
        let weekday = self.decode(fields[3]) as i32 - Date::weekday(seconds) as i32;
        self.weekday_shift = weekday.rem_euclid(7) as u8;
        self.offset = seconds as i128 * SECOND + phase - now as i128;
    }

    fn phase(&self, now: u64) -> i128 {
        self.time(now).rem_euclid(SECOND)
    }

    fn update_in_progress(&self, now: u64) -> bool {
        self.stopped.is_none() && self.phase(now) >= SECOND - UPDATE_WARNING
    }

    pub fn read(&mut self, now: u64) -> u8 {
        self.settle(now);
        match (self.index, field(self.index)) {
            (_, Some(f)) => self.fields(now)[f],
            (register::A, _) => self.a() | if self.update_in_progress(now) { 0x80 } else { 0 },
            (register::C, _) => {
                let any = if self.interrupting() { flag::ANY } else { 0 };
                std::mem::take(&mut self.flags) | any
            }
            // The battery is good.
            (register::D, _) => 0x80,
            (index, _) => self.memory[index as usize & 127],
        }
    }

    pub fn write(&mut self, value: u8, now: u64) {
        self.settle(now);
        match (self.index, field(self.index)) {
            (_, Some(f)) => match &mut self.stopped {
                Some(fields) => fields[f] = value,
                None => {
                    let mut fields = self.fields(now);
                    fields[f] = value;
                    self.set_fields(fields, self.phase(now), now);
                }
            },
            (register::A, _) => self.control(register::A, value & 0x7f, now),
            (register::B, _) => self.control(register::B, value, now),
            (register::C | register::D, _) => {}
            (index, _) => self.memory[index as usize & 127] = value,
        }
    }

    /// Writes register A or B, which may stop and start the clock.
    fn control(&mut self, which: u8, value: u8, now: u64) {
        let (held, fields) = (self.divider_reset(), self.fields(now));
        self.memory[which as usize] = value;
        if which == register::B && value & control::SET != 0 {
            // SET also turns the update-ended interrupt off (MC146818A datasheet, register B).
            self.memory[register::B as usize] &= !flag::UPDATE;
        }
        let stop = self.b() & control::SET != 0 || self.divider_reset();
        match (self.stopped, stop) {
            (None, true) => self.stopped = Some(fields),
            (Some(fields), false) => {
                // A released divider updates first after half a second.
                let phase = if held { SECOND / 2 } else { self.phase(now) };
                self.stopped = None;
                self.set_fields(fields, phase, now);
            }
            _ => {}
        }
    }

    /// The periodic interrupt's period as a power of two of the 32.768 kHz crystal's.
    fn period_log2(&self) -> Option<u32> {
        match self.a() & 15 {
            0 => None,
            _ if self.divider_reset() => None,
            // The two rates that the divider of this crystal has twice.
            rate @ 1..=2 => Some(rate as u32 + 6),
            rate => Some(rate as u32 - 1),
        }
    }

    fn periods(&self, now: u64, log2: u32) -> u64 {
        ((now as u128 * 32_768 / SECOND as u128) >> log2) as u64
    }

    /// Sets the flags of everything that has happened since last time.
    pub fn settle(&mut self, now: u64) {
        let (before, now) = (self.settled, now.max(self.settled));
        self.settled = now;
        if let Some(log2) = self.period_log2()
            && self.periods(before, log2) != self.periods(now, log2)
        {
            self.flags |= flag::PERIODIC;
        }
        if self.stopped.is_none() {
            let second = |at| self.time(at).div_euclid(SECOND) as i64;
            let (from, to) = (second(before), second(now));
            if from != to {
                self.flags |= flag::UPDATE;
                if self.flags & flag::ALARM == 0 && self.next_alarm(from).is_some_and(|at| at <= to) {
                    self.flags |= flag::ALARM;
                }
            }
        }
    }

    /// The first second after `after` that the alarm registers match.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let wanted = |register: u8, value: u8, below: u8| match self.memory[register as usize] {
            // Two high bits: any value (MC146818A datasheet, "Time, calendar and alarm locations").
            0xc0.. => Some((0, below)),
            _ => (value < below).then_some((value, value + 1)),
        };
        let raw = |register: u8| self.memory[register as usize];
        let hours = wanted(
            register::HOURS_ALARM,
            self.decode_hour(raw(register::HOURS_ALARM)),
            24,
        )?;
        let minutes = wanted(
            register::MINUTES_ALARM,
            self.decode(raw(register::MINUTES_ALARM)),
            60,
        )?;
        let seconds = wanted(
            register::SECONDS_ALARM,
            self.decode(raw(register::SECONDS_ALARM)),
            60,
        )?;
        let start = after + 1;
        let midnight = start.div_euclid(DAY) * DAY;
        for day in [midnight, midnight + DAY] {
            for hour in hours.0..hours.1 {
                for minute in minutes.0..minutes.1 {
                    let at = day + hour as i64 * 3_600 + minute as i64 * 60;
                    if at + 59 < start {
                        continue;
                    }
                    if let Some(s) = (seconds.0..seconds.1).find(|&s| at + s as i64 >= start) {
                        return Some(at + s as i64);
                    }
                }
            }
        }
        None
    }

    /// The interrupt pin.
    pub fn interrupting(&self) -> bool {
        self.flags & self.b() & control::INTERRUPTS != 0
    }

    /// When the pin may change next by itself, in nanoseconds.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        if self.interrupting() {
            return None;
        }
        let enabled = self.b() & control::INTERRUPTS;
        let periodic = self
            .period_log2()
            .filter(|_| enabled & flag::PERIODIC != 0)
            .map(|log2| {
                let crystal = (self.periods(now, log2) as u128 + 1) << log2;
                (crystal * SECOND as u128).div_ceil(32_768) as i128
            });
        let running = self.stopped.is_none();
        let second = self.time(now).div_euclid(SECOND) as i64;
        let since_power_on = |second: i64| second as i128 * SECOND - self.offset;
        let update = (running && enabled & flag::UPDATE != 0).then(|| since_power_on(second + 1));
        let alarm = (running && enabled & flag::ALARM != 0)
            .then(|| self.next_alarm(second))
            .flatten();
        let first = [periodic, update, alarm.map(since_power_on)]
            .into_iter()
            .flatten()
            .min()?;
        Some(first.clamp(0, u64::MAX as i128) as u64)
    }

    /// The RESET pin: interrupts off, time and memory kept.
    pub fn reset(&mut self) {
        self.memory[register::B as usize] &= !(control::INTERRUPTS | control::SQUARE_WAVE);
        self.flags = 0;
        self.index = 0;
    }

    /// Whether a saved chip is one that can exist.
    pub fn is_legal(&self) -> bool {
        self.memory.len() == 128
            && self.index < 128
            && self.flags & !control::INTERRUPTS == 0
            && self.weekday_shift < 7
            && self.offset.unsigned_abs() < 1 << 70
            && self.a() & 0x80 == 0
            && self.stopped.is_some() == (self.b() & control::SET != 0 || self.divider_reset())
    }
}
