//! What a program of the host says before it is connected: `CONNECT PORT`.

use rustix::net::{RecvFlags, recv};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Bytes of the longest line.
const LONGEST: usize = 32;

/// A connection of which nothing is known yet.
pub struct Handshake {
    pub stream: UnixStream,
    /// There may be something to read.
    pub readable: bool,
    /// It has until then.
    pub until: Instant,
}

/// What has come of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing yet.
    Waits,
    /// It wants this port of the guest.
    Port(u32),
    /// It is gone, or speaks another language.
    Failed,
}

impl Handshake {
    /// Reads the line and nothing behind it.
    pub fn advance(&mut self) -> Progress {
        let mut line = [0; LONGEST];
        let (n, _) = match recv(&self.stream, &mut line, RecvFlags::PEEK) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR) => return Progress::Waits,
            Err(rustix::io::Errno::AGAIN) => {
                self.readable = false;
                return Progress::Waits;
            }
            Err(_) => return Progress::Failed,
        };
        let Some(end) = line[..n].iter().position(|b| *b == b'\n') else {
            self.readable = false;
            return if n == 0 || n == LONGEST {
                Progress::Failed
            } else {
                Progress::Waits
            };
        };
        match (self.take(end + 1), parse(&line[..end])) {
            (Ok(()), Some(port)) => Progress::Port(port),
            _ => Progress::Failed,
        }
    }

    fn take(&mut self, n: usize) -> io::Result<()> {
        self.stream.read_exact(&mut [0; LONGEST][..n])
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let asks = words.next()?.eq_ignore_ascii_case("connect");
    let port = words.next()?.parse().ok()?;
    (asks && words.next().is_none()).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn said(text: &[u8]) -> (Progress, Vec<u8>) {
        let (mut far, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        far.write_all(text).unwrap();
        drop(far);
        let mut h = Handshake {
            stream,
            readable: true,
            until: Instant::now(),
        };
        let progress = h.advance();
        let mut rest = vec![];
        let _ = h.stream.read_to_end(&mut rest);
        (progress, rest)
    }

    #[test]
    fn lines() {
        assert_eq!(
            said(b"CONNECT 1234\nGET /"),
            (Progress::Port(1234), b"GET /".to_vec())
        );
        assert_eq!(said(b"connect  4294967295 \r\n").0, Progress::Port(u32::MAX));
        assert_eq!(said(b"CONN").0, Progress::Waits);
        for bad in [
            &b""[..],
            b"\n",
            b"CONNECT\n",
            b"CONNECT -1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"OK 5\n",
            b"\xff\xff 5\n",
            b"CONNECT                             1\n",
        ] {
            assert_eq!(said(bad).0, Progress::Failed, "{bad:?}");
        }
    }
}
