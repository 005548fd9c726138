//! Guest RAM as memory that images transfer to and from.

use donjon_block::Buffer;
use donjon_memory::Scatter;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// A list of parts of guest RAM as a buffer.
pub struct Guest<'a>(pub &'a Scatter);

impl Buffer for Guest<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read_file(&self, mut range: Range<usize>, file: &File, mut at: u64) -> io::Result<()> {
        while !range.is_empty() {
            match self.0.read_from(range.clone(), file.as_fd(), Some(at)) {
                Ok(0) => {
                    self.0.zero(range);
                    break;
                }
                Ok(n) => {
                    range.start += n;
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_file(&self, mut range: Range<usize>, file: &File, mut at: u64) -> io::Result<()> {
        while !range.is_empty() {
            match self.0.write_to(range.clone(), file.as_fd(), Some(at)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    range.start += n;
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        self.0.load(start, out);
    }

    fn store(&self, start: usize, data: &[u8]) {
        self.0.store(start, data);
    }

    fn zero(&self, range: Range<usize>) {
        self.0.zero(range);
    }
}
