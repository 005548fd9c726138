//! Guest RAM as packets for backends.

use donjon_memory::Scatter;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// A packet in parts of guest RAM, or room for one.
pub struct Packet<'a>(pub &'a Scatter);

impl donjon_net::Gather for Packet<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        self.0.load(start, out);
    }

    fn write_to(&self, range: Range<usize>, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.write_to(range, fd, None)
    }
}

impl donjon_net::Scatter for Packet<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        self.0.load(start, out);
    }

    fn store(&mut self, start: usize, bytes: &[u8]) {
        self.0.store(start, bytes);
    }

    fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.read_from(0..self.0.len(), fd, None)
    }

    fn peek_from(&mut self, range: Range<usize>, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.peek_from(range, socket)
    }
}
