//! Guest loads and stores: segmentation, then the TLB, then RAM or a device.

use super::{Cpu, R};
use donjon_memory::Word;
use donjon_x86::bits::{cr0, rflags};
use donjon_x86::exception;

/// Where a translated byte lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// At this RAM offset.
    Ram(usize),
    /// At this guest-physical address, which is not RAM.
    Device(u64),
}

/// Kinds of access a data breakpoint can name (Intel SDM vol. 3B §18.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
}

impl Cpu {
    /// Whether data accesses need checks that only the slow path makes.
    pub fn checks_data(&self) -> bool {
        self.need_read == 0
    }

    /// #AC if alignment is checked and `ea` is not aligned, for accesses made in pieces.
    pub fn check_alignment(&mut self, seg: u8, ea: u64, align: usize) -> R {
        if self.need_read == 0 {
            let linear = self.linear(seg, ea, 1, Kind::Read)?;
            self.check_data(seg, linear, 0, Kind::Read, align)?;
        }
        Ok(())
    }

    /// Checks before a data access that the fast path does not make: alignment and breakpoints.
    #[cold]
    fn check_data(&mut self, seg: u8, linear: u64, size: usize, kind: Kind, align: usize) -> R {
        let aligned = self.cpl == 3 && self.rflags & rflags::AC != 0 && self.cr0 & cr0::AM != 0;
        if aligned && linear & (align as u64 - 1) != 0 {
            self.check_canonical_end(seg, linear, 1)?;
            self.check_canonical_end(seg, linear, size.max(1))?;
            return Err(self.raise_code(exception::AC, 0));
        }
        for n in 0..4 {
            if self.dr7 >> (2 * n) & 3 == 0 {
                continue;
            }
            let rw = self.dr7 >> (16 + 4 * n) & 3;
            let (at, bytes) = self.watched_bytes(n);
            let overlap = linear < at.wrapping_add(bytes) && at < linear.wrapping_add(size as u64);
            if overlap && (rw == 3 || rw == 1 && kind == Kind::Write) {
                self.debug_hits |= 1 << n;
            }
        }
        Ok(())
    }

    /// Loads at `ea` in a segment.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, seg: u8, ea: u64) -> R<T> {
        let linear = self.linear(seg, ea, T::SIZE, Kind::Read)?;
        if linear & 0xfff <= 0x1000 - T::SIZE as u64
            && let Some(at) = self.tlb.lookup(linear, self.need_read)
        {
            return Ok(self.board.ram.load(at));
        }
        self.read_slow(seg, linear)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(&mut self, seg: u8, linear: u64) -> R<T> {
        if self.need_read == 0 {
            self.check_data(seg, linear, T::SIZE, Kind::Read, T::SIZE)?;
        }
        if linear & 0xfff <= 0x1000 - T::SIZE as u64 {
            return Ok(match self.place(seg, linear, Kind::Read)? {
                Place::Ram(at) => self.board.ram.load(at),
                Place::Device(p) => T::from_u64(self.device_read(p, T::SIZE as u8)),
            });
        }
        let mut bytes = [0; 8];
        self.read_bytes_linear(seg, linear, &mut bytes[..T::SIZE])?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Stores at `ea` in a segment.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, seg: u8, ea: u64, v: T) -> R {
        let linear = self.linear(seg, ea, T::SIZE, Kind::Write)?;
        if linear & 0xfff <= 0x1000 - T::SIZE as u64
            && let Some(at) = self.tlb.lookup(linear, self.need_write)
        {
            self.board.ram.store(at, v);
            return Ok(());
        }
        self.write_slow(seg, linear, v)
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(&mut self, seg: u8, linear: u64, v: T) -> R {
        if self.need_write == 0 {
            self.check_data(seg, linear, T::SIZE, Kind::Write, T::SIZE)?;
        }
        if linear & 0xfff <= 0x1000 - T::SIZE as u64 {
            match self.place(seg, linear, Kind::Write)? {
                Place::Ram(at) => self.board.ram.store(at, v),
                Place::Device(p) => self.device_write(p, T::SIZE as u8, v.to_u64()),
            }
            return Ok(());
        }
        self.write_bytes_linear(seg, linear, &v.to_u64().to_le_bytes()[..T::SIZE])
    }

    /// Reads, changes and writes back one location; with `lock`, atomically against other processors.
    /// `f` may run several times and must depend on its argument alone. Returns what was there.
    #[inline(always)]
    pub fn update<T: Word>(&mut self, seg: u8, ea: u64, lock: bool, mut f: impl FnMut(T) -> T) -> R<T> {
        let linear = self.linear(seg, ea, T::SIZE, Kind::Write)?;
        if linear & 0xfff <= 0x1000 - T::SIZE as u64
            && let Some(at) = self.tlb.lookup(linear, self.need_write)
        {
            let ram = &self.board.ram;
            let mut old: T = ram.load(at);
            if !lock {
                ram.store(at, f(old));
                return Ok(old);
            }
            loop {
                match ram.compare_exchange(at, old, f(old)) {
                    Ok(_) => return Ok(old),
                    Err(seen) => old = seen,
                }
            }
        }
        self.update_slow(seg, linear, lock, &mut f)
    }

    #[cold]
    #[inline(never)]
    fn update_slow<T: Word>(&mut self, seg: u8, linear: u64, lock: bool, f: &mut dyn FnMut(T) -> T) -> R<T> {
        if self.need_write == 0 {
            self.check_data(seg, linear, T::SIZE, Kind::Write, T::SIZE)?;
        }
        if linear & 0xfff > 0x1000 - T::SIZE as u64 {
            self.check_canonical_end(seg, linear, T::SIZE)?;
            // Split over two pages. Both must be writable before anything changes.
            let next = self.next_page(linear);
            let (first, second) = (
                self.place(seg, linear, Kind::Write)?,
                self.place(seg, next, Kind::Write)?,
            );
            if let (Place::Ram(a), Place::Ram(b)) = (first, second)
                && b == (a | 0xfff) + 1
            {
                return Ok(self.exchange(a, lock, f));
            }
            // Two RAM pages that are not neighbours cannot be changed by one host access; the domain's
            // split-lock mutex orders such accesses among themselves.
            let guard = lock.then(crate::split_lock);
            let mut bytes = [0; 8];
            self.read_bytes_linear(seg, linear, &mut bytes[..T::SIZE])?;
            let old = T::from_u64(u64::from_le_bytes(bytes));
            self.write_bytes_linear(seg, linear, &f(old).to_u64().to_le_bytes()[..T::SIZE])?;
            drop(guard);
            return Ok(old);
        }
        match self.place(seg, linear, Kind::Write)? {
            Place::Ram(at) => Ok(self.exchange(at, lock, f)),
            Place::Device(p) => {
                let old = T::from_u64(self.device_read(p, T::SIZE as u8));
                self.device_write(p, T::SIZE as u8, f(old).to_u64());
                Ok(old)
            }
        }
    }

    fn exchange<T: Word>(&mut self, at: usize, lock: bool, f: &mut dyn FnMut(T) -> T) -> T {
        let ram = &self.board.ram;
        let mut old: T = ram.load(at);
        if !lock {
            ram.store(at, f(old));
            return old;
        }
        loop {
            match ram.compare_exchange(at, old, f(old)) {
                Ok(_) => return old,
                Err(seen) => old = seen,
            }
        }
    }

    /// Loads `N` quadwords (a vector) at `ea`. `aligned` asks for natural alignment of the whole, #GP(0)
    /// otherwise.
    #[inline(always)]
    pub fn read_vector<const N: usize>(&mut self, seg: u8, ea: u64, aligned: bool) -> R<[u64; N]> {
        let linear = self.linear(seg, ea, N * 8, Kind::Read)?;
        if aligned && linear & (N as u64 * 8 - 1) != 0 {
            return Err(self.gp(0));
        }
        if linear & 0xfff <= 0x1000 - N as u64 * 8
            && let Some(at) = self.tlb.lookup(linear, self.need_read)
        {
            return Ok(std::array::from_fn(|i| self.board.ram.load(at + i * 8)));
        }
        let mut out = [0; N];
        let mut bytes = [0; 64];
        if self.need_read == 0 {
            self.check_data(seg, linear, N * 8, Kind::Read, 16)?;
        }
        self.read_bytes_linear(seg, linear, &mut bytes[..N * 8])?;
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *o = u64::from_le_bytes(*b);
        }
        Ok(out)
    }

    /// Stores `N` quadwords (a vector) at `ea`; nothing is stored if any byte faults.
    #[inline(always)]
    pub fn write_vector<const N: usize>(&mut self, seg: u8, ea: u64, aligned: bool, v: [u64; N]) -> R {
        let linear = self.linear(seg, ea, N * 8, Kind::Write)?;
        if aligned && linear & (N as u64 * 8 - 1) != 0 {
            return Err(self.gp(0));
        }
        if linear & 0xfff <= 0x1000 - N as u64 * 8
            && let Some(at) = self.tlb.lookup(linear, self.need_write)
        {
            for (i, q) in v.into_iter().enumerate() {
                self.board.ram.store(at + i * 8, q);
            }
            return Ok(());
        }
        let mut bytes = [0; 64];
        for (q, b) in v.into_iter().zip(bytes.as_chunks_mut::<8>().0) {
            *b = q.to_le_bytes();
        }
        if self.need_write == 0 {
            self.check_data(seg, linear, N * 8, Kind::Write, 16)?;
        }
        self.write_bytes_linear(seg, linear, &bytes[..N * 8])
    }

    /// Loads any number of bytes at `ea`.
    pub fn read_bytes(&mut self, seg: u8, ea: u64, out: &mut [u8]) -> R {
        let linear = self.linear(seg, ea, out.len(), Kind::Read)?;
        if self.need_read == 0 {
            self.check_data(seg, linear, out.len(), Kind::Read, 1)?;
        }
        self.read_bytes_linear(seg, linear, out)
    }

    /// Stores any number of bytes, at most a page, at `ea`; nothing is stored if any byte faults.
    pub fn write_bytes(&mut self, seg: u8, ea: u64, data: &[u8]) -> R {
        let linear = self.linear(seg, ea, data.len(), Kind::Write)?;
        if self.need_write == 0 {
            self.check_data(seg, linear, data.len(), Kind::Write, 1)?;
        }
        self.write_bytes_linear(seg, linear, data)
    }

    /// Raises the fault that a store of `size` bytes at `ea` would meet, with alignment checking one that
    /// is not aligned to `align`.
    pub fn probe_write(&mut self, seg: u8, ea: u64, size: usize, align: usize) -> R {
        let linear = self.linear(seg, ea, size, Kind::Write)?;
        if self.need_write == 0 {
            self.check_data(seg, linear, size, Kind::Write, align)?;
        }
        self.place(seg, linear, Kind::Write)?;
        if linear & 0xfff > 0x1000 - size as u64 {
            self.place(seg, self.next_page(linear), Kind::Write)?;
        }
        Ok(())
    }

    fn read_bytes_linear(&mut self, seg: u8, mut linear: u64, mut out: &mut [u8]) -> R {
        self.check_canonical_end(seg, linear, out.len())?;
        while !out.is_empty() {
            let n = out.len().min(0x1000 - (linear & 0xfff) as usize);
            let (now, later) = out.split_at_mut(n);
            match self.place(seg, linear, Kind::Read)? {
                Place::Ram(at) => self.board.ram.read_at(at, now),
                Place::Device(p) => self.device_read_bytes(p, now),
            }
            out = later;
            linear = self.next_page(linear);
        }
        Ok(())
    }

    fn write_bytes_linear(&mut self, seg: u8, linear: u64, data: &[u8]) -> R {
        debug_assert!(data.len() <= 0x1000);
        self.check_canonical_end(seg, linear, data.len())?;
        let here = data.len().min(0x1000 - (linear & 0xfff) as usize);
        let (first, second) = data.split_at(here);
        let a = self.place(seg, linear, Kind::Write)?;
        let b = if second.is_empty() {
            a
        } else {
            self.place(seg, self.next_page(linear), Kind::Write)?
        };
        for (place, part) in [(a, first), (b, second)] {
            match place {
                _ if part.is_empty() => {}
                Place::Ram(at) => self.board.ram.write_at(at, part),
                Place::Device(p) => self.device_write_bytes(p, part),
            }
        }
        Ok(())
    }
}
