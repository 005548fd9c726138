//! Packets from a socket at whose other end is somebody who may be hostile.

use crate::backend::{DropCounts, count};
use crate::header::{Checked, HEAD, HEADER, ROOM};
use crate::offloads::Offloads;
use crate::packet::Scatter;
use crate::segment::Segments;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

/// Checks packets, and does what the guest does not take undone.
#[derive(Default)]
pub struct Inbox {
    /// What is left of a packet that was cut up.
    segments: Option<Segments>,
    /// For a packet that cannot stay where it was received.
    scratch: Vec<u8>,
    /// For one that is made of another.
    made: Vec<u8>,
}

/// What came out of a socket.
pub enum Received {
    /// A packet, so long and from this address.
    Packet(usize, [u8; 6]),
    /// One that had to be dropped.
    Dropped,
    /// Nobody is there any more.
    End,
}

impl Inbox {
    /// The next segment of a packet that was cut up.
    pub fn segment(&mut self, into: &mut dyn Scatter, drops: &DropCounts) -> Option<usize> {
        while let Some(segments) = &mut self.segments {
            if !segments.next(&mut self.made) {
                self.scratch = self.segments.take()?.into_buffer();
            } else if self.made.len() > into.len() {
                count(&drops.received);
            } else {
                into.store(0, &self.made);
                return Some(self.made.len());
            }
        }
        None
    }

    /// Receives from a socket that keeps packets apart and does not block. There must be no segment left.
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        accepted: Offloads,
        into: &mut dyn Scatter,
        drops: &DropCounts,
    ) -> io::Result<Received> {
        let direct = into.len() >= ROOM;
        let read = if direct {
            into.read_from(fd)
        } else {
            self.scratch.resize(ROOM, 0);
            rustix::io::read(fd, &mut self.scratch[..]).map_err(Into::into)
        };
        let len = match read {
            Ok(0) => return Ok(Received::End),
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Received::End),
            Err(e) => return Err(e),
        };
        let mut head = [0; HEAD];
        let shown = len.min(HEAD);
        match direct {
            true => into.load(0, &mut head[..shown]),
            false => head[..shown].copy_from_slice(&self.scratch[..shown]),
        }
        let Ok(checked) = Checked::new(&head[..shown], len) else {
            count(&drops.malformed);
            return Ok(Received::Dropped);
        };
        let source = *head[HEADER + 6..].first_chunk().expect("long enough");
        if checked.suits(accepted) && (direct || len <= into.len()) {
            if !direct {
                into.store(HEADER, &self.scratch[HEADER..len]);
            }
            into.store(0, &checked.header.to_bytes());
            return Ok(Received::Packet(len, source));
        }
        if direct {
            self.scratch.resize(len, 0);
            into.load(0, &mut self.scratch);
        }
        self.scratch.truncate(len);
        // Looked at once more: the guest may have been at it in its memory.
        match Segments::new(std::mem::take(&mut self.scratch), accepted) {
            Ok(segments) => self.segments = Some(segments),
            Err(_) => count(&drops.malformed),
        }
        Ok(match self.segment(into, drops) {
            Some(len) => Received::Packet(len, source),
            None => Received::Dropped,
        })
    }
}
