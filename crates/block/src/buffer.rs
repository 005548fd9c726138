//! Memory that a transfer reads from or fills.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Memory that a transfer reads from or fills, such as pieces of a guest's RAM.
///
/// Ranges and starts lie inside the buffer; the images of this crate see to that.
pub trait Buffer {
    /// Bytes in it.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `range` from the file at `at`; what lies past the file's end becomes zeroes.
    fn read_file(&self, range: Range<usize>, file: &File, at: u64) -> io::Result<()>;

    /// Writes `range` to the file at `at`, all of it.
    fn write_file(&self, range: Range<usize>, file: &File, at: u64) -> io::Result<()>;

    /// Copies out of the buffer.
    fn load(&self, start: usize, out: &mut [u8]);

    /// Copies into the buffer.
    fn store(&self, start: usize, data: &[u8]);

    /// Fills a range with zeroes.
    fn zero(&self, range: Range<usize>);
}

/// Host memory as a buffer.
pub struct HostBuffer<'a>(RefCell<&'a mut [u8]>);

impl<'a> HostBuffer<'a> {
    /// The whole of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self(RefCell::new(bytes))
    }
}

impl Buffer for HostBuffer<'_> {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn read_file(&self, range: Range<usize>, file: &File, at: u64) -> io::Result<()> {
        read_or_zero(file, &mut self.0.borrow_mut()[range], at).map(drop)
    }

    fn write_file(&self, range: Range<usize>, file: &File, at: u64) -> io::Result<()> {
        file.write_all_at(&self.0.borrow()[range], at)
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[start..start + out.len()]);
    }

    fn store(&self, start: usize, data: &[u8]) {
        self.0.borrow_mut()[start..start + data.len()].copy_from_slice(data);
    }

    fn zero(&self, range: Range<usize>) {
        self.0.borrow_mut()[range].fill(0);
    }
}

/// Bytes that are only written to an image.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Buffer for Source<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read_file(&self, _: Range<usize>, _: &File, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn write_file(&self, range: Range<usize>, file: &File, at: u64) -> io::Result<()> {
        file.write_all_at(&self.0[range], at)
    }

    fn load(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0[start..start + out.len()]);
    }

    fn store(&self, _: usize, _: &[u8]) {
        debug_assert!(false, "a source is not filled");
    }

    fn zero(&self, _: Range<usize>) {
        debug_assert!(false, "a source is not filled");
    }
}

/// Fills `out` from the file; what lies past its end becomes zeroes. Returns how much was there.
pub(crate) fn read_or_zero(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        // An offset that no file can have is past its end, too.
        let Some(position) = at.checked_add(done as u64).filter(|p| *p <= i64::MAX as u64) else {
            break;
        };
        match file.read_at(&mut out[done..], position) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out[done..].fill(0);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_lies_past_the_end_becomes_zeroes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mut bytes = [9; 8];
        let buffer = HostBuffer::new(&mut bytes);
        buffer.read_file(1..7, &file, 1).unwrap();
        let mut seen = [0; 8];
        buffer.load(0, &mut seen);
        assert_eq!(seen, [9, b'b', b'c', 0, 0, 0, 0, 9]);
        buffer.read_file(0..8, &file, u64::MAX - 1).unwrap();
        buffer.load(0, &mut seen);
        assert_eq!(seen, [0; 8]);
    }
}
