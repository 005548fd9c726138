//! Where a packet's bytes are.
//!
//! Guest RAM changes under the host's hands, so there are no slices of it. Instead it is asked to copy, or to
//! hand itself to the kernel with writev(2) and readv(2), which saves the copy.

use rustix::io::{read, write};
use rustix::net::{RecvFlags, recv};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// A packet to send, in one or more pieces.
pub trait Gather {
    /// Bytes, with the header.
    fn len(&self) -> usize;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies what begins at `start`. There are as many bytes.
    fn load(&self, start: usize, out: &mut [u8]);

    /// Writes a range of it in one write(2) or writev(2), which must not raise SIGPIPE (Rust programs ignore it).
    fn write_to(&self, range: Range<usize>, fd: BorrowedFd<'_>) -> io::Result<usize>;
}

/// Room for a packet that is received, in one or more pieces.
pub trait Scatter {
    /// Bytes there is room for, with the header.
    fn len(&self) -> usize;

    /// Whether there is no room.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies what was stored or read to `start`, as far as the guest has left it alone. There is as much.
    fn load(&self, start: usize, out: &mut [u8]);

    /// Copies to `start`. There is as much room.
    fn store(&mut self, start: usize, bytes: &[u8]);

    /// Fills it with one read(2) or readv(2).
    fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize>;

    /// Fills a range of it from a socket, where the bytes stay: one recvmsg(2) with MSG_PEEK.
    fn peek_from(&mut self, range: Range<usize>, socket: BorrowedFd<'_>) -> io::Result<usize>;
}

impl Gather for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }

    fn write_to(&self, range: Range<usize>, fd: BorrowedFd<'_>) -> io::Result<usize> {
        Ok(write(fd, &self[range])?)
    }
}

impl Scatter for &mut [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }

    fn store(&mut self, start: usize, bytes: &[u8]) {
        self[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        Ok(read(fd, &mut **self)?)
    }

    fn peek_from(&mut self, range: Range<usize>, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let (len, _) = recv(socket, &mut self[range], RecvFlags::PEEK)?;
        Ok(len)
    }
}
