//! The device's side of a port.

use super::{ConsolePort, Notifier, PIECE, Pending, SavedPort, State, Taken};
use donjon_memory::Scatter;
use std::sync::Arc;
use std::time::Instant;

impl ConsolePort {
    pub(in crate::console) fn size(&self) -> (u16, u16) {
        self.state.lock().size.unwrap_or_default()
    }

    pub(in crate::console) fn attach(&self, notifier: Arc<dyn Notifier>) {
        self.link.lock().notifier = Some(notifier);
    }

    pub(in crate::console) fn wake_by(&self, wake: Option<Arc<dyn Fn() + Send + Sync>>) {
        self.link.lock().wake = wake;
    }

    /// The driver is gone, or there is another one.
    pub(in crate::console) fn forget(&self) {
        let mut s = self.state.lock();
        s.stalled = None;
        let open = std::mem::take(&mut s.guest).open;
        drop(s);
        if open && let Some(tell) = self.on_guest.get() {
            tell(false);
        }
    }

    /// The driver wants to hear that there is a port.
    pub(in crate::console) fn announce(&self) {
        self.forget();
        self.state.lock().guest.pending.add = true;
    }

    pub(in crate::console) fn set_ready(&self, ready: bool) {
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

    pub(in crate::console) fn set_guest_open(&self, open: bool) {
        let before = std::mem::replace(&mut self.state.lock().guest.open, open);
        if before != open
            && let Some(tell) = self.on_guest.get()
        {
            tell(open);
        }
    }

    pub(in crate::console) fn has_message(&self) -> bool {
        self.state.lock().guest.pending.any()
    }

    pub(in crate::console) fn take_message(&self) -> Option<Vec<u8>> {
        let mut s = self.state.lock();
        let (size, connected) = (s.size.unwrap_or_default(), s.outlet.is_some());
        let guest = &mut s.guest;
        let message = guest.pending.take(self.id, &self.name, size);
        let p = guest.pending;
        guest.told_open = guest.ready && connected && !p.open && !p.close;
        message
    }

    /// Whether there is input that the guest wants.
    pub(in crate::console) fn has_input(&self) -> bool {
        let s = self.state.lock();
        s.guest.open && !s.input.is_empty()
    }

    /// Moves input into a buffer; how many bytes.
    pub(in crate::console) fn give_input(&self, buffer: &Scatter) -> u32 {
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
    pub(in crate::console) fn take_output(&self, buffer: &Scatter, most: usize) -> Taken {
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

    pub(in crate::console) fn save(&self) -> SavedPort {
        let s = self.state.lock();
        SavedPort {
            guest: s.guest.clone(),
            input: s.input.iter().copied().collect(),
        }
    }

    pub(in crate::console) fn restore(&self, saved: SavedPort) {
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
