//! A session with the agent.

use crate::error::ClientError;
use crate::printable;
use donjon_agent_protocol::frame::{FrameReader, FrameWriter};
use donjon_agent_protocol::hello::{self, HelloError};
use donjon_agent_protocol::{PORT, Reply, Request};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a socket with a full queue is tried.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest line that answers CONNECT.
const LINE: usize = 32;

/// A stream whose reads and writes end at some time, however slowly the other side drips.
pub struct Timed {
    pub stream: UnixStream,
    limit: Option<(Instant, Duration)>,
}

impl Timed {
    /// From now on, so long for everything together.
    pub fn limit(&mut self, time: Option<Duration>) {
        self.limit = time.and_then(|t| Some((Instant::now().checked_add(t)?, t)));
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some((until, _)) = self.limit else {
            return Ok(None);
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(out).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session that has said hello.
pub struct Connection {
    reader: FrameReader<Timed>,
    writer: FrameWriter<Timed>,
}

impl Connection {
    /// Connects through the vsock device's socket at `path`.
    pub fn open(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let until = Instant::now() + patience;
        let stream = dial(path, until)?;
        let mut timed = Timed {
            stream,
            limit: Some((until, patience)),
        };
        let connected = timed
            .write_all(format!("CONNECT {PORT}\n").as_bytes())
            .and_then(|()| read_line(&mut timed));
        match connected {
            Ok(true) => Self::over(timed.stream, until, patience),
            Ok(false) => Err(ClientError::NoAgent("nobody listens on its port")),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                Err(ClientError::NoAgent("the guest does not answer"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Says hello over a connected stream.
    fn over(stream: UnixStream, until: Instant, patience: Duration) -> Result<Self, ClientError> {
        let limit = Some((until, patience));
        let other = stream.try_clone()?;
        let mut connection = Self {
            reader: FrameReader::new(Timed { stream, limit }),
            writer: FrameWriter::new(Timed { stream: other, limit }),
        };
        match hello::greet(&mut connection.reader, &mut connection.writer) {
            Ok(_) => Ok(connection),
            Err(HelloError::Frame(e)) => match e.into() {
                ClientError::Io(e) if e.kind() == ErrorKind::TimedOut => {
                    Err(ClientError::NoAgent("who listens on its port says nothing"))
                }
                e => Err(e),
            },
            Err(HelloError::Closed) => Err(ClientError::Gone),
            Err(HelloError::Stranger) => Err(ClientError::Nonsense("it does not say hello")),
            Err(e @ HelloError::Version(..)) => Err(ClientError::Version(e)),
        }
    }

    /// From now on, so long for everything together; for ever, if not given.
    pub fn limit(&mut self, time: Option<Duration>) {
        self.reader.get_mut().limit(time);
        self.writer.get_mut().limit(time);
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        let result = self.writer.send(request).map_err(ClientError::from);
        result.map_err(|e| silent(e, self.writer.get_ref()))
    }

    /// The next reply. An error is one.
    pub fn next(&mut self) -> Result<Reply<'_>, ClientError> {
        let limit = self.reader.get_ref().limit;
        match self.reader.next() {
            Ok(Some(Reply::Error(error))) => Err(printable::error(error).into()),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(ClientError::Gone),
            Err(e) => Err(silent_for(e.into(), limit)),
        }
    }

    /// Sends a request whose reply is that it was done.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        self.send(request)?;
        match self.next()? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Nonsense("it answers something else")),
        }
    }

    /// The stream, for looking whether something has come.
    pub fn stream(&self) -> &UnixStream {
        &self.reader.get_ref().stream
    }

    /// Its two sides, without time limits.
    pub fn split(mut self) -> (FrameReader<Timed>, FrameWriter<Timed>) {
        self.limit(None);
        (self.reader, self.writer)
    }
}

fn silent(error: ClientError, timed: &Timed) -> ClientError {
    silent_for(error, timed.limit)
}

fn silent_for(error: ClientError, limit: Option<(Instant, Duration)>) -> ClientError {
    match (error, limit) {
        (ClientError::Io(e), Some((_, time))) if e.kind() == ErrorKind::TimedOut => {
            ClientError::Silent(time.as_secs())
        }
        (error, _) => error,
    }
}

/// Connects, even if many others do.
fn dial(path: &Path, until: Instant) -> Result<UnixStream, ClientError> {
    let failed = |e: Errno| ClientError::Io(e.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTSOCK) => {
                return Err(ClientError::NoDomain(path.into()));
            }
            Err(Errno::AGAIN) if Instant::now() < until => sleep(PAUSE),
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Reads the line that says that the guest's port answers, and nothing behind it. False if the connection ends or
/// the line is another.
fn read_line(stream: &mut Timed) -> io::Result<bool> {
    let mut line = vec![];
    while line.len() < LINE {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Ok(false),
            Ok(_) if byte == *b"\n" => return Ok(line.starts_with(b"OK ")),
            Ok(_) => line.extend(byte),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}
