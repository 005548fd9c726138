//! Moving a program's bytes.

use super::exec::Shared;
use super::spawn::Running;
use donjon_agent_protocol::exit::Exit;
use donjon_agent_protocol::frame::{FrameError, MAX_DATA};
use donjon_agent_protocol::{Reply, STDIN_WINDOW};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;

/// What a pipe or a terminal can still hold when its writer has ended: the largest pipe of an ordinary user
/// (/proc/sys/fs/pipe-max-size). More comes from somebody else who has it open.
const LEFT_OVER: usize = 1 << 20;
/// Credit is given when there is so much of it, or nothing waits.
const CREDIT: u32 = STDIN_WINDOW / 4;
/// End of file, typed on a terminal.
const EOT: [u8; 1] = [4];

/// The streams that are still open.
pub struct Pump<'a> {
    shared: &'a Shared,
    running: &'a Running,
    stdin: Option<File>,
    stdout: Option<&'a File>,
    stderr: Option<&'a File>,
    /// What was taken and the host does not know of.
    credit: u32,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Pump<'a> {
    pub fn new(shared: &'a Shared, running: &'a mut Running) -> Self {
        let stdin = running.stdin.take();
        let running = &*running;
        Self {
            shared,
            running,
            stdin,
            stdout: Some(&running.stdout),
            stderr: running.stderr.as_ref(),
            credit: 0,
            buffer: vec![0; MAX_DATA],
        }
    }

    /// Moves bytes until the program has ended and the host knows, or the connection is gone.
    pub fn run(&mut self) {
        let done = self.until_exit().and_then(|()| self.last_words());
        if done.is_ok() {
            self.shared.told.store(true, SeqCst);
        }
    }

    fn until_exit(&mut self) -> Result<(), FrameError> {
        loop {
            self.feed()?;
            let wants = !self.shared.input().waiting.is_empty();
            let parts = [
                (Some(self.running.pidfd.as_fd()), PollFlags::IN),
                (Some(self.shared.wake.as_fd()), PollFlags::IN),
                (self.stdout.map(AsFd::as_fd), PollFlags::IN),
                (self.stderr.map(AsFd::as_fd), PollFlags::IN),
                (
                    self.stdin.as_ref().filter(|_| wants).map(AsFd::as_fd),
                    PollFlags::OUT,
                ),
            ];
            let mut fds: Vec<_> = parts
                .iter()
                .filter_map(|(fd, flags)| Some(PollFd::from_borrowed_fd((*fd)?, *flags)))
                .collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
            let mut ready = fds.iter().map(|f| !f.revents().is_empty());
            let ready = parts.map(|(fd, _)| fd.is_some() && ready.next().unwrap_or(false));
            if ready[1] {
                let _ = (&self.shared.wake).read(&mut [0; 8]);
            }
            // Ended: what is left is read in bounds.
            if ready[0] {
                return Ok(());
            }
            for (stream, ready) in [(Stream::Stdout, ready[2]), (Stream::Stderr, ready[3])] {
                if ready {
                    self.read(stream)?;
                }
            }
        }
    }

    /// Reads once and tells the host. Returns how much it was; nothing means that there is none at the moment.
    fn read(&mut self, stream: Stream) -> Result<usize, FrameError> {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(mut file) = *slot else {
            return Ok(0);
        };
        match file.read(&mut self.buffer) {
            // A terminal that nobody has open any more says EIO.
            Ok(0) => *slot = None,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => *slot = None,
            Ok(n) => {
                let data = &self.buffer[..n];
                self.shared.send(&match stream {
                    Stream::Stdout => Reply::Stdout(data),
                    Stream::Stderr => Reply::Stderr(data),
                })?;
                return Ok(n);
            }
        }
        Ok(0)
    }

    /// Gives the program input, as far as it takes it.
    fn feed(&mut self) -> Result<(), FrameError> {
        let mut input = self.shared.input();
        while !input.waiting.is_empty() {
            let taken = match self.stdin.as_mut() {
                Some(stdin) => match stdin.write(input.waiting.as_slices().0) {
                    Ok(n) => n,
                    Err(e) if e.kind() == ErrorKind::Interrupted => 0,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.stdin = None;
                        0
                    }
                },
                // It reads no more, as in `head`: nobody waits for it.
                None => input.waiting.len(),
            };
            input.waiting.drain(..taken);
            self.credit = self
                .credit
                .saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        }
        let empty = input.waiting.is_empty();
        if empty && input.ended {
            self.end_input();
        }
        drop(input);
        if self.credit >= CREDIT || (empty && self.credit > 0) {
            let credit = std::mem::take(&mut self.credit);
            self.shared.send(&Reply::StdinCredit(credit))?;
        }
        Ok(())
    }

    fn end_input(&mut self) {
        let Some(mut stdin) = self.stdin.take() else {
            return;
        };
        if self.running.terminal {
            // The terminal stays; whoever reads it gets an end. One that is full gets none, which nobody notices
            // who does not read.
            let _ = stdin.write(&EOT);
        }
    }

    /// The program has ended: what it wrote, then how it ended.
    fn last_words(&mut self) -> Result<(), FrameError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut left = LEFT_OVER;
            while left > 0 {
                match self.read(stream)? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
        }
        let exit = exit_of(self.running.pid).map_err(io::Error::from)?;
        self.shared.send(&Reply::Exited(exit))
    }
}

/// How a process ended that nobody has waited for. It keeps its number.
fn exit_of(pid: Pid) -> rustix::io::Result<Exit> {
    let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let number = |n: i32| u8::try_from(n & 0xff).unwrap_or(u8::MAX);
    Ok(match status {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(number(code)),
            (None, signal) => Exit::Signal(number(signal.unwrap_or(0))),
        },
        None => Exit::Code(u8::MAX),
    })
}
