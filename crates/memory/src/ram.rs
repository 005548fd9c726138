//! The mapping behind guest RAM, and bounds-checked access to it.

use crate::access::{Word, compare_exchange_128, copy, private::Sealed};
use crate::code::CodeMap;
use crate::view::View;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Size of a guest page and of a host page, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Guest-physical address where the 32-bit device hole begins: no RAM from here …
pub const HOLE_START: u64 = 0xc000_0000;
/// … up to here.
pub const HOLE_END: u64 = 0x1_0000_0000;

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
    /// No RAM there.
    #[error("guest-physical range {address:#x}+{len:#x} is not RAM")]
    OutOfRange {
        /// First byte.
        address: u64,
        /// Bytes.
        len: usize,
    },
}

/// A stretch of guest-physical addresses that is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Where it lies in the mapping and in the memfd.
    pub offset: u64,
}

/// One domain's RAM.
pub struct Ram {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
    ranges: Vec<RamRange>,
    code: CodeMap,
}

// SAFETY: `base` is a mapping this value owns until drop; every access through it is a single machine
// access or an atomic (`access`), so sharing it between threads races no Rust reference.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Maps `size` bytes of zeroed RAM (whole pages), the part beyond [`HOLE_START`] from [`HOLE_END`] up.
    /// The host commits a page when it is first touched.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        let len = usize::try_from(size).map_err(|_| MemoryError::Size(size))?;
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) || size > 1 << 46 {
            return Err(MemoryError::Size(size));
        }
        let host = |cause: rustix::io::Errno| MemoryError::Host {
            size,
            cause: cause.into(),
        };
        let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC).map_err(host)?;
        // One page more than the guest can reach: an access that starts inside RAM and runs over its end
        // stays inside the mapping, so one comparison bounds every access.
        ftruncate(&fd, size + PAGE_SIZE as u64).map_err(host)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len + PAGE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &fd,
                0,
            )
        }
        .map_err(host)?;
        let low = size.min(HOLE_START);
        let mut ranges = vec![RamRange {
            address: 0,
            len: low,
            offset: 0,
        }];
        if size > low {
            ranges.push(RamRange {
                address: HOLE_END,
                len: size - low,
                offset: low,
            });
        }
        let base = NonNull::new(base.cast()).expect("mmap never returns null on success");
        Ok(Self {
            base,
            len,
            fd,
            ranges,
            code: CodeMap::new(len / PAGE_SIZE + 1),
        })
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.len as u64
    }

    /// The guest-physical ranges, in ascending order.
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// The file behind it; offsets are those of [`RamRange::offset`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Host address of the first byte, for engines that give it to the host kernel.
    pub fn host_address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Host address of a mapping for stores that nobody is told of: pages that hold decoded code cannot be
    /// written there. To be made, by asking for it, before anything is decoded.
    pub fn guarded_address(&self) -> Result<usize, MemoryError> {
        if let Some(view) = self.code.view() {
            return Ok(view.address());
        }
        let view = View::new(&self.fd, self.len + PAGE_SIZE).map_err(|cause| MemoryError::Host {
            size: self.len as u64,
            cause,
        })?;
        Ok(self.code.follow(view).address())
    }

    /// Whether the page at `offset` may be written at [`Ram::guarded_address`] from now on until it becomes
    /// code.
    pub fn unguard(&self, offset: usize) -> bool {
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

    #[inline(always)]
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset outside guest RAM");
        // SAFETY: `offset` is inside the mapping, which is a page longer than `len`.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Loads at a RAM offset. Panics if `offset` is not below [`Ram::size`].
    #[inline(always)]
    pub fn load<T: Word>(&self, offset: usize) -> T {
        // SAFETY: `at` checked the first byte, and at least a page follows the last one of RAM.
        unsafe { T::load(self.at(offset)) }
    }

    /// Stores at a RAM offset and tells the code map. Panics if `offset` is not below [`Ram::size`].
    #[inline(always)]
    pub fn store<T: Word>(&self, offset: usize, v: T) {
        // SAFETY: as in `load`.
        unsafe { T::store(self.at(offset), v) }
        self.code.stored(offset, T::SIZE);
    }

    /// Locked compare-and-exchange: `Ok(old)` if it stored, else `Err(what was there)`.
    #[inline]
    pub fn compare_exchange<T: Word>(&self, offset: usize, old: T, new: T) -> Result<T, T> {
        // SAFETY: as in `load`.
        let seen = unsafe { <T as Sealed>::compare_exchange(self.at(offset), old, new) };
        if seen.is_ok() {
            self.code.stored(offset, T::SIZE);
        }
        seen
    }

    /// Locked exchange; returns what was there.
    #[inline]
    pub fn swap<T: Word>(&self, offset: usize, new: T) -> T {
        // SAFETY: as in `load`.
        let old = unsafe { <T as Sealed>::swap(self.at(offset), new) };
        self.code.stored(offset, T::SIZE);
        old
    }

    /// Locked addition; returns what was there.
    #[inline]
    pub fn fetch_add<T: Word>(&self, offset: usize, add: T) -> T {
        // SAFETY: as in `load`.
        let old = unsafe { <T as Sealed>::fetch_add(self.at(offset), add) };
        self.code.stored(offset, T::SIZE);
        old
    }

    /// Locked 16-byte compare-and-exchange. Panics if `offset` is not 16-byte aligned.
    pub fn compare_exchange_128(&self, offset: usize, old: u128, new: u128) -> Result<u128, u128> {
        assert!(offset.is_multiple_of(16), "CMPXCHG16B operand not aligned");
        // SAFETY: as in `load`; the mapping is page-aligned, so an aligned offset is an aligned address.
        let seen = unsafe { compare_exchange_128(self.at(offset), old, new) };
        if seen.is_ok() {
            self.code.stored(offset, 16);
        }
        seen
    }

    /// The host address of `len` bytes at a RAM offset.
    pub(crate) fn span(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "range outside guest RAM"
        );
        // SAFETY: `offset` is inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
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

    /// Copies `out.len()` bytes from a RAM offset. Panics if they do not all lie inside RAM.
    pub fn read_at(&self, offset: usize, out: &mut [u8]) {
        // SAFETY: `span` checked the source; the destination is a slice of that length.
        unsafe { copy(self.span(offset, out.len()), out.as_mut_ptr(), out.len()) }
    }

    /// Copies `data` to a RAM offset. Panics if it does not all lie inside RAM.
    pub fn write_at(&self, offset: usize, data: &[u8]) {
        // SAFETY: `span` checked the destination; the source is a slice of that length.
        unsafe { copy(data.as_ptr(), self.span(offset, data.len()), data.len()) }
        self.stored(offset, data.len());
    }

    /// Copies `len` bytes upwards from one RAM offset to another. Panics if either does not lie inside RAM.
    pub fn copy(&self, from: usize, to: usize, len: usize) {
        // SAFETY: `span` checked both.
        unsafe { copy(self.span(from, len), self.span(to, len), len) }
        self.stored(to, len);
    }

    /// Stores `count` copies of `v` from a RAM offset on. Panics if they do not all lie inside RAM.
    pub fn fill<T: Word>(&self, offset: usize, v: T, count: usize) {
        let len = count.saturating_mul(T::SIZE);
        let p = self.span(offset, len);
        // SAFETY: `span` checked the whole range.
        unsafe { <T as Sealed>::fill(p, v, count) }
        self.stored(offset, len);
    }

    /// Gives whole pages at a RAM offset back to the host: they read as zeroes, and take no memory until they
    /// are touched again. Panics if they are not whole or do not all lie inside RAM.
    pub fn release(&self, offset: usize, len: usize) -> std::io::Result<()> {
        let fits = offset <= self.len && len <= self.len - offset;
        assert!(fits, "range outside guest RAM");
        assert!((offset | len).is_multiple_of(PAGE_SIZE), "not whole pages");
        if len == 0 {
            return Ok(());
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

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to once its owner is gone.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len + PAGE_SIZE) };
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
mod tests {
    use super::*;

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
