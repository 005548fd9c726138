//! One port, and its host side.

mod guest;

use super::control::Pending;
use super::outlet::Outlet;
use crate::device::Notifier;
use donjon_devices::sync::Lock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Bytes of input that wait for the guest.
pub(super) const BACKLOG: usize = 64 << 10;
/// Bytes that are copied at once.
const PIECE: usize = 4096;

/// What the driver and the device know of each other about a port.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Guest {
    /// The driver has set it up.
    ready: bool,
    /// Somebody in the guest has it open.
    open: bool,
    /// The driver was told that the host has it open.
    told_open: bool,
    pending: Pending,
    /// Bytes at the start of the next output buffer that were taken already.
    sent: u32,
}

/// What is saved of a port.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedPort {
    guest: Guest,
    input: Vec<u8>,
}

impl SavedPort {
    pub fn is_sound(&self) -> bool {
        self.input.len() <= BACKLOG
    }
}

struct State {
    guest: Guest,
    /// Where output goes: the host has the port open.
    outlet: Option<Arc<Outlet>>,
    input: VecDeque<u8>,
    /// Input was refused.
    starved: bool,
    size: Option<(u16, u16)>,
    /// Since when nothing has been taken of a console's output.
    stalled: Option<Instant>,
    lost: u64,
}

/// How a port reaches its device.
#[derive(Default)]
struct Link {
    wake: Option<Arc<dyn Fn() + Send + Sync>>,
    notifier: Option<Arc<dyn Notifier>>,
}

/// How an output buffer went.
pub(super) enum Taken {
    /// All of it is done with.
    All,
    /// There may be more to take from it at once.
    Some,
    /// Nothing can be taken before there is room, or before that time.
    Full(Option<Instant>),
}

/// The host side of a port.
///
/// It is closed until [`ConsolePort::connect`]. Callbacks run on a vCPU's or the device's thread: they may use
/// the port, but should not wait.
pub struct ConsolePort {
    id: u32,
    name: String,
    patience: Duration,
    state: Lock<State>,
    link: Lock<Link>,
    me: Weak<Self>,
    on_room: OnceLock<Box<dyn Fn() + Send + Sync>>,
    on_guest: OnceLock<Box<dyn Fn(bool) + Send + Sync>>,
}

impl ConsolePort {
    pub(super) fn new(id: u32, name: String, patience: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            id,
            name,
            patience,
            state: Lock::new(State {
                guest: Guest::default(),
                outlet: None,
                input: VecDeque::new(),
                starved: false,
                size: None,
                stalled: None,
                lost: 0,
            }),
            link: Lock::default(),
            me: me.clone(),
            on_room: OnceLock::new(),
            on_guest: OnceLock::new(),
        })
    }

    /// The name that the guest sees: `/dev/virtio-ports/NAME` in Linux.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a console (`hvc0`), not just a channel.
    pub fn is_console(&self) -> bool {
        self.id == 0
    }

    /// Opens the host side. The guest's output goes to `output`, on a thread of its own, so that it may block.
    /// A channel's output then waits in the guest. A console's does for a second, since Linux writes with
    /// interrupts off, and is lost after that until there is room again. What was connected before is closed.
    pub fn connect(&self, output: Box<dyn Write + Send>) -> io::Result<()> {
        let me = self.me.clone();
        let outlet = Outlet::start(output, move || {
            if let Some(me) = me.upgrade() {
                me.wake();
            }
        })?;
        let mut s = self.state.lock();
        s.close();
        s.outlet = Some(Arc::new(outlet));
        s.guest.pending.open = s.guest.ready;
        drop(s);
        self.wake();
        Ok(())
    }

    /// Closes the host side; what was sent to it is still written. A closed port's output goes nowhere.
    pub fn disconnect(&self) {
        self.state.lock().close();
        self.wake();
    }

    /// Sends bytes to the guest; how many were accepted. They wait until the guest has the port open. When it
    /// was not all, the function given to [`ConsolePort::on_room`] is called once there is room for more.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut s = self.state.lock();
        let n = bytes.len().min(BACKLOG - s.input.len());
        s.input.extend(&bytes[..n]);
        s.starved |= n < bytes.len();
        drop(s);
        self.wake();
        n
    }

    /// Throws away what the guest has not read.
    pub fn discard_input(&self) {
        let mut s = self.state.lock();
        s.input.clear();
        self.tell_room(s);
    }

    /// Whom to tell that there is room again after an [`ConsolePort::input`] that was cut short. Can be set once.
    pub fn on_room(&self, room: impl Fn() + Send + Sync + 'static) {
        // A second one is ignored: a port has one user.
        let _ = self.on_room.set(Box::new(room));
    }

    /// Whom to tell that the guest opened (`true`) or closed the port. Can be set once.
    pub fn on_guest(&self, told: impl Fn(bool) + Send + Sync + 'static) {
        let _ = self.on_guest.set(Box::new(told));
    }

    /// Whether the guest has the port open.
    pub fn guest_open(&self) -> bool {
        self.state.lock().guest.open
    }

    /// The console has another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut s = self.state.lock();
        s.size = Some((columns, rows));
        s.guest.pending.resize = s.guest.ready;
        drop(s);
        self.wake();
        let notifier = self.link.lock().notifier.clone();
        if self.is_console()
            && let Some(notifier) = notifier
        {
            notifier.configuration_changed();
        }
    }

    /// Waits until all output that was taken from the guest is written, at most `timeout`; whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let outlet = self.state.lock().outlet.clone();
        outlet.is_none_or(|o| o.flush(timeout))
    }

    fn wake(&self) {
        let wake = self.link.lock().wake.clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    fn tell_room(&self, mut s: MutexGuard<'_, State>) {
        let room = s.starved && s.input.len() <= BACKLOG / 2;
        s.starved &= !room;
        drop(s);
        if room && let Some(tell) = self.on_room.get() {
            tell();
        }
    }
}

impl State {
    fn close(&mut self) {
        if self.outlet.take().is_some() {
            self.guest.pending.close |= self.guest.told_open;
            self.guest.told_open = false;
            self.guest.pending.open = false;
        }
        self.stalled = None;
    }
}

#[cfg(test)]
impl ConsolePort {
    pub(super) fn state_is_full(&self) -> bool {
        self.state.lock().guest.sent > 0
    }
}

#[cfg(test)]
impl SavedPort {
    pub(super) fn overfill(&mut self) {
        self.input = vec![0; BACKLOG + 1];
    }
}
