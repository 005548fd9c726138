//! A program in the guest.

use crate::client::Client;
use crate::connection::Timed;
use crate::error::ClientError;
use crate::printable;
use donjon_agent_protocol::exit::Exit;
use donjon_agent_protocol::frame::{FrameError, FrameReader, FrameWriter, MAX_DATA};
use donjon_agent_protocol::{Error, Exec, Reply, Request, STDIN_WINDOW, WindowSize};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A program that runs. Dropping this ends it, and every process of its session.
pub struct Session {
    reader: FrameReader<Timed>,
    input: Input,
    pid: u32,
}

/// What a program does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// It wrote to standard output, or its terminal.
    Stdout(&'a [u8]),
    /// It wrote to standard error.
    Stderr(&'a [u8]),
    /// It has ended; nothing comes behind it.
    Exited(Exit),
    /// The agent does not do what [`Input`] asked for. The program goes on.
    Refused(Error),
}

/// The way to a program; all copies lead to the same.
#[derive(Clone)]
pub struct Input(Arc<Shared>);

struct Shared {
    writer: Mutex<FrameWriter<Timed>>,
    /// The same connection, for ending it while somebody writes.
    stream: UnixStream,
    credit: Mutex<Credit>,
    changed: Condvar,
}

struct Credit {
    bytes: u32,
    ended: bool,
}

impl Client {
    /// Starts a program.
    pub fn exec(&self, exec: &Exec) -> Result<Session, ClientError> {
        let mut connection = self.connect()?;
        connection.send(&Request::Exec(exec.clone()))?;
        let pid = match connection.next()? {
            Reply::Started(pid) => pid,
            _ => return Err(ClientError::Nonsense("it does not say that the program runs")),
        };
        let (reader, writer) = connection.split();
        let stream = reader.get_ref().stream.try_clone()?;
        let shared = Shared {
            writer: Mutex::new(writer),
            stream,
            credit: Mutex::new(Credit {
                bytes: STDIN_WINDOW,
                ended: false,
            }),
            changed: Condvar::new(),
        };
        Ok(Session {
            reader,
            input: Input(Arc::new(shared)),
            pid,
        })
    }
}

impl Session {
    /// Its process ID in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The way to it.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Waits for what it does next.
    pub fn next_event(&mut self) -> Result<Event<'_>, ClientError> {
        loop {
            // Credit is no event. What is borrowed from the reader cannot leave a loop, so it is looked at twice.
            let reply = match self.reader.next::<Reply<'_>>() {
                Ok(Some(reply)) => reply,
                Ok(None) => return Err(ClientError::Gone),
                Err(e) => return Err(e.into()),
            };
            if let Reply::StdinCredit(bytes) = reply {
                self.input.add_credit(bytes);
                continue;
            }
            break;
        }
        match self.reader.last::<Reply<'_>>()? {
            Reply::Stdout(data) => Ok(Event::Stdout(data)),
            Reply::Stderr(data) => Ok(Event::Stderr(data)),
            Reply::Exited(exit) => {
                self.input.end();
                Ok(Event::Exited(exit))
            }
            Reply::Error(error) => Ok(Event::Refused(printable::error(error))),
            _ => Err(ClientError::Nonsense("it answers something else")),
        }
    }

    /// Everything that it writes, up to so many bytes of each stream, and how it ended. For programs without a
    /// terminal that write little.
    pub fn output(mut self, most: usize) -> Result<(Exit, Vec<u8>, Vec<u8>), ClientError> {
        let (mut out, mut err) = (vec![], vec![]);
        loop {
            let (into, data) = match self.next_event()? {
                Event::Stdout(data) => (&mut out, data),
                Event::Stderr(data) => (&mut err, data),
                Event::Exited(exit) => return Ok((exit, out, err)),
                Event::Refused(error) => return Err(error.into()),
            };
            let room = most.saturating_sub(into.len());
            into.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input.end();
        let _ = self.input.0.stream.shutdown(Shutdown::Both);
    }
}

impl Input {
    fn credit(&self) -> MutexGuard<'_, Credit> {
        self.0.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_credit(&self, bytes: u32) {
        let mut credit = self.credit();
        // No more than was ever possible, whatever the agent says.
        credit.bytes = credit.bytes.saturating_add(bytes).min(STDIN_WINDOW);
        self.0.changed.notify_all();
    }

    fn end(&self) {
        self.credit().ended = true;
        self.0.changed.notify_all();
    }

    /// Ends the session from another thread than that which waits for events; that gets [`ClientError::Gone`].
    pub fn hang_up(&self) {
        self.end();
        let _ = self.0.stream.shutdown(Shutdown::Both);
    }

    fn send(&self, request: &Request<'_>) -> Result<(), ClientError> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.send(request).map_err(|e: FrameError| e.into())
    }

    /// Gives it input. Waits while it takes none.
    pub fn write(&self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let mut credit = self.credit();
            while credit.bytes == 0 && !credit.ended {
                credit = self
                    .0
                    .changed
                    .wait(credit)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if credit.ended {
                return Err(ClientError::Gone);
            }
            let n = bytes.len().min(credit.bytes as usize).min(MAX_DATA);
            credit.bytes -= n as u32;
            drop(credit);
            self.send(&Request::Stdin(&bytes[..n]))?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// There is no more input.
    pub fn end_of_file(&self) -> Result<(), ClientError> {
        self.send(&Request::StdinEof)
    }

    /// Its terminal has another size.
    pub fn resize(&self, size: WindowSize) -> Result<(), ClientError> {
        self.send(&Request::Resize(size))
    }

    /// Sends it a signal, 1 to 31.
    pub fn signal(&self, number: u8) -> Result<(), ClientError> {
        self.send(&Request::Signal(number))
    }
}
