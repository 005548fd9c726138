//! Lines from somebody who may be hostile: no longer than a limit, no later than a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Reads lines off a connection.
pub struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    limit: usize,
}

impl Lines {
    pub fn new(stream: UnixStream, limit: usize) -> Self {
        Self {
            stream,
            buffer: vec![],
            limit,
        }
    }

    /// The next line without its newline, which must come within `time`; `None` at the end.
    pub fn next(&mut self, time: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + time;
        let mut searched = 0;
        loop {
            if let Some(n) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let mut line: Vec<_> = self.buffer.drain(..=searched + n).collect();
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched >= self.limit {
                return Err(ErrorKind::InvalidData.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0; 1024];
            let room = piece.len().min(self.limit - searched);
            match self.stream.read(&mut piece[..room]) {
                Ok(0) if searched == 0 => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes a line, which must be taken within `time`.
    pub fn send(&mut self, mut line: Vec<u8>, time: Duration) -> io::Result<()> {
        line.push(b'\n');
        let deadline = Instant::now() + time;
        let mut rest = &line[..];
        while !rest.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    fn reads(bytes: &[u8], limit: usize) -> Vec<Result<Option<Vec<u8>>, ErrorKind>> {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(bytes).unwrap();
        drop(b);
        let mut lines = Lines::new(a, limit);
        let mut all = vec![];
        loop {
            all.push(lines.next(SOON).map_err(|e| e.kind()));
            if !matches!(all.last(), Some(Ok(Some(_)))) {
                return all;
            }
        }
    }

    #[test]
    fn lines_have_ends_and_limits() {
        let line = |s: &str| Ok(Some(s.into()));
        assert_eq!(
            reads(b"a\n\nbc\n", 4),
            [line("a"), line(""), line("bc"), Ok(None)]
        );
        assert_eq!(reads(b"a\nb", 4), [line("a"), Err(ErrorKind::UnexpectedEof)]);
        assert_eq!(reads(b"abc\n", 4), [line("abc"), Ok(None)]);
        assert_eq!(reads(b"abcd\n", 4), [Err(ErrorKind::InvalidData)]);
    }

    #[test]
    fn a_slow_writer_is_not_waited_for() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let drip = std::thread::spawn(move || while b.write_all(b"x").is_ok() {});
        let start = Instant::now();
        let error = Lines::new(a, usize::MAX).next(SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(10));
        drip.join().unwrap();
    }

    #[test]
    fn a_reader_that_takes_nothing_is_not_waited_for() {
        let (a, _b) = UnixStream::pair().unwrap();
        let error = Lines::new(a, 1).send(vec![0; 8 << 20], SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
