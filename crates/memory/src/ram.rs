//! Guest RAM and bounds-checked access to it.

mod files;

use crate::access::{Word, compare_exchange_128, copy, private::Sealed};
use crate::code::CodeMap;
use crate::map::{Mapping, MemoryFile};
use crate::view::View;
use files::{Mapped, map, place};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Size of a guest page and of a host page, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Guest-physical address where the 32-bit device hole begins: no RAM from here …
pub const HOLE_START: u64 = 0xc000_0000;
/// … up to here.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Nothing larger is mapped: the host's own address space has little more.
const MOST: u64 = 1 << 46;

/// Why guest RAM could not be had or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is zero or not whole pages.
    #[error("guest memory of {0} bytes is not a whole number of 4 KiB pages")]
    Size(u64),
    /// The host refused.
    #[error("the host cannot provide {size} bytes of guest memory: {cause}; use a smaller --memory")]
    Host {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        cause: std::io::Error,
    },
    /// Not whole huge pages.
    #[error("guest memory of {0} bytes is not a whole number of 2 MiB pages, which --huge-pages needs")]
    HugeSize(u64),
    /// The host has too few huge pages.
    #[error(
        "the host has not set aside {} huge pages for {size} bytes of guest memory: {cause}; have it do so: `sudo \
         sysctl vm.nr_hugepages=$(($(cat /proc/sys/vm/nr_hugepages) + {}))`, or leave --huge-pages out",
        size >> 21, size >> 21
    )]
    HugePages {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        cause: std::io::Error,
    },
    /// A file that cannot be guest memory.
    #[error("the host cannot map {len} bytes of a file as guest memory: {cause}")]
    File {
        /// Bytes asked for.
        len: u64,
        /// What the host said.
        cause: std::io::Error,
    },
    /// Not whole pages, or something else is there.
    #[error(
        "a file cannot be guest memory at {address:#x}+{len:#x}: it is not whole pages, or other memory is there"
    )]
    Place {
        /// First byte.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// No RAM there.
    #[error("guest-physical range {address:#x}+{len:#x} is not RAM")]
    OutOfRange {
        /// First byte.
        address: u64,
        /// Bytes.
        len: usize,
    },
}

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// Where the host takes RAM from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backing {
    /// Pages of 2 MiB that the host has set aside (Linux, admin-guide/mm/hugetlbpage): fewer misses of the TLB. All
    /// are taken at once.
    pub huge_pages: bool,
    /// All pages at once, instead of each when it is first touched: nothing can be missing later.
    pub preallocate: bool,
}

/// What is behind a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// RAM, which guests are told of.
    Ram,
    /// A [`MemoryFile`].
    File,
    /// A read-only [`MemoryFile`].
    ReadOnlyFile,
}

/// A stretch of guest-physical addresses that is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// What is behind it.
    pub kind: RangeKind,
    /// First guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Where it lies in the mapping, and if it is RAM in the memfd.
    pub offset: u64,
}

/// One domain's RAM, and files that are memory of its guest.
///
/// Stores to read-only files, locked operations among them, are ignored, as a ROM ignores them.
pub struct Ram {
    map: Mapping,
    /// Bytes of RAM.
    len: usize,
    /// Bytes of a page of the host behind it.
    page: usize,
    /// Where what can be written ends …
    writable: usize,
    /// … and where everything does.
    end: usize,
    fd: OwnedFd,
    ranges: Vec<RamRange>,
    files: Vec<Mapped>,
    code: CodeMap,
}

impl Ram {
    /// Maps `size` bytes of zeroed RAM (whole pages), the part beyond [`HOLE_START`] from [`HOLE_END`] up.
    /// The host commits a page when it is first touched.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        Self::with_files(size, &[])
    }

    /// As [`Ram::new`], with files at guest-physical addresses outside of it.
    pub fn with_files(size: u64, files: &[(u64, MemoryFile)]) -> Result<Self, MemoryError> {
        Self::backed(size, files, Backing::default())
    }

    /// As [`Ram::with_files`], from where `backing` says.
    pub fn backed(size: u64, files: &[(u64, MemoryFile)], backing: Backing) -> Result<Self, MemoryError> {
        let len = usize::try_from(size).map_err(|_| MemoryError::Size(size))?;
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) || size > MOST {
            return Err(MemoryError::Size(size));
        }
        let host = |cause: rustix::io::Errno| MemoryError::Host {
            size,
            cause: cause.into(),
        };
        let huge = |cause: rustix::io::Errno| MemoryError::HugePages {
            size,
            cause: cause.into(),
        };
        if backing.huge_pages && !size.is_multiple_of(HUGE_PAGE) {
            return Err(MemoryError::HugeSize(size));
        }
        let flags = match backing.huge_pages {
            true => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            false => MemfdFlags::empty(),
        };
        let refused = |cause| {
            if backing.huge_pages {
                huge(cause)
            } else {
                host(cause)
            }
        };
        let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC | flags).map_err(refused)?;
        ftruncate(&fd, size).map_err(refused)?;
        if backing.preallocate || backing.huge_pages {
            fallocate(&fd, FallocateFlags::empty(), 0, size).map_err(refused)?;
        }
        let page = if backing.huge_pages {
            HUGE_PAGE as usize
        } else {
            PAGE_SIZE
        };
        let low = size.min(HOLE_START);
        let ram = |address, len, offset| RamRange {
            kind: RangeKind::Ram,
            address,
            len,
            offset,
        };
        let mut ranges = vec![ram(0, low, 0)];
        if size > low {
            ranges.push(ram(HOLE_END, size - low, low));
        }
        let files = place(files, size, &mut ranges)?;
        let end = |kinds: &[RangeKind]| {
            let of_kind = ranges.iter().filter(|r| kinds.contains(&r.kind));
            of_kind.map(|r| r.offset + r.len).max().unwrap_or(0) as usize
        };
        let writable = end(&[RangeKind::Ram, RangeKind::File]);
        let end = writable.max(end(&[RangeKind::ReadOnlyFile]));
        // One page more than the guest can reach: an access that starts inside RAM and runs over its end stays
        // inside the mapping, so one comparison bounds every access.
        let map = map(&fd, len, page, &files, end).map_err(|cause| {
            match files.iter().map(|f| f.range.len).sum() {
                0 => MemoryError::Host { size, cause },
                len => MemoryError::File { len, cause },
            }
        })?;
        Ok(Self {
            map,
            len,
            page,
            writable,
            end,
            fd,
            ranges,
            files,
            code: CodeMap::new(end / PAGE_SIZE + 1),
        })
    }

    /// Bytes of RAM, without files.
    pub fn size(&self) -> u64 {
        self.len as u64
    }

    /// The guest-physical ranges, in ascending order.
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// Where the bytes of a file are.
    pub fn file_range(&self, file: &Arc<File>) -> Option<RamRange> {
        let found = self.files.iter().find(|f| Arc::ptr_eq(&f.file, file));
        found.map(|f| f.range)
    }

    /// Whether a store to the read-only file at guest-physical `address` was ignored.
    pub fn ignored_stores(&self, address: u64) -> bool {
        let mut files = self.files.iter();
        files.any(|f| f.range.address == address && f.ignored.load(Ordering::Relaxed))
    }

    /// The file behind RAM; offsets are those of [`RamRange::offset`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Host address of the first byte, for engines that give it to the host kernel.
    pub fn host_address(&self) -> usize {
        self.map.base() as usize
    }

    /// Host address of a mapping for stores that nobody is told of: pages that hold decoded code cannot be
    /// written there. To be made, by asking for it, before anything is decoded.
    pub fn guarded_address(&self) -> Result<usize, MemoryError> {
        if let Some(view) = self.code.view() {
            return Ok(view.address());
        }
        let map =
            map(&self.fd, self.len, self.page, &self.files, self.end).map_err(|cause| MemoryError::Host {
                size: self.len as u64,
                cause,
            })?;
        let view = View::new(map);
        Ok(self.code.follow(view).address())
    }

    /// Whether the page at `offset` may be written at [`Ram::guarded_address`] from now on until it becomes
    /// code. Never, in a read-only file.
    pub fn unguard(&self, offset: usize) -> bool {
        if !self.is_writable(offset) {
            return false;
        }
        let is_code = || self.code.is_marked(offset);
        match self.code.view() {
            Some(view) => view.make_writable(offset / PAGE_SIZE, is_code),
            None => !is_code(),
        }
    }

    /// Marks and generations of decoded code.
    #[inline(always)]
    pub fn code(&self) -> &CodeMap {
        &self.code
    }

    /// The offset of guest-physical `address`, if that byte is RAM.
    #[inline]
    pub fn offset(&self, address: u64) -> Option<usize> {
        self.ranges
            .iter()
            .find(|r| address.wrapping_sub(r.address) < r.len)
            .map(|r| (address - r.address + r.offset) as usize)
    }

    /// As [`Ram::offset`], for `len` bytes that must all lie in one range.
    pub fn offset_of(&self, address: u64, len: usize) -> Result<usize, MemoryError> {
        let fits = |r: &&RamRange| {
            let at = address.wrapping_sub(r.address);
            at <= r.len && len as u64 <= r.len - at
        };
        self.ranges
            .iter()
            .find(fits)
            .map(|r| (address - r.address + r.offset) as usize)
            .ok_or(MemoryError::OutOfRange { address, len })
    }

    /// Whether what begins at an offset can be written: no read-only file is there.
    pub(crate) fn is_writable(&self, offset: usize) -> bool {
        offset < self.writable
    }

    #[inline(always)]
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.end, "offset outside guest RAM");
        // SAFETY: `offset` is inside the mapping, which is a page longer than `end`.
        unsafe { self.map.base().add(offset) }
    }

    /// Where to store; nowhere, in a read-only file.
    #[inline(always)]
    fn at_writable(&self, offset: usize) -> Option<*mut u8> {
        if offset >= self.writable {
            self.ignore(offset);
            return None;
        }
        // SAFETY: `offset` is inside the mapping, with at least a page behind `writable`.
        Some(unsafe { self.map.base().add(offset) })
    }

    /// Notes a store to a read-only file. Panics if there is none.
    #[cold]
    #[inline(never)]
    fn ignore(&self, offset: usize) {
        assert!(offset < self.end, "offset outside guest RAM");
        let file = self.files.iter().find(|f| {
            let at = (offset as u64).wrapping_sub(f.range.offset);
            at < f.range.len
        });
        if let Some(file) = file {
            file.ignored.store(true, Ordering::Relaxed);
        }
    }

    /// Loads at an offset. Panics if that is beyond the last range.
    #[inline(always)]
    pub fn load<T: Word>(&self, offset: usize) -> T {
        // SAFETY: `at` checked the first byte, and at least a page follows the last one of a range.
        unsafe { T::load(self.at(offset)) }
    }

    /// Stores at an offset and tells the code map. Panics if that is beyond the last range.
    #[inline(always)]
    pub fn store<T: Word>(&self, offset: usize, v: T) {
        if let Some(p) = self.at_writable(offset) {
            // SAFETY: `at_writable` checked the first byte, and at least a page that can be written follows the
            // last one of a range.
            unsafe { T::store(p, v) }
            self.code.stored(offset, T::SIZE);
        }
    }

    /// Locked compare-and-exchange: `Ok(old)` if it stored, else `Err(what was there)`. Where stores are ignored
    /// it compares as well.
    #[inline]
    pub fn compare_exchange<T: Word>(&self, offset: usize, old: T, new: T) -> Result<T, T> {
        let Some(p) = self.at_writable(offset) else {
            let seen = self.load(offset);
            return if seen == old { Ok(seen) } else { Err(seen) };
        };
        // SAFETY: as in `store`.
        let seen = unsafe { <T as Sealed>::compare_exchange(p, old, new) };
        if seen.is_ok() {
            self.code.stored(offset, T::SIZE);
        }
        seen
    }

    /// Locked exchange; returns what was there.
    #[inline]
    pub fn swap<T: Word>(&self, offset: usize, new: T) -> T {
        let Some(p) = self.at_writable(offset) else {
            return self.load(offset);
        };
        // SAFETY: as in `store`.
        let old = unsafe { <T as Sealed>::swap(p, new) };
        self.code.stored(offset, T::SIZE);
        old
    }

    /// Locked addition; returns what was there.
    #[inline]
    pub fn fetch_add<T: Word>(&self, offset: usize, add: T) -> T {
        let Some(p) = self.at_writable(offset) else {
            return self.load(offset);
        };
        // SAFETY: as in `store`.
        let old = unsafe { <T as Sealed>::fetch_add(p, add) };
        self.code.stored(offset, T::SIZE);
        old
    }

    /// Locked 16-byte compare-and-exchange. Panics if `offset` is not 16-byte aligned.
    pub fn compare_exchange_128(&self, offset: usize, old: u128, new: u128) -> Result<u128, u128> {
        assert!(offset.is_multiple_of(16), "CMPXCHG16B operand not aligned");
        let Some(p) = self.at_writable(offset) else {
            let half = |n| u128::from(self.load::<u64>(offset + n));
            let seen = half(0) | half(8) << 64;
            return if seen == old { Ok(seen) } else { Err(seen) };
        };
        // SAFETY: as in `store`; the mapping is page-aligned, so an aligned offset is an aligned address.
        let seen = unsafe { compare_exchange_128(p, old, new) };
        if seen.is_ok() {
            self.code.stored(offset, 16);
        }
        seen
    }

    /// Whether these bytes lie in a file.
    #[cold]
    fn is_in_file(&self, offset: usize, len: usize) -> bool {
        self.files.iter().any(|f| {
            let at = (offset as u64).wrapping_sub(f.range.offset);
            at <= f.range.len && len as u64 <= f.range.len - at
        })
    }

    /// The host address of `len` bytes at an offset, which may be those of a read-only file.
    pub(crate) fn span(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= self.len && len <= self.len - offset || self.is_in_file(offset, len),
            "range outside guest RAM"
        );
        // SAFETY: `offset` is inside the mapping.
        unsafe { self.map.base().add(offset) }
    }

    /// As [`Ram::span`], to store there; nowhere, in a read-only file.
    fn span_writable(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let p = self.span(offset, len);
        if offset < self.writable {
            return Some(p);
        }
        if len > 0 {
            self.ignore(offset);
        }
        None
    }

    /// Tells the code map about a store of any length.
    pub(crate) fn stored(&self, mut offset: usize, mut len: usize) {
        while len > 0 {
            let n = len.min(PAGE_SIZE - offset % PAGE_SIZE);
            self.code.stored(offset, n);
            offset += n;
            len -= n;
        }
    }

    /// Copies `out.len()` bytes from an offset. Panics if they do not all lie inside one range.
    pub fn read_at(&self, offset: usize, out: &mut [u8]) {
        // SAFETY: `span` checked the source; the destination is a slice of that length.
        unsafe { copy(self.span(offset, out.len()), out.as_mut_ptr(), out.len()) }
    }

    /// Copies `data` to an offset. Panics if it does not all lie inside one range.
    pub fn write_at(&self, offset: usize, data: &[u8]) {
        if let Some(to) = self.span_writable(offset, data.len()) {
            // SAFETY: `span_writable` checked the destination; the source is a slice of that length.
            unsafe { copy(data.as_ptr(), to, data.len()) }
            self.stored(offset, data.len());
        }
    }

    /// Copies `len` bytes upwards from one offset to another. Panics if either does not lie inside one range.
    pub fn copy(&self, from: usize, to: usize, len: usize) {
        let source = self.span(from, len);
        if let Some(destination) = self.span_writable(to, len) {
            // SAFETY: both were checked.
            unsafe { copy(source, destination, len) }
            self.stored(to, len);
        }
    }

    /// Stores `count` copies of `v` from an offset on. Panics if they do not all lie inside one range.
    pub fn fill<T: Word>(&self, offset: usize, v: T, count: usize) {
        let len = count.saturating_mul(T::SIZE);
        if let Some(p) = self.span_writable(offset, len) {
            // SAFETY: `span_writable` checked the whole range.
            unsafe { <T as Sealed>::fill(p, v, count) }
            self.stored(offset, len);
        }
    }

    /// Gives whole pages of RAM back to the host: they read as zeroes, and take no memory until they are touched
    /// again. Files are left as they are, with an error. Panics if they are not whole or do not all lie in one range.
    pub fn release(&self, offset: usize, len: usize) -> std::io::Result<()> {
        let is_ram = offset <= self.len && len <= self.len - offset;
        assert!(is_ram || self.is_in_file(offset, len), "range outside guest RAM");
        assert!((offset | len).is_multiple_of(PAGE_SIZE), "not whole pages");
        if len == 0 {
            return Ok(());
        }
        if !is_ram {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.fd, flags, offset as u64, len as u64)?;
        self.stored(offset, len);
        Ok(())
    }

    /// Copies from guest-physical `address`.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        self.read_at(self.offset_of(address, out.len())?, out);
        Ok(())
    }

    /// Copies to guest-physical `address`.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.write_at(self.offset_of(address, data.len())?, data);
        Ok(())
    }
}

impl std::fmt::Debug for Ram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ram")
            .field("len", &self.len)
            .field("ranges", &self.ranges)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod file_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that the host has given.
    fn given(ram: &Ram) -> u64 {
        rustix::fs::fstat(ram.fd()).unwrap().st_blocks as u64 * 512
    }

    #[test]
    fn the_host_gives_all_at_once_if_asked_to() {
        assert_eq!(given(&Ram::new(4 << 20).unwrap()), 0);
        let backing = Backing {
            preallocate: true,
            ..Backing::default()
        };
        assert_eq!(given(&Ram::backed(4 << 20, &[], backing).unwrap()), 4 << 20);
    }

    #[test]
    fn huge_pages_are_there_or_missed_at_the_start() {
        let backing = Backing {
            huge_pages: true,
            ..Backing::default()
        };
        let odd = Ram::backed((4 << 20) + 4096, &[], backing).err().unwrap();
        assert!(matches!(odd, MemoryError::HugeSize(_)), "{odd}");
        match Ram::backed(4 << 20, &[], backing) {
            Ok(ram) => {
                assert!(ram.host_address().is_multiple_of(HUGE_PAGE as usize));
                ram.store::<u64>((4 << 20) - 4, 0x0102_0304_0506_0708);
                assert_eq!(ram.load::<u32>((4 << 20) - 4), 0x0506_0708);
                assert_eq!(given(&ram), 4 << 20);
            }
            Err(e) => assert!(
                e.to_string().contains("2 huge pages") && e.to_string().contains("nr_hugepages"),
                "{e}"
            ),
        }
    }

    #[test]
    fn the_hole_is_not_ram() {
        let ram = Ram::new(HOLE_START + 0x10_0000).unwrap();
        assert_eq!(ram.ranges().len(), 2);
        assert_eq!(ram.offset(HOLE_START - 1), Some(HOLE_START as usize - 1));
        assert_eq!(ram.offset(HOLE_START), None);
        assert_eq!(ram.offset(HOLE_END), Some(HOLE_START as usize));
        assert_eq!(ram.offset(HOLE_END + 0x10_0000), None);
        assert!(ram.write(HOLE_START - 4, &[0; 8]).is_err());
        assert!(ram.offset_of(u64::MAX, 2).is_err());
        ram.write(HOLE_END, b"above four gigabytes").unwrap();
        let mut back = [0; 20];
        ram.read(HOLE_END, &mut back).unwrap();
        assert_eq!(&back, b"above four gigabytes");
    }

    #[test]
    fn sizes_that_cannot_be() {
        assert!(matches!(Ram::new(0), Err(MemoryError::Size(0))));
        assert!(matches!(Ram::new(4097), Err(MemoryError::Size(4097))));
        assert!(Ram::new(!0xfff).is_err());
    }

    #[test]
    fn a_write_from_the_host_is_seen_by_the_code_map() {
        let ram = Ram::new(0x4000).unwrap();
        let before = ram.code().mark(0x2000, 16);
        ram.write(0x1ff0, &[0x90; 32]).unwrap();
        assert_ne!(ram.code().generation(0x2000), before);
    }

    #[test]
    fn released_pages_are_zero_and_take_no_memory() {
        let ram = Ram::new(64 << 20).unwrap();
        let blocks = || rustix::fs::fstat(ram.fd()).unwrap().st_blocks * 512;
        let guarded = ram.guarded_address().unwrap();
        ram.fill(0, 0x90u8, 64 << 20);
        let (before, after) = (ram.code().mark(0x20_0000, 64), ram.code().mark(0x1000, 64));
        assert!(!ram.unguard(0x20_0000) && guarded != ram.host_address());
        assert!(blocks() >= 64 << 20);
        ram.release(1 << 20, 62 << 20).unwrap();
        assert!(blocks() <= 2 << 20, "{}", blocks());
        assert_eq!(ram.load::<u8>((1 << 20) - 1), 0x90);
        assert_eq!(ram.load::<u64>(1 << 20), 0);
        assert_eq!(ram.load::<u64>((63 << 20) - 8), 0);
        assert_eq!(ram.load::<u8>(63 << 20), 0x90);
        assert_ne!(ram.code().generation(0x20_0000), before, "code is gone");
        assert_eq!(ram.code().generation(0x1000), after);
        assert!(ram.unguard(0x20_0000));
        ram.store(0x20_0000, 7u8);
        assert_eq!(ram.load::<u8>(0x20_0000), 7);
        ram.release(64 << 20, 0).unwrap();
    }

    #[test]
    #[should_panic(expected = "outside guest RAM")]
    fn an_access_beyond_the_end_is_caught() {
        Ram::new(0x1000).unwrap().load::<u8>(0x1000);
    }
}
