//! A serial port: a 16550A and what is at the other end of its wire (National Semiconductor PC16550D
//! datasheet, TL/C/8652).
//!
//! **Output** never waits: bytes go to a thread that writes them in bursts. While that thread is behind, the
//! transmitter is not empty, which holds back a driver that looks.
//!
//! **Input** is accepted up to a bound ([`Serial::push`]) and reaches the FIFO when the guest listens: when
//! its receive interrupt is enabled or it keeps polling the line status, and, if it uses RTS, when RTS is
//! asserted. What arrives before the guest's driver is ready therefore waits instead of being thrown away by
//! the driver's initialization. Bytes follow each other at a pace a driver can bear ([`Serial::set_pace`]);
//! a guest whose terminal has hardware flow control (Linux: `console=ttyS0,115200n8r`, or `stty crtscts`)
//! loses nothing at any pace, however slow the program that reads.

mod outlet;
#[cfg(test)]
mod tests;
mod uart;

use crate::bus::PortDevice;
use crate::line::LineSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use crate::timer::{Timer, Timers};
use outlet::Outlet;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use uart::{FIFO, Uart, fcr, ier, lcr, mcr};

/// Ports it takes.
pub const PORTS: u64 = 8;
/// Bytes that wait for room in the FIFO.
const BACKLOG: usize = 4096;
/// Reads of the line status in a row, nothing sent in between, that mean the guest polls for input. A driver
/// that only waits for its transmitter needs one or two.
const POLLS: u8 = 16;
/// How long the guest must leave its port's set-up alone before a byte is sent, in nanoseconds. Drivers empty
/// the receiver while they initialize, and once more after they have enabled its interrupt (Linux,
/// serial8250_do_startup).
const SETTLE: u64 = 10_000_000;
/// The default pace, in bytes a second: eight times a 115,200 baud line.
const PACE: u32 = 92_160;

#[derive(Clone, Serialize, Deserialize)]
struct State {
    uart: Uart,
    /// Pushed by the host, not in the FIFO yet.
    backlog: VecDeque<u8>,
    /// Reads of the line status since the last byte was sent.
    polls: u8,
    /// RTS has been asserted since reset, so it means something.
    uses_rts: bool,
}

impl Saved for State {
    const KIND: &'static str = "serial";
    const VERSION: u16 = 1;
}

impl State {
    fn new() -> Self {
        Self {
            uart: Uart::new(),
            backlog: VecDeque::new(),
            polls: 0,
            uses_rts: false,
        }
    }

    /// Whether a byte that came now would be looked at.
    fn listening(&self) -> bool {
        let clear_to_send = !self.uses_rts || self.uart.mcr & mcr::RTS != 0;
        clear_to_send && !self.uart.looped() && (self.uart.ier & ier::RECEIVED != 0 || self.polls >= POLLS)
    }
}

struct Port {
    state: State,
    /// Nanoseconds a byte; 0 is no limit.
    byte_time: u64,
    /// When the wire may carry the next byte, in nanoseconds.
    wire_free: u64,
    /// The host was refused bytes and wants to hear of room.
    starved: bool,
}

/// A serial port.
pub struct Serial {
    interrupt: Arc<dyn LineSink>,
    timer: Timer,
    out: Outlet,
    port: Lock<Port>,
    room: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Serial {
    /// A serial port whose interrupt goes to `interrupt` (IRQ 4 for the first) and whose output to `out`,
    /// which may block: it has its own thread.
    pub fn new(timers: &Timers, interrupt: Arc<dyn LineSink>, out: Box<dyn Write + Send>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = timers.timer_of(weak, |me| me.with(|_| ()));
            let on_drain = weak.clone();
            let drained = move || {
                if let Some(me) = on_drain.upgrade() {
                    me.with(|p| p.state.uart.draining = true);
                }
            };
            let port = Port {
                state: State::new(),
                byte_time: 1_000_000_000 / PACE as u64,
                wire_free: 0,
                starved: false,
            };
            let out = Outlet::new(out, Box::new(drained));
            Self {
                interrupt,
                timer,
                out,
                port: Lock::new(port),
                room: OnceLock::new(),
            }
        })
    }

    /// Sends bytes to the guest; how many were accepted. When it was not all, the function given to
    /// [`Serial::on_room`] is called once there is room for more.
    pub fn push(&self, bytes: &[u8]) -> usize {
        self.with(|p| {
            let n = bytes.len().min(BACKLOG.saturating_sub(p.state.backlog.len()));
            p.state.backlog.extend(&bytes[..n]);
            p.starved |= n < bytes.len();
            n
        })
    }

    /// Whom to tell that there is room again after a [`Serial::push`] that was cut short. Called on a vCPU's
    /// or the timer thread, with nothing locked; it should only wake whoever pushes. Can be set once.
    pub fn on_room(&self, room: impl Fn() + Send + Sync + 'static) {
        // A second one is ignored: a port has one user.
        let _ = self.room.set(Box::new(room));
    }

    /// Sets the pace of input in bytes a second; 0 is as fast as the guest reads, and without waiting for it
    /// to finish setting up.
    pub fn set_pace(&self, bytes_per_second: u32) {
        self.port.lock().byte_time = 1_000_000_000u64.checked_div(bytes_per_second as u64).unwrap_or(0);
    }

    /// Sends the guest a break.
    pub fn push_break(&self) {
        self.with(|p| p.state.uart.receive_break());
    }

    /// Whether bytes wait that the guest has not read yet.
    pub fn has_input(&self) -> bool {
        let p = self.port.lock();
        !p.state.backlog.is_empty() || !p.state.uart.receiver.is_empty()
    }

    /// Waits until all output is written, at most `timeout`; whether it was. For the end of a run: dropping
    /// the port writes what is left too, but nobody waits for it.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.out.flush(timeout)
    }

    /// Runs `f`, then moves bytes from the backlog to the FIFO and drives the interrupt.
    fn with<T>(&self, f: impl FnOnce(&mut Port) -> T) -> T {
        let mut p = self.port.lock();
        let value = f(&mut p);
        self.fill(&mut p);
        self.interrupt.set(p.state.uart.interrupting());
        let room = p.starved && p.state.backlog.len() <= BACKLOG / 2;
        p.starved &= !room;
        drop(p);
        if room && let Some(tell) = self.room.get() {
            tell();
        }
        value
    }

    /// Moves bytes from the backlog to the FIFO, as many as the pace allows.
    fn fill(&self, p: &mut Port) {
        if p.state.backlog.is_empty() || p.state.uart.room() == 0 || !p.state.listening() {
            return;
        }
        let now = self.timer.now();
        if now < p.wire_free {
            self.timer.arm(p.wire_free);
            return;
        }
        // A FIFO's worth at a time: one interrupt for it, and time for it before the next.
        let n = p.state.uart.room().min(p.state.backlog.len());
        for byte in p.state.backlog.drain(..n) {
            p.state.uart.receiver.push_back(byte);
        }
        p.wire_free = now.saturating_add(p.byte_time.saturating_mul(n as u64));
    }
}

/// Whether a write is part of setting the port up: the line, the FIFOs, or the receive interrupt coming on.
fn sets_up(uart: &Uart, offset: u16, value: u8) -> bool {
    match offset {
        1 => uart.lcr & lcr::DLAB == 0 && value & !uart.ier & ier::RECEIVED != 0,
        2 => value & fcr::CLEAR_RECEIVER != 0 || (value ^ uart.fcr) & fcr::ENABLE != 0,
        3 => value != uart.lcr,
        _ => false,
    }
}

impl PortDevice for Serial {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, offset: u16, _: u8) -> u32 {
        self.with(|p| {
            if offset == 5 && p.state.uart.draining {
                p.state.polls = p.state.polls.saturating_add(1);
            }
            p.state.uart.read(offset)
        }) as u32
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        let now = self.timer.now();
        self.with(|p| {
            let s = &mut p.state;
            if sets_up(&s.uart, offset, value as u8) {
                if p.byte_time != 0 {
                    p.wire_free = p.wire_free.max(now.saturating_add(SETTLE));
                }
                // What the guest is about to throw away unread has not left the other end yet.
                while !s.uart.looped()
                    && s.backlog.len() < BACKLOG + FIFO
                    && let Some(byte) = s.uart.receiver.pop_back()
                {
                    s.backlog.push_front(byte);
                }
            }
            if let Some(byte) = s.uart.write(offset, value as u8) {
                s.polls = 0;
                s.uart.draining = self.out.push(byte);
            }
            s.uses_rts |= s.uart.mcr & (mcr::RTS | mcr::LOOP) == mcr::RTS;
        });
    }
}

impl Lifecycle for Serial {
    fn reset(&self) {
        self.with(|p| {
            // What the host has sent is for whoever comes up next.
            let backlog = std::mem::take(&mut p.state.backlog);
            let draining = p.state.uart.draining;
            p.state = State {
                backlog,
                ..State::new()
            };
            p.state.uart.draining = draining;
        });
    }

    fn migrate(&self) -> Migrate {
        self.port.lock().state.save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let mut state = State::open(record)?;
        if !state.uart.is_legal() || state.backlog.len() > BACKLOG + FIFO {
            return Err(State::damaged("impossible 16550 registers"));
        }
        // The outlet is this host's, not the one the state comes from.
        state.uart.draining = true;
        self.with(|p| {
            p.state = state;
            p.wire_free = 0;
        });
        Ok(())
    }
}

const _: () = assert!(BACKLOG >= 2 * FIFO);
