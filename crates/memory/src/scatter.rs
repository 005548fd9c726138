//! Parts of RAM in order, as a driver hands them to a device, and transfers between them and files.

use crate::ram::{MemoryError, Ram};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// The most parts that one system call takes (IOV_MAX of Linux).
const MOST_PARTS: usize = 1024;

/// A stretch of RAM by offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// RAM offset.
    pub offset: usize,
    /// Bytes, not zero.
    pub len: usize,
}

/// A scatter-gather list: parts of RAM that count as one buffer.
///
/// Every part was checked to lie in RAM when it was added, so transfers cannot miss. Guests may change the
/// bytes at any time, while a transfer runs too.
#[derive(Clone)]
pub struct Scatter {
    ram: Arc<Ram>,
    parts: Vec<Part>,
    len: usize,
}

impl Scatter {
    /// An empty list.
    pub fn new(ram: &Arc<Ram>) -> Self {
        Self {
            ram: ram.clone(),
            parts: vec![],
            len: 0,
        }
    }

    /// Adds `len` bytes at a guest-physical address, which must all lie in one range of RAM.
    pub fn push(&mut self, address: u64, len: usize) -> Result<(), MemoryError> {
        if len == 0 {
            return Ok(());
        }
        let offset = self.ram.offset_of(address, len)?;
        match self.parts.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ => self.parts.push(Part { offset, len }),
        }
        self.len += len;
        Ok(())
    }

    /// Whether no part is in a read-only file. What is stored there all the same is ignored, and transfers from files
    /// to there fail (EFAULT).
    pub fn is_writable(&self) -> bool {
        self.parts.iter().all(|p| self.ram.is_writable(p.offset))
    }

    /// Adds all parts of another list.
    pub fn append(&mut self, other: &Self) {
        self.parts.extend_from_slice(&other.parts);
        self.len += other.len;
    }

    /// Bytes in all parts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The RAM they are parts of.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The parts of a range of the bytes. Panics if the range does not lie in them.
    fn within(&self, range: Range<usize>) -> impl Iterator<Item = Part> + '_ {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "range outside a scatter-gather list"
        );
        let mut before = 0;
        self.parts.iter().filter_map(move |p| {
            let start = range.start.max(before);
            let end = range.end.min(before + p.len);
            let skipped = start.saturating_sub(before);
            before += p.len;
            (start < end).then(|| Part {
                offset: p.offset + skipped,
                len: end - start,
            })
        })
    }

    /// A list of a range of the bytes. Panics if the range does not lie in them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self {
            ram: self.ram.clone(),
            len: range.len(),
            parts: self.within(range).collect(),
        }
    }

    /// Copies bytes out, from `start` on. Panics if there are fewer.
    pub fn load(&self, start: usize, out: &mut [u8]) {
        let mut done = 0;
        for p in self.within(start..start + out.len()) {
            self.ram.read_at(p.offset, &mut out[done..done + p.len]);
            done += p.len;
        }
    }

    /// Copies `data` in, from `start` on. Panics if there is no room.
    pub fn store(&self, start: usize, data: &[u8]) {
        let mut done = 0;
        for p in self.within(start..start + data.len()) {
            self.ram.write_at(p.offset, &data[done..done + p.len]);
            done += p.len;
        }
    }

    /// Fills a range of the bytes with zeroes.
    pub fn zero(&self, range: Range<usize>) {
        for p in self.within(range) {
            self.ram.fill(p.offset, 0u8, p.len);
        }
    }

    /// Reads from a file at `at` (without it from a stream or packet socket) into a range of the bytes, in one
    /// system call; how many bytes came.
    pub fn read_from(&self, range: Range<usize>, fd: BorrowedFd<'_>, at: Option<u64>) -> io::Result<usize> {
        let vectors = self.vectors(range.clone());
        let (fd, p, n) = (fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int);
        // SAFETY: the vectors name stretches of the mapping, which outlives the call; the kernel writes to
        // them as another CPU would, and no Rust reference to them exists.
        let done = checked(unsafe {
            match at {
                Some(at) => libc::preadv(fd, p, n, file_offset(at)?),
                None => libc::readv(fd, p, n),
            }
        })?;
        self.tell_stored(range.start..range.start + done);
        Ok(done)
    }

    /// Copies what a socket has received into a range of the bytes and leaves it there (MSG_PEEK), in one system
    /// call; how many bytes came.
    pub fn peek_from(&self, range: Range<usize>, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut vectors = self.vectors(range.clone());
        // SAFETY: all zero bytes are a msghdr: integers, and pointers that may be null.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        // SAFETY: as in `read_from`.
        let done = checked(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_PEEK) })?;
        self.tell_stored(range.start..range.start + done);
        Ok(done)
    }

    /// As [`Scatter::read_from`] of the whole list, if all of it is in the host's memory; else, and where that cannot
    /// be told, `false`. Never waits for storage.
    pub fn read_cached(&self, fd: BorrowedFd<'_>, at: u64) -> bool {
        let vectors = self.vectors(0..self.len);
        let (fd, p, n) = (fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int);
        let Ok(at) = file_offset(at) else { return false };
        // SAFETY: as in `read_from`.
        let done = checked(unsafe { libc::preadv2(fd, p, n, at, libc::RWF_NOWAIT) }).unwrap_or(0);
        self.tell_stored(0..done);
        done == self.len
    }

    /// Tells the code map that a range of the bytes was written.
    pub(crate) fn tell_stored(&self, range: Range<usize>) {
        for p in self.within(range) {
            self.ram.stored(p.offset, p.len);
        }
    }

    /// Writes a range of the bytes to a file at `at` (without it to a stream or packet socket), in one system
    /// call; how many bytes went.
    pub fn write_to(&self, range: Range<usize>, fd: BorrowedFd<'_>, at: Option<u64>) -> io::Result<usize> {
        let vectors = self.vectors(range);
        let (fd, p, n) = (fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int);
        // SAFETY: as in `read_from`; the kernel only reads.
        checked(unsafe {
            match at {
                Some(at) => libc::pwritev(fd, p, n, file_offset(at)?),
                None => libc::writev(fd, p, n),
            }
        })
    }

    /// Writes a range of the bytes to the end of a file, wherever that is, in one system call; how many bytes went.
    pub fn append_to(&self, range: Range<usize>, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let vectors = self.vectors(range);
        let (fd, p, n) = (fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int);
        // SAFETY: as in `write_to`.
        checked(unsafe { libc::pwritev2(fd, p, n, 0, libc::RWF_APPEND) })
    }

    /// Host addresses of a range of the bytes, as far as one system call takes them. They are good for as long
    /// as this list.
    pub(crate) fn vectors(&self, range: Range<usize>) -> Vec<libc::iovec> {
        let vector = |p: Part| libc::iovec {
            iov_base: self.ram.span(p.offset, p.len).cast(),
            iov_len: p.len,
        };
        self.within(range).take(MOST_PARTS).map(vector).collect()
    }
}

fn file_offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn checked(done: isize) -> io::Result<usize> {
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn list(parts: &[(u64, usize)]) -> Scatter {
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let mut s = Scatter::new(&ram);
        for (address, len) in parts {
            s.push(*address, *len).unwrap();
        }
        s
    }

    #[test]
    fn parts_count_as_one_buffer() {
        let s = list(&[(0x1000, 3), (0x1003, 2), (0x5000, 4), (0x3000, 1)]);
        assert_eq!((s.len(), s.parts().len()), (10, 3));
        s.store(0, b"abcdefghij");
        let mut out = [0; 6];
        s.load(3, &mut out);
        assert_eq!(&out, b"defghi");
        s.zero(4..9);
        let mut out = [0; 10];
        s.load(0, &mut out);
        assert_eq!(&out, b"abcd\0\0\0\0\0j");
        let tail = s.slice(4..10);
        tail.store(0, b"123456");
        s.load(0, &mut out);
        assert_eq!(&out, b"abcd123456");
    }

    #[test]
    fn what_is_not_ram_is_refused() {
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let mut s = Scatter::new(&ram);
        for (address, len) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(s.push(address, len).is_err(), "{address:#x}+{len:#x}");
        }
        assert!(s.is_empty());
    }

    #[test]
    fn what_is_peeked_at_stays() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let s = list(&[(0x1000, 3), (0x5000, 10)]);
        let before = s.ram().code().mark(0x5000, 64);
        let error = s.peek_from(0..7, b.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        rustix::io::write(&a, b"donjon!").unwrap();
        let mut out = [0; 9];
        assert_eq!(s.peek_from(1..13, b.as_fd()).unwrap(), 7);
        s.load(0, &mut out);
        assert_eq!(&out, b"\0donjon!\0");
        assert_ne!(s.ram().code().generation(0x5000), before, "code was overwritten");
        assert_eq!(rustix::io::read(&b, &mut out[..]).unwrap(), 7);
    }

    #[test]
    fn files_are_read_and_written_in_place() {
        let file = tempfile::tempfile().unwrap();
        let s = list(&[(0x1000, 3), (0x5000, 4)]);
        s.store(0, b"donjon!");
        assert_eq!(s.write_to(0..7, file.as_fd(), Some(100)).unwrap(), 7);
        let cached = list(&[(0x7000, 4), (0x8000, 3)]);
        // Not every file system can tell.
        if cached.read_cached(file.as_fd(), 100) {
            let mut out = [0; 7];
            cached.load(0, &mut out);
            assert_eq!(&out, b"donjon!");
        }
        assert!(!cached.read_cached(file.as_fd(), 101), "past the end");
        let t = list(&[(0x7000, 2), (0x9000, 7)]);
        let before = t.ram().code().mark(0x9000, 64);
        assert_eq!(t.read_from(1..8, file.as_fd(), Some(100)).unwrap(), 7);
        let mut out = [0; 9];
        t.load(0, &mut out);
        assert_eq!(&out, b"\0donjon!\0");
        assert_ne!(t.ram().code().generation(0x9000), before, "code was overwritten");
        assert_eq!(s.append_to(1..4, file.as_fd()).unwrap(), 3);
        let mut end = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, 106).unwrap();
        assert_eq!(&end, b"!onj");
    }
}
