//! A program in the guest with the streams of one here.

use crate::error::ClientError;
use crate::exec::{Event, Input, Session};
use crate::terminal::{RawTerminal, terminal_size};
use donjon_agent_protocol::exit::Exit;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::termios::isatty;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

/// The streams.
pub struct Local {
    /// What the program reads; nothing, if not given.
    pub input: Option<File>,
    /// What it writes.
    pub output: File,
    /// What it writes to standard error.
    pub errors: File,
}

impl Local {
    /// This process's own.
    pub fn stdio(input: bool) -> io::Result<Self> {
        let own = |fd: rustix::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        Ok(Self {
            input: if input {
                Some(own(rustix::stdio::stdin())?)
            } else {
                None
            },
            output: own(rustix::stdio::stdout())?,
            errors: own(rustix::stdio::stderr())?,
        })
    }
}

impl Session {
    /// Connects the program with the streams until it ends.
    ///
    /// With `terminal`, which says that the program has one, an input that is a terminal is in raw mode meanwhile
    /// and its size is passed on; SIGHUP, SIGINT, SIGQUIT and SIGTERM put it back and end the session. Without,
    /// the program gets these signals.
    pub fn attach(mut self, local: Local, terminal: bool) -> Result<Exit, ClientError> {
        let Local {
            input,
            mut output,
            mut errors,
        } = local;
        let trouble = |what| move |e| ClientError::Local(what, e);
        let screen = match &input {
            Some(input) if terminal => Some(input.try_clone().map_err(trouble("standard input"))?),
            _ => None,
        };
        // First the signals: none may end this process while the terminal is raw.
        let keys_are_raw = screen.as_ref().is_some_and(isatty);
        let own_screen = screen.as_ref().map(File::try_clone).transpose();
        let own_screen = own_screen.map_err(trouble("standard input"))?;
        let signals =
            SignalThread::start(self.input(), own_screen, keys_are_raw).map_err(trouble("signals"))?;
        let raw = match &screen {
            Some(screen) => RawTerminal::enter(screen).map_err(trouble("the terminal"))?,
            None => None,
        };
        let keys = match input {
            Some(input) => Some(InputThread::start(self.input(), input).map_err(trouble("standard input"))?),
            None => None,
        };
        let result = loop {
            match self.next_event() {
                Ok(Event::Stdout(data)) => {
                    if let Err(e) = output.write_all(data) {
                        break Err(ClientError::Local("standard output", e));
                    }
                }
                Ok(Event::Stderr(data)) => {
                    if let Err(e) = errors.write_all(data) {
                        break Err(ClientError::Local("standard error", e));
                    }
                }
                Ok(Event::Exited(exit)) => break Ok(exit),
                // A signal that it does not know, say: the program goes on.
                Ok(Event::Refused(_)) => {}
                Err(error) => break Err(error),
            }
        };
        // The threads may be in the middle of telling it something.
        self.input().hang_up();
        drop((keys, raw));
        let signal = signals.stop();
        match result {
            Err(ClientError::Gone) if signal != 0 => Err(ClientError::Interrupted(signal)),
            other => other,
        }
    }
}

/// Passes signals on.
struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    /// The one that ended the session.
    ended_by: Arc<AtomicI32>,
}

impl SignalThread {
    /// `screen` is what has a size, `raw` whether keys go to the program as they are.
    fn start(input: Input, screen: Option<File>, raw: bool) -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH])?;
        let handle = signals.handle();
        let ended_by = Arc::new(AtomicI32::new(0));
        let ended = ended_by.clone();
        let size = move |input: &Input| {
            if let Some(size) = screen.as_ref().and_then(terminal_size) {
                let _ = input.resize(size);
            }
        };
        let thread = thread::Builder::new().name("signals".into()).spawn(move || {
            // It may have changed before anybody listened.
            size(&input);
            for signal in signals.forever() {
                match signal {
                    SIGWINCH => size(&input),
                    other if raw => {
                        ended.store(other, SeqCst);
                        input.hang_up();
                    }
                    other => {
                        let _ = u8::try_from(other).map(|n| input.signal(n));
                    }
                }
            }
        })?;
        Ok(Self {
            handle,
            thread: Some(thread),
            ended_by,
        })
    }

    /// Ends it. Returns the signal that ended the session, or 0.
    fn stop(mut self) -> i32 {
        self.end();
        self.ended_by.load(SeqCst)
    }

    fn end(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads the input. It never takes what nobody will read any more.
struct InputThread {
    stop: Arc<File>,
    thread: Option<JoinHandle<()>>,
}

impl InputThread {
    fn start(to: Input, from: File) -> io::Result<Self> {
        let stop: File = eventfd(0, EventfdFlags::CLOEXEC)?.into();
        let stop = Arc::new(stop);
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("input".into());
        let thread = thread.spawn(move || pass_on(&to, &from, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

fn pass_on(to: &Input, mut from: &File, stop: &File) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.end_of_file();
                return;
            }
            Ok(n) => {
                if to.write(&buffer[..n]).is_err() {
                    return;
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // A terminal that hung up.
            Err(_) => {
                let _ = to.end_of_file();
                return;
            }
        }
    }
}

impl Drop for InputThread {
    fn drop(&mut self) {
        let _ = (&*self.stop).write_all(&1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
