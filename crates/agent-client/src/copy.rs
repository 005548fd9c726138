//! Copying between host and guest.

use crate::client::Client;
use crate::error::ClientError;
use crate::printable;
use donjon_agent_protocol::copy::{self, CopyError, Incoming, Options, Outgoing, Report, Source};
use donjon_agent_protocol::{Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the guest may take for one piece: it may be writing megabytes to a slow disk.
const PIECE: Duration = Duration::from_secs(300);

/// How something is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyOptions {
    /// What a symbolic link leads to is copied, if the source is one.
    pub follow: bool,
    /// Owners and the set-user-ID, set-group-ID and sticky bits are kept.
    pub preserve: bool,
}

impl CopyOptions {
    fn receiving(self) -> Options {
        Options {
            preserve: self.preserve,
        }
    }
}

impl Client {
    /// Copies the file or directory `from` of the host to `to` in the guest, by the rules of `docker cp`.
    pub fn copy_in(&self, from: &Path, to: &str, options: CopyOptions) -> Result<Report, ClientError> {
        let kind = copy::kind(from, options.follow).map_err(ClientError::Copy)?;
        let mut connection = self.connect()?;
        connection.send(&Request::CopyIn {
            path: to.into(),
            source: Source::named(from, kind),
            options: options.receiving(),
        })?;
        match connection.next()? {
            Reply::Ready => {}
            _ => return Err(ClientError::Nonsense("it is not ready for a copy")),
        }
        let out = Outgoing::new(|piece| {
            // It speaks before the end only to say that it is of no use to go on.
            if has_come(connection.stream())? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            connection.limit(Some(PIECE));
            let sent = connection.send(&Request::Data(piece));
            sent.map_err(|e| io::Error::other(e.to_string()))
        });
        let sent = copy::send(from, kind, out);
        let report = match sent {
            Ok(report) => {
                connection.limit(Some(PIECE));
                connection.send(&Request::End)?;
                report
            }
            // Its own words say more.
            Err(CopyError::Stream(e)) => {
                connection.limit(Some(crate::client::ANSWER));
                return match connection.next() {
                    Err(refused @ ClientError::Refused(_)) => Err(refused),
                    _ => Err(ClientError::Copy(CopyError::Stream(e))),
                };
            }
            Err(e) => return Err(ClientError::Copy(e)),
        };
        match connection.next()? {
            Reply::Copied(mut received) => {
                received.add_skipped(&report);
                Ok(printable::report(received))
            }
            _ => Err(ClientError::Nonsense("it does not say that it has copied")),
        }
    }

    /// Copies the file or directory `from` of the guest to `to` on the host, by the rules of `docker cp`. Whatever
    /// the guest sends, nothing is written elsewhere.
    pub fn copy_out(&self, from: &str, to: &Path, options: CopyOptions) -> Result<Report, ClientError> {
        let mut connection = self.connect()?;
        connection.send(&Request::CopyOut {
            path: from.into(),
            follow: options.follow,
        })?;
        let kind = match connection.next()? {
            Reply::Source(kind) => kind,
            _ => return Err(ClientError::Nonsense("it does not say what it copies")),
        };
        let source = Source::named(Path::new(from), kind);
        let target = copy::target(to, &source).map_err(ClientError::Copy)?;
        let mut end = None;
        let input = Incoming::new(|piece| {
            connection.limit(Some(PIECE));
            match connection.next() {
                Ok(Reply::Data(data)) => {
                    piece.extend_from_slice(data);
                    return Ok(true);
                }
                Ok(Reply::Copied(report)) => {
                    end = Some(Ok(report));
                    return Ok(false);
                }
                Ok(_) => end = Some(Err(ClientError::Nonsense("it does not send what it copies"))),
                Err(error) => end = Some(Err(error)),
            }
            Err(io::ErrorKind::ConnectionAborted.into())
        });
        let received = copy::receive(&target, input, options.receiving());
        match (received, end) {
            (Err(CopyError::Stream(_)), Some(Err(error))) => Err(error),
            // What is wrong with an archive may be told in its own words.
            (Err(CopyError::Stream(e)), _) => {
                let told = io::Error::new(e.kind(), printable::text(e.to_string()));
                Err(ClientError::Copy(CopyError::Stream(told)))
            }
            (Err(error), _) => Err(ClientError::Copy(error)),
            (Ok(mut received), Some(Ok(sent))) => {
                received.add_skipped(&sent);
                Ok(printable::report(received))
            }
            (Ok(_), _) => Err(ClientError::Gone),
        }
    }
}

/// Whether there is something to read.
fn has_come(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut fds, Some(&now))? > 0)
}
