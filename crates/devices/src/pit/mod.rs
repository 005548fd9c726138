//! The 8254 interval timer of a PC and the system control port that gates its third counter (Intel 82C54
//! datasheet, 231244-006; Intel 82371AB datasheet §7.5, port 0x61).

mod counter;
#[cfg(test)]
mod tests;

use crate::bus::PortDevice;
use crate::line::LineSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use crate::timer::{Timer, Timers};
use counter::Counter;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Weak};

/// Input frequency: a third of the colour burst's four times.
pub const HZ: u64 = 1_193_182;
const SECOND: u128 = 1_000_000_000;
/// The interrupt is raised at most this often, in nanoseconds; edges closer together are lost, as they are
/// while a processor holds the interrupt off.
const SHORTEST_PERIOD: u64 = 50_000;
/// Half a period of the refresh toggle, in nanoseconds: 18 input ticks.
const REFRESH: u64 = 15_085;

fn ticks(nanoseconds: u64) -> u64 {
    (nanoseconds as u128 * HZ as u128 / SECOND) as u64
}

/// The first nanosecond of a tick.
fn nanoseconds(tick: u64) -> u64 {
    (tick as u128 * SECOND).div_ceil(HZ as u128).min(u64::MAX as u128) as u64
}

#[derive(Clone, Serialize, Deserialize)]
struct State {
    counters: [Counter; 3],
    /// Port 0x61 bits 0-3 as written.
    control: u8,
    /// OUT 0 as the interrupt line was last told.
    line: bool,
    /// When OUT 0 rises next, in ticks.
    rise: Option<u64>,
}

impl Saved for State {
    const KIND: &'static str = "pit";
    const VERSION: u16 = 1;
}

impl State {
    fn reset() -> Self {
        let counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        Self {
            counters,
            control: 0,
            line: false,
            rise: None,
        }
    }
}

/// The interval timer. Counter 0 is the interrupt, 1 once refreshed memory, 2 is the loudspeaker.
pub struct Pit {
    interrupt: Arc<dyn LineSink>,
    timer: Timer,
    state: Lock<State>,
}

impl Pit {
    /// A timer whose OUT 0 goes to `interrupt` (IRQ 0).
    pub fn new(timers: &Timers, interrupt: Arc<dyn LineSink>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = timers.timer_of(weak, |me| me.with(|_, _| ()));
            Self {
                interrupt,
                timer,
                state: Lock::new(State::reset()),
            }
        })
    }

    /// The counters and the control register: four ports, at 0x40.
    pub fn counters(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Counters(self.clone()))
    }

    /// System control port B: one port, at 0x61.
    pub fn port_b(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(PortB(self.clone()))
    }

    /// Runs `f` at the present tick, then drives the interrupt.
    fn with<T>(&self, f: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut s = self.state.lock();
        let ns = self.timer.now();
        let now = ticks(ns);
        // An edge that is due, even if the timer thread has not come to it yet.
        let rose = s.rise.is_some_and(|tick| tick <= now);
        let value = f(&mut s, now);
        let level = s.counters[0].output(now);
        if rose {
            self.interrupt.pulse();
            s.line = true;
        }
        if level != s.line {
            self.interrupt.set(level);
            s.line = level;
        }
        s.rise = s.counters[0].next_rise(now);
        let earliest = if rose {
            ns.saturating_add(SHORTEST_PERIOD)
        } else {
            0
        };
        self.timer.set(s.rise.map(|tick| nanoseconds(tick).max(earliest)));
        value
    }
}

impl State {
    fn control_word(&mut self, word: u8, now: u64) {
        match word >> 6 {
            // Read-back (datasheet, "Read-Back Command"): the two latch bits are active low.
            3 => {
                for (_, c) in self
                    .counters
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| word & 2 << i != 0)
                {
                    if word & 0x20 == 0 {
                        c.latch_count(now);
                    }
                    if word & 0x10 == 0 {
                        c.latch_status(now);
                    }
                }
            }
            counter => self.counters[counter as usize].control(word, now),
        }
    }

    fn set_port_b(&mut self, value: u8, now: u64) {
        self.control = value & 15;
        self.counters[2].set_gate(value & 1 != 0, now);
    }

    fn port_b(&mut self, now: u64, ns: u64) -> u8 {
        let refresh = (ns / REFRESH % 2) as u8;
        self.control | refresh << 4 | (self.counters[2].output(now) as u8) << 5
    }
}

struct Counters(Arc<Pit>);

impl PortDevice for Counters {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, offset: u16, _: u8) -> u32 {
        match offset & 3 {
            // The control register cannot be read.
            3 => 0xff,
            counter => self.0.with(|s, now| s.counters[counter as usize].read(now)) as u32,
        }
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        let value = value as u8;
        match offset & 3 {
            3 => self.0.with(|s, now| s.control_word(value, now)),
            counter => self
                .0
                .with(|s, now| s.counters[counter as usize].write(value, now)),
        }
    }
}

struct PortB(Arc<Pit>);

impl PortDevice for PortB {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, _: u16, _: u8) -> u32 {
        let ns = self.0.timer.now();
        self.0.state.lock().port_b(ticks(ns), ns) as u32
    }

    fn write(&self, _: u16, _: u8, value: u32) {
        self.0.with(|s, now| s.set_port_b(value as u8, now));
    }
}

impl Lifecycle for Pit {
    fn reset(&self) {
        let mut s = self.state.lock();
        *s = State {
            line: s.line,
            ..State::reset()
        };
        drop(s);
        self.with(|_, _| ());
    }

    fn migrate(&self) -> Migrate {
        self.state.lock().save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = State::open(record)?;
        if !state.counters.iter().all(Counter::is_legal)
            || state.control > 15
            || state.counters[2].gate() != (state.control & 1 != 0)
        {
            return Err(State::damaged("impossible 8254 registers"));
        }
        let mut s = self.state.lock();
        *s = state;
        self.interrupt.set(s.line);
        drop(s);
        self.with(|_, _| ());
        Ok(())
    }
}
