//! A port of a virtio console as what the agent talks to: a connected socket.
//!
//! The host connects as to a vsock device's socket, with a line `CONNECT PORT` that is answered with `OK PORT`
//! (see `donjon_agent_client`).

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked whether the host has connected: the kernel tells nobody.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest first line.
const LINE: usize = 32;
/// Bytes that are moved at once: what the kernel's driver takes.
const PIECE: usize = 32 << 10;

/// A port, with the host at its other end.
pub struct Port(File);

/// What moves its bytes.
pub struct Pumps {
    to_host: JoinHandle<()>,
}

impl Port {
    /// Opens one and waits for the host.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            let mut ready = [PollFd::new(&file, PollFlags::IN)];
            poll(&mut ready, Some(&Timespec::default()))?;
            if !ready[0].revents().contains(PollFlags::HUP) {
                return Ok(Self(file));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Answers the first line, and connects the rest with a socket.
    pub fn bridge(mut self) -> Result<(UnixStream, Pumps)> {
        let number = first_line(&mut self.0)?;
        self.0.write_all(format!("OK {number}\n").as_bytes())?;
        let (inside, outside) = UnixStream::pair()?;
        let (from_host, to_agent) = (self.0.try_clone()?, outside.try_clone()?);
        thread::spawn(move || {
            pump(from_host, &to_agent);
            // It has gone, or the port has.
            let _ = to_agent.shutdown(Shutdown::Write);
        });
        let to_host = thread::spawn(move || pump(outside, self.0));
        Ok((inside, Pumps { to_host }))
    }
}

impl Pumps {
    /// Waits until the host has been told everything; the agent's end of the socket has to be closed.
    pub fn finish(self) {
        let _ = self.to_host.join();
    }
}

/// Moves bytes until one side ends.
fn pump(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(n @ 1..) if to.write_all(&buffer[..n]).is_ok() => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// The number in `CONNECT NUMBER`; nothing behind that line is read.
fn first_line(port: &mut impl Read) -> Result<u32> {
    let mut line = vec![];
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        if line.len() == LINE || port.read(&mut byte)? == 0 {
            bail!("the host does not say CONNECT");
        }
        line.extend(byte);
    }
    let text = String::from_utf8_lossy(&line);
    let number = text.trim_end().strip_prefix("CONNECT ");
    number
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("the host says {text:?} instead of CONNECT PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn the_first_line_is_read_and_nothing_behind_it() {
        let mut input = &b"CONNECT 1030\nrest"[..];
        assert_eq!(first_line(&mut input).unwrap(), 1030);
        assert_eq!(input, b"rest");
    }

    #[test]
    fn other_first_lines_are_refused() {
        for wrong in [
            &b""[..],
            b"CONNECT",
            b"CONNECT x\n",
            b"HELLO 1030\n",
            &[b'C'; 100],
        ] {
            assert!(first_line(&mut &*wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn both_sides_hear_each_other_to_the_end() {
        let (mut host, port) = UnixStream::pair().unwrap();
        let port = Port(File::from(OwnedFd::from(port)));
        host.write_all(b"CONNECT 7\n").unwrap();
        let (mut agent, pumps) = port.bridge().unwrap();
        let mut answer = [0; 5];
        host.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"OK 7\n");
        host.write_all(b"question").unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        agent.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "question");
        let data = vec![5; PIECE * 3];
        let reader = thread::spawn(move || {
            let mut told = vec![0; PIECE * 3];
            host.read_exact(&mut told).map(|()| told)
        });
        agent.write_all(&data).unwrap();
        drop(agent);
        pumps.finish();
        assert!(reader.join().unwrap().unwrap() == data);
    }

    #[test]
    fn a_pump_moves_everything_and_ends() {
        let data: Vec<_> = (0..PIECE * 5 + 7).map(|n| n as u8).collect();
        let mut out = vec![];
        pump(&data[..], &mut out);
        assert!(out == data);
    }
}
