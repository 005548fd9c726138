//! A tar stream in pieces of a message each.

use crate::frame::MAX_DATA;
use std::io::{self, BufWriter, Read, Write};

/// Collects what is written and passes it on in large pieces.
pub struct Outgoing<F: FnMut(&[u8]) -> io::Result<()>>(BufWriter<Pieces<F>>);

struct Pieces<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<()>> Outgoing<F> {
    /// Passes pieces of at most [`MAX_DATA`] bytes to `send`.
    pub fn new(send: F) -> Self {
        Self(BufWriter::with_capacity(MAX_DATA, Pieces(send)))
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Outgoing<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Pieces<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_DATA)];
        (self.0)(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the pieces that come in.
pub struct Incoming<F: FnMut(&mut Vec<u8>) -> io::Result<bool>> {
    fetch: F,
    piece: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<F: FnMut(&mut Vec<u8>) -> io::Result<bool>> Incoming<F> {
    /// `fetch` puts the next piece into the vector, which is empty; false says that there is none.
    pub fn new(fetch: F) -> Self {
        Self {
            fetch,
            piece: vec![],
            taken: 0,
            ended: false,
        }
    }

    /// Whether the end has been seen.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

impl<F: FnMut(&mut Vec<u8>) -> io::Result<bool>> Read for Incoming<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            self.piece.clear();
            self.taken = 0;
            self.ended = !(self.fetch)(&mut self.piece)?;
        }
        let n = out.len().min(self.piece.len() - self.taken);
        out[..n].copy_from_slice(&self.piece[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}
