//! Running a program for the host.
//!
//! Two threads: this one hears what the host says, the pump moves bytes and sees the program end. A host that does
//! not read holds up the pump and so the program's output, never this thread: signals and the end of the connection
//! are always noticed. Input is held in bounds by credit.

use super::pump::Pump;
use super::spawn::{Running, resize, spawn};
use super::{Agent, Reader, Writer, malformed};
use crate::processes::signal_session;
use donjon_agent_protocol::frame::FrameError;
use donjon_agent_protocol::{Error, ErrorKind, Exec, Reply, Request, STDIN_WINDOW};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::termios::tcgetpgrp;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// How long a session has between SIGHUP and SIGKILL.
const GRACE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// What both threads know.
pub struct Shared {
    pub input: Mutex<Input>,
    pub writer: Mutex<Writer>,
    /// Wakes the pump.
    pub wake: File,
    /// The host has been told how the program ended.
    pub told: AtomicBool,
}

/// Input that waits for the program.
#[derive(Default)]
pub struct Input {
    pub waiting: VecDeque<u8>,
    pub ended: bool,
}

impl Shared {
    pub fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn send(&self, reply: &Reply<'_>) -> Result<(), FrameError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.send(reply)
    }

    fn wake(&self) {
        let _ = (&self.wake).write_all(&1u64.to_ne_bytes());
    }
}

/// Answers [`Request::Exec`].
pub fn run(agent: &Agent, exec: &Exec, mut reader: Reader, mut writer: Writer) -> Result<(), FrameError> {
    let wake = match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
        Ok(wake) => wake,
        Err(e) => {
            let error = Error::new(ErrorKind::Failed, format!("cannot make an eventfd: {e}"));
            return writer.send(&Reply::Error(error));
        }
    };
    let connection = reader.get_ref().try_clone()?;
    let mut running = match spawn(agent, exec) {
        Ok(running) => running,
        Err(error) => return writer.send(&Reply::Error(error)),
    };
    let shared = Shared {
        input: Mutex::default(),
        writer: Mutex::new(writer),
        wake: wake.into(),
        told: AtomicBool::new(false),
    };
    let (pid, terminal) = (running.pid, running.terminal);
    // The pump may close its own.
    let handles = running
        .pidfd
        .try_clone()
        .and_then(|pidfd| Ok((pidfd, running.stdout.try_clone()?)));
    let result = match handles {
        Ok((pidfd, master)) => {
            let program = Program {
                pid,
                pidfd,
                master: terminal.then_some(master),
            };
            converse(&shared, &mut running, &program, &mut reader, &connection)
        }
        Err(e) => {
            let _ = kill_process_group(pid, Signal::KILL);
            Err(e.into())
        }
    };
    // Nobody waits for it before: until here its number is its own.
    let _ = running.child.wait();
    result
}

/// What the hearing thread needs of the program.
struct Program {
    pid: Pid,
    pidfd: OwnedFd,
    master: Option<File>,
}

fn converse(
    shared: &Shared,
    running: &mut Running,
    program: &Program,
    reader: &mut Reader,
    connection: &UnixStream,
) -> Result<(), FrameError> {
    let started = Reply::Started(program.pid.as_raw_nonzero().get().cast_unsigned());
    let heard = shared.send(&started).and_then(|()| {
        thread::scope(|scope| {
            let mut pump = Pump::new(shared, running);
            let pump = move || {
                pump.run();
                // Ends the wait for the host's next message.
                let _ = connection.shutdown(Shutdown::Read);
            };
            thread::Builder::new()
                .name("exec".into())
                .spawn_scoped(scope, pump)?;
            let heard = hear(shared, program, reader);
            if !shared.told.load(SeqCst) {
                // The pump may be in the middle of telling it something.
                let _ = connection.shutdown(Shutdown::Both);
                hang_up(program);
            }
            heard
        })
    });
    if !shared.told.load(SeqCst) {
        let _ = kill_process(program.pid, Signal::KILL);
    }
    heard
}

/// Hears the host until the session ends.
fn hear(shared: &Shared, program: &Program, reader: &mut Reader) -> Result<(), FrameError> {
    loop {
        let problem = match reader.next() {
            Ok(Some(Request::Stdin(data))) => {
                let mut input = shared.input();
                // More than there was credit for.
                if input.waiting.len() + data.len() > STDIN_WINDOW as usize {
                    return Err(FrameError::Malformed);
                }
                if !input.ended {
                    input.waiting.extend(data);
                }
                drop(input);
                shared.wake();
                continue;
            }
            Ok(Some(Request::StdinEof)) => {
                shared.input().ended = true;
                shared.wake();
                continue;
            }
            Ok(Some(Request::Resize(size))) => match &program.master {
                // A terminal that has hung up has no size.
                Some(master) => {
                    let _ = resize(master, size);
                    continue;
                }
                None => Error::new(ErrorKind::Invalid, "the program has no terminal"),
            },
            Ok(Some(Request::Signal(number))) => match signal(program, number) {
                Ok(()) => continue,
                Err(error) => error,
            },
            Ok(Some(_)) | Err(FrameError::Malformed) => malformed(),
            Ok(None) => return Ok(()),
            Err(e) => return Err(e),
        };
        shared.send(&Reply::Error(problem))?;
    }
}

fn signal(program: &Program, number: u8) -> Result<(), Error> {
    let Some(signal) = Signal::from_named_raw(number.into()) else {
        let what = format!("there is no signal {number}; use one from 1 to 31");
        return Err(Error::new(ErrorKind::Invalid, what));
    };
    let foreground = program.master.as_ref().and_then(|m| tcgetpgrp(m).ok());
    if kill_process_group(foreground.unwrap_or(program.pid), signal).is_err() {
        // One that was started just now may not have a group of its own yet, and one that has ended a moment ago
        // needs no signal.
        let _ = kill_process(program.pid, signal);
    }
    Ok(())
}

/// Ends the program's session, politely at first.
fn hang_up(program: &Program) {
    if signal_session(program.pid, Signal::HUP) == 0 {
        // One that was started just now may not have a session of its own yet.
        let _ = kill_process(program.pid, Signal::HUP);
    }
    // A stopped one would not notice.
    signal_session(program.pid, Signal::CONT);
    let mut ended = [PollFd::from_borrowed_fd(program.pidfd.as_fd(), PollFlags::IN)];
    let _ = poll(&mut ended, Some(&GRACE));
    // The others have had as long as the first one took. New ones may be started while this looks.
    for _ in 0..100 {
        let _ = kill_process(program.pid, Signal::KILL);
        if signal_session(program.pid, Signal::KILL) == 0 {
            break;
        }
        thread::yield_now();
    }
}
