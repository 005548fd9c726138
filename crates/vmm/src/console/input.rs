//! From the outside to the guest's console.

use crate::event::{ConsoleEvent, Event};
use donjon_devices::serial::Serial;
use donjon_virtio::console::ConsolePort;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// `^]`, as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// What takes the console's input.
pub(crate) trait Port: Send + Sync {
    /// Takes as many bytes as it has room for. After it took less than all, [`Link::room`] follows.
    fn push(&self, bytes: &[u8]) -> usize;

    /// Whom to tell that there is room again.
    fn on_room(&self, room: Box<dyn Fn() + Send + Sync>);
}

impl Port for Serial {
    fn push(&self, bytes: &[u8]) -> usize {
        Serial::push(self, bytes)
    }

    fn on_room(&self, room: Box<dyn Fn() + Send + Sync>) {
        Serial::on_room(self, room);
    }
}

impl Port for ConsolePort {
    fn push(&self, bytes: &[u8]) -> usize {
        self.input(bytes)
    }

    fn on_room(&self, room: Box<dyn Fn() + Send + Sync>) {
        ConsolePort::on_room(self, room);
    }
}

#[derive(Default)]
struct State {
    port: Option<Arc<dyn Port>>,
    stop: bool,
}

/// Leads to the serial port of the machine that runs; there is none while a reset domain gets a new one.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Input goes to `port` from now on.
    pub fn connect(self: &Arc<Self>, port: Arc<dyn Port>) {
        // Weakly: the link refers to the port.
        let link = Arc::downgrade(self);
        port.on_room(Box::new(move || {
            if let Some(link) = link.upgrade() {
                link.room();
            }
        }));
        self.set_port(Some(port));
    }

    /// Input waits.
    pub fn disconnect(&self) {
        self.set_port(None);
    }

    fn set_port(&self, port: Option<Arc<dyn Port>>) {
        self.lock().port = port;
        self.changed.notify_all();
    }

    /// The port has room again.
    fn room(&self) {
        // The lock makes sure that whoever was just refused hears it.
        let _held = self.lock();
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Gives bytes to the port; waits until it has taken all of them, or drops what does not fit.
    fn send(&self, mut bytes: &[u8], wait: bool) {
        let mut state = self.lock();
        while !state.stop {
            // With the lock held: the port calls `room` with nothing locked and on other threads only.
            let taken = state.port.as_ref().map_or(0, |port| port.push(bytes));
            bytes = &bytes[taken..];
            if bytes.is_empty() || !wait {
                return;
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

/// The console's input: a thread that reads. Dropping it ends the thread.
pub(super) struct Input {
    link: Arc<Link>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Input {
    /// Reads `source` to its end, no faster than the guest. A terminal is always read, so that the escape
    /// character works even if the guest reads nothing; that, and the terminal's end, means the user leaves.
    pub fn start(source: File, terminal: bool, link: Arc<Link>, events: Sender<Event>) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        let mine = link.clone();
        let thread = thread::Builder::new().name("console-in".into()).spawn(move || {
            let left = read(source, &woken, terminal, &mine).unwrap_or_else(|e| {
                tracing::warn!("cannot read the console's input: {e}");
                terminal
            });
            if left {
                let _ = events.send(Event::Console(ConsoleEvent::Left));
            }
        })?;
        Ok(Self {
            link,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.link.stop();
        let _ = self.wake.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads until the end or until woken. Returns whether the user left.
fn read(mut source: File, woken: &UnixStream, terminal: bool, link: &Link) -> io::Result<bool> {
    let mut buffer = [0; 1 << 10];
    loop {
        let mut fds = [
            PollFd::new(&source, PollFlags::IN),
            PollFd::new(woken, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        let n = match source.read(&mut buffer) {
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
            other => other?,
        };
        let bytes = &buffer[..n];
        if bytes.is_empty() {
            return Ok(terminal);
        }
        let end = bytes.iter().position(|&b| terminal && b == ESCAPE);
        link.send(&bytes[..end.unwrap_or(n)], !terminal);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// A port that takes three bytes at a time.
    #[derive(Default)]
    struct Slow(Mutex<Vec<u8>>);

    impl Port for Slow {
        fn push(&self, bytes: &[u8]) -> usize {
            let n = bytes.len().min(3);
            self.0.lock().unwrap().extend_from_slice(&bytes[..n]);
            n
        }

        // The test calls `room` itself.
        fn on_room(&self, _: Box<dyn Fn() + Send + Sync>) {}
    }

    fn source(bytes: &[u8]) -> File {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(bytes).unwrap();
        File::from(std::os::fd::OwnedFd::from(far))
    }

    #[test]
    fn everything_arrives_in_order_at_a_slow_port() {
        let (events, _heard) = channel();
        let (link, port) = (Arc::new(Link::default()), Arc::new(Slow::default()));
        let text = b"poweroff -f\n".repeat(400);
        let _input = Input::start(source(&text), false, link.clone(), events).unwrap();
        link.set_port(Some(port.clone()));
        while port.0.lock().unwrap().len() < text.len() {
            link.room();
            thread::yield_now();
        }
        assert_eq!(*port.0.lock().unwrap(), text);
    }

    #[test]
    fn the_escape_character_leaves_though_nobody_reads() {
        let (events, heard) = channel();
        let mut keys = vec![b'x'; 10_000];
        keys.push(ESCAPE);
        let _input = Input::start(source(&keys), true, Arc::default(), events).unwrap();
        let event = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, Event::Console(ConsoleEvent::Left)));
    }

    #[test]
    fn a_guest_that_reads_nothing_and_a_silent_source_do_not_keep_it_alive() {
        let (events, heard) = channel();
        drop(Input::start(source(&[b'x'; 10_000]), false, Arc::default(), events.clone()).unwrap());
        let (_silent, far) = UnixStream::pair().unwrap();
        let far = File::from(std::os::fd::OwnedFd::from(far));
        drop(Input::start(far, false, Arc::default(), events).unwrap());
        assert!(heard.try_recv().is_err());
    }
}
