//! One port, and its host side.

use super::control::Pending;
use super::outlet::Outlet;
use crate::device::Notifier;
use donjon_devices::sync::Lock;
use donjon_memory::Scatter;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock, Weak};
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

    pub(super) fn size(&self) -> (u16, u16) {
        self.state.lock().size.unwrap_or_default()
    }

    pub(super) fn attach(&self, notifier: Arc<dyn Notifier>) {
        self.link.lock().notifier = Some(notifier);
    }

    pub(super) fn wake_by(&self, wake: Option<Arc<dyn Fn() + Send + Sync>>) {
        self.link.lock().wake = wake;
    }

    fn wake(&self) {
        let wake = self.link.lock().wake.clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    fn tell_room(&self, mut s: std::sync::MutexGuard<'_, State>) {
        let room = s.starved && s.input.len() <= BACKLOG / 2;
        s.starved &= !room;
        drop(s);
        if room && let Some(tell) = self.on_room.get() {
            tell();
        }
    }

    /// The driver is gone, or there is another one.
    pub(super) fn forget(&self) {
        let mut s = self.state.lock();
        s.stalled = None;
        let open = std::mem::take(&mut s.guest).open;
        drop(s);
        if open && let Some(tell) = self.on_guest.get() {
            tell(false);
        }
    }

    /// The driver wants to hear that there is a port.
    pub(super) fn announce(&self) {
        self.forget();
        self.state.lock().guest.pending.add = true;
    }

    pub(super) fn set_ready(&self, ready: bool) {
        let mut s = self.state.lock();
        let (console, named) = (self.is_console(), !self.name.is_empty());
        let (open, sized) = (s.outlet.is_some(), s.size.is_some());
        s.guest.ready = ready;
        s.guest.told_open = false;
        s.guest.pending = Pending {
            add: false,
            console: ready && console,
            name: ready && named,
            close: false,
            open: ready && open,
            resize: ready && console && sized,
        };
    }

    pub(super) fn set_guest_open(&self, open: bool) {
        let before = std::mem::replace(&mut self.state.lock().guest.open, open);
        if before != open
            && let Some(tell) = self.on_guest.get()
        {
            tell(open);
        }
    }

    pub(super) fn has_message(&self) -> bool {
        self.state.lock().guest.pending.any()
    }

    pub(super) fn take_message(&self) -> Option<Vec<u8>> {
        let mut s = self.state.lock();
        let (size, connected) = (s.size.unwrap_or_default(), s.outlet.is_some());
        let guest = &mut s.guest;
        let message = guest.pending.take(self.id, &self.name, size);
        let p = guest.pending;
        guest.told_open = guest.ready && connected && !p.open && !p.close;
        message
    }

    /// Whether there is input that the guest wants.
    pub(super) fn has_input(&self) -> bool {
        let s = self.state.lock();
        s.guest.open && !s.input.is_empty()
    }

    /// Moves input into a buffer; how many bytes.
    pub(super) fn give_input(&self, buffer: &Scatter) -> u32 {
        let mut s = self.state.lock();
        let n = buffer.len().min(s.input.len());
        let mut done = 0;
        while done < n {
            let (piece, _) = s.input.as_slices();
            let len = piece.len().min(n - done);
            buffer.store(done, &piece[..len]);
            s.input.drain(..len);
            done += len;
        }
        self.tell_room(s);
        n as u32
    }

    /// Takes output, at most about `most` bytes, from where the last time ended.
    pub(super) fn take_output(&self, buffer: &Scatter, most: usize) -> Taken {
        let mut s = self.state.lock();
        let mut at = (s.guest.sent as usize).min(buffer.len());
        s.guest.sent = 0;
        let Some(outlet) = s.outlet.clone() else {
            return Taken::All;
        };
        let end = buffer.len().min(at + most);
        let mut bytes = [0; PIECE];
        while at < end {
            let piece = &mut bytes[..(end - at).min(PIECE)];
            buffer.load(at, piece);
            let n = outlet.push(piece);
            at += n;
            if n > 0 {
                s.stalled = None;
            }
            if n < piece.len() {
                return s.full(self, at, buffer.len());
            }
        }
        if end == buffer.len() {
            return Taken::All;
        }
        s.guest.sent = at as u32;
        Taken::Some
    }

    pub(super) fn save(&self) -> SavedPort {
        let s = self.state.lock();
        SavedPort {
            guest: s.guest.clone(),
            input: s.input.iter().copied().collect(),
        }
    }

    pub(super) fn restore(&self, saved: SavedPort) {
        let mut s = self.state.lock();
        s.guest = saved.guest;
        s.input = saved.input.into();
        // The host side is this host's.
        let (connected, sized) = (s.outlet.is_some(), s.size.is_some());
        let g = &mut s.guest;
        g.pending.close |= g.told_open && !connected;
        g.pending.open = g.ready && connected && !g.told_open;
        g.pending.resize = g.ready && self.is_console() && sized;
        let open = g.open;
        drop(s);
        if open && let Some(tell) = self.on_guest.get() {
            tell(true);
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

    /// There is no room for the output from `at` on.
    fn full(&mut self, port: &ConsolePort, at: usize, len: usize) -> Taken {
        let mut until = None;
        if port.is_console() {
            let give_up = *self.stalled.get_or_insert_with(Instant::now) + port.patience;
            if give_up <= Instant::now() {
                if self.lost == 0 {
                    tracing::warn!(
                        "the output of console {:?} is not being read; bytes are lost",
                        port.name
                    );
                }
                self.lost += (len - at) as u64;
                return Taken::All;
            }
            until = Some(give_up);
        }
        self.guest.sent = at as u32;
        Taken::Full(until)
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
