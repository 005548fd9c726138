//! Guest loads and stores: segmentation, then the TLB, then RAM or a device.

use super::tlb::perm;
use super::{Cpu, R, Stop};
use donjon_memory::{Ram, Word};
use donjon_x86::bits::{cr0, cr4, rflags};
use donjon_x86::paging::{self, Access, Mode, TableMemory, Translation};
use donjon_x86::{Seg, exception};

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

struct Tables<'a>(&'a Ram);

impl TableMemory for Tables<'_> {
    fn load(&self, address: u64, size: u8) -> u64 {
        match self.0.offset(address) {
            Some(at) if size == 8 => self.0.load::<u64>(at),
            Some(at) => self.0.load::<u32>(at) as u64,
            None if size == 8 => u64::MAX,
            None => u32::MAX as u64,
        }
    }

    fn set_bits(&self, address: u64, size: u8, old: u64, bits: u64) -> bool {
        match self.0.offset(address) {
            Some(at) if size == 8 => self.0.compare_exchange(at, old, old | bits).is_ok(),
            Some(at) => self
                .0
                .compare_exchange(at, old as u32, (old | bits) as u32)
                .is_ok(),
            None => true,
        }
    }
}

impl Cpu {
    /// Recomputes the permission bits after a change of privilege, AC, alignment checking or breakpoints.
    pub fn access_mode_changed(&mut self) {
        let user = self.cpl == 3;
        let aligned = user && self.rflags & rflags::AC != 0 && self.cr0 & cr0::AM != 0;
        let ac = self.rflags & rflags::AC != 0;
        (self.need_read, self.need_write) = match (user, ac) {
            _ if aligned || self.data_breakpoints() => (0, 0),
            (true, _) => (perm::USER_READ, perm::USER_WRITE),
            (false, false) => (perm::SUPER_READ, perm::SUPER_WRITE),
            (false, true) => (perm::AC_READ, perm::AC_WRITE),
        };
        self.need_fetch = if user { perm::USER_FETCH } else { perm::SUPER_FETCH };
    }

    fn data_breakpoints(&self) -> bool {
        (0..4).any(|n| self.dr7 >> (2 * n) & 3 != 0 && self.dr7 >> (16 + 4 * n) & 3 != 0)
    }

    /// The paging control state.
    pub fn paging_mode(&self) -> Mode {
        Mode {
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.msrs.efer,
            pdpte: self.pdpte,
        }
    }

    /// Loads the PDPTE registers for PAE paging from `cr3`; #GP(0) if a reserved bit is set.
    pub fn load_pdptes(&mut self, cr3: u64) -> R {
        match Mode::load_pdptes(&Tables(&self.board.ram), cr3) {
            Some(p) => {
                self.pdpte = p;
                Ok(())
            }
            None => Err(self.gp(0)),
        }
    }

    /// Drops all translations.
    pub fn flush_tlb(&mut self) {
        self.tlb.flush_all();
    }

    /// Drops the non-global translations of every PCID.
    pub fn flush_tlb_nonglobal(&mut self) {
        self.tlb.flush_every_pcid();
    }

    /// Drops the translations of one linear page.
    pub fn flush_tlb_page(&mut self, linear: u64) {
        self.tlb.invalidate(linear);
    }

    /// Drops the non-global translations of a PCID.
    pub fn flush_tlb_pcid(&mut self, pcid: u16) {
        let current = self.pcid();
        self.tlb.flush_pcid(pcid, current);
    }

    /// The current PCID.
    pub fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE != 0 {
            self.cr3 as u16 & 0xfff
        } else {
            0
        }
    }

    /// Takes a new CR3 and the translations that go with it.
    pub fn switch_cr3(&mut self, cr3: u64, keep: bool) {
        let previous = self.pcid();
        self.cr3 = cr3;
        let next = self.pcid();
        self.tlb.switch(previous, next, keep);
    }

    /// Linear address of `size` bytes at `ea` in a segment, with the segment's checks.
    #[inline(always)]
    pub fn linear(&mut self, seg: u8, ea: u64, size: usize, kind: Kind) -> R<u64> {
        if self.is64() {
            return Ok(self.seg_base[(seg & 7) as usize].wrapping_add(ea));
        }
        self.linear_checked(seg, ea, size, kind)
    }

    /// Type and limit checks outside 64-bit mode (Intel SDM vol. 3A §5.3-5.5).
    fn linear_checked(&mut self, seg: u8, ea: u64, size: usize, kind: Kind) -> R<u64> {
        let s = &self.seg[seg as usize];
        let a = s.attributes;
        let (ea, last) = (ea & 0xffff_ffff, (ea & 0xffff_ffff) + size as u64 - 1);
        let allowed = !a.unusable()
            && a.present()
            && match kind {
                Kind::Read => a.readable() || !self.protected(),
                Kind::Write => a.writable() || !self.protected(),
            };
        let inside = if a.expand_down() {
            let top = if a.big() { 0xffff_ffff } else { 0xffff };
            ea > s.limit as u64 && last <= top
        } else {
            last <= s.limit as u64
        };
        if allowed && inside {
            return Ok(s.base.wrapping_add(ea) & 0xffff_ffff);
        }
        Err(self.segment_fault(seg))
    }

    #[cold]
    fn segment_fault(&mut self, seg: u8) -> Stop {
        let vector = if seg == Seg::Ss as u8 {
            exception::SS
        } else {
            exception::GP
        };
        self.raise_code(vector, 0)
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, code: u32) -> Stop {
        self.cr2 = linear;
        self.raise_code(exception::PF, code)
    }

    /// Walks the page tables and enters the translation.
    #[cold]
    fn fill(&mut self, seg: u8, linear: u64, access: Access) -> R<Place> {
        if self.long_mode() && !paging::canonical(linear) {
            return Err(self.segment_fault(seg));
        }
        self.tlb.misses += 1;
        let mode = self.paging_mode();
        let found = match mode.translate(&Tables(&self.board.ram), linear, access) {
            Ok(found) => found,
            Err(code) => return Err(self.page_fault(linear, code)),
        };
        let Some(offset) = self.board.ram.offset(found.physical) else {
            return Ok(Place::Device(found.physical));
        };
        if !self.is_apic_page(found.physical) {
            self.tlb
                .insert(linear, offset, &found, Self::permissions(&mode, &found));
            return Ok(Place::Ram(offset));
        }
        Ok(Place::Device(found.physical))
    }

    fn is_apic_page(&self, physical: u64) -> bool {
        self.board.apic.page().is_some_and(|p| p == physical & !0xfff)
    }

    fn permissions(mode: &Mode, t: &Translation) -> u8 {
        let can = |bit, write, fetch, user, ac| {
            // A clean page is entered without write permission, so that the first write sets D.
            let ok = t.allows(
                mode,
                Access {
                    write,
                    fetch,
                    user,
                    ac,
                },
            ) && (!write || t.dirty);
            if ok { bit } else { 0 }
        };
        can(perm::USER_READ, false, false, true, false)
            | can(perm::USER_WRITE, true, false, true, false)
            | can(perm::USER_FETCH, false, true, true, false)
            | can(perm::SUPER_READ, false, false, false, false)
            | can(perm::SUPER_WRITE, true, false, false, false)
            | can(perm::SUPER_FETCH, false, true, false, false)
            | can(perm::AC_READ, false, false, false, true)
            | can(perm::AC_WRITE, true, false, false, true)
    }

    fn access(&self, write: bool) -> Access {
        Access {
            write,
            fetch: false,
            user: self.cpl == 3,
            ac: self.rflags & rflags::AC != 0,
        }
    }

    /// Where a data access of up to a page's rest goes.
    #[inline(always)]
    pub fn place(&mut self, seg: u8, linear: u64, kind: Kind) -> R<Place> {
        let need = if kind == Kind::Write {
            self.need_write
        } else {
            self.need_read
        };
        if let Some(at) = self.tlb.lookup(linear, need) {
            return Ok(Place::Ram(at));
        }
        let access = self.access(kind == Kind::Write);
        self.fill(seg, linear, access)
    }

    /// Where the next instruction byte at linear address `linear` is.
    #[inline(always)]
    pub fn place_fetch(&mut self, linear: u64) -> R<Place> {
        if let Some(at) = self.tlb.lookup(linear, self.need_fetch) {
            return Ok(Place::Ram(at));
        }
        if !self.is64() {
            // The limit comes before the page.
            let cs = &self.seg[Seg::Cs as usize];
            if linear.wrapping_sub(cs.base) & 0xffff_ffff > cs.limit as u64 {
                return Err(self.gp(0));
            }
        }
        let access = Access {
            write: false,
            fetch: true,
            user: self.cpl == 3,
            ac: false,
        };
        self.fill(Seg::Cs as u8, linear, access)
    }

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

    /// An access that runs out of the canonical range faults as a whole, before its first page is looked at.
    fn check_canonical_end(&mut self, seg: u8, linear: u64, len: usize) -> R {
        if self.is64() && !paging::canonical(linear.wrapping_add(len as u64 - 1)) {
            return Err(self.segment_fault(seg));
        }
        Ok(())
    }

    fn next_page(&self, linear: u64) -> u64 {
        let next = (linear | 0xfff).wrapping_add(1);
        if self.is64() { next } else { next & 0xffff_ffff }
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

    /// Loads for the processor itself (descriptor tables, task state): supervisor whatever the CPL, by
    /// linear address.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> R<T> {
        let linear = if self.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let mut bytes = [0; 8];
        for i in 0..T::SIZE {
            // Descriptors seldom cross a page, and this path is not hot enough to care.
            let at = linear.wrapping_add(i as u64);
            if i == 0 || at & 0xfff == 0 {
                let n = (T::SIZE - i).min(0x1000 - (at & 0xfff) as usize);
                let access = Access {
                    write: false,
                    fetch: false,
                    user: false,
                    ac: false,
                };
                match self.place_as(Seg::Ds, at, access)? {
                    Place::Ram(o) => self.board.ram.read_at(o, &mut bytes[i..i + n]),
                    Place::Device(p) => self.device_read_bytes(p, &mut bytes[i..i + n]),
                }
            }
        }
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Stores for the processor itself.
    pub fn write_system<T: Word>(&mut self, linear: u64, v: T) -> R {
        self.write_as(
            Seg::Ds,
            linear,
            v,
            Access {
                write: true,
                fetch: false,
                user: false,
                ac: false,
            },
        )
    }

    /// Pushes on a stack that privilege level `cpl` is about to use. Unlike accesses to the processor's own
    /// tables these are made at that level (Intel SDM vol. 3A §4.6).
    pub fn write_stack<T: Word>(&mut self, linear: u64, v: T, cpl: u8) -> R {
        let ac = self.rflags & rflags::AC != 0;
        self.write_as(
            Seg::Ss,
            linear,
            v,
            Access {
                write: true,
                fetch: false,
                user: cpl == 3,
                ac,
            },
        )
    }

    fn write_as<T: Word>(&mut self, seg: Seg, linear: u64, v: T, access: Access) -> R {
        let linear = if self.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let bytes = v.to_u64().to_le_bytes();
        let here = T::SIZE.min(0x1000 - (linear & 0xfff) as usize);
        let a = self.place_as(seg, linear, access)?;
        let b = if here < T::SIZE {
            self.place_as(seg, linear.wrapping_add(here as u64), access)?
        } else {
            a
        };
        for (place, part) in [(a, &bytes[..here]), (b, &bytes[here..T::SIZE])] {
            match place {
                _ if part.is_empty() => {}
                Place::Ram(at) => self.board.ram.write_at(at, part),
                Place::Device(p) => self.device_write_bytes(p, part),
            }
        }
        Ok(())
    }

    fn place_as(&mut self, seg: Seg, linear: u64, access: Access) -> R<Place> {
        let need = match (access.write, access.user, access.ac) {
            (false, ..) => perm::SUPER_READ,
            (true, true, _) => perm::USER_WRITE,
            (true, false, true) => perm::AC_WRITE,
            (true, false, false) => perm::SUPER_WRITE,
        };
        if let Some(at) = self.tlb.lookup(linear, need) {
            return Ok(Place::Ram(at));
        }
        self.fill(seg as u8, linear, access)
    }

    /// A load from something that is not RAM.
    pub fn device_read(&mut self, physical: u64, size: u8) -> u64 {
        if self.is_apic_page(physical) {
            let value = self.board.apic.page_read(physical as u16 & 0xff0) as u64;
            return value >> (8 * (physical & 15).min(7));
        }
        self.board.io.mmio_read(physical, size)
    }

    /// A store to something that is not RAM.
    pub fn device_write(&mut self, physical: u64, size: u8, v: u64) {
        if self.is_apic_page(physical) {
            if physical & 15 == 0 && size >= 4 {
                self.board.apic.page_write(physical as u16 & 0xff0, v as u32);
            }
            return;
        }
        self.board.io.mmio_write(physical, size, v);
    }

    fn device_read_bytes(&mut self, physical: u64, out: &mut [u8]) {
        for (i, chunk) in out.chunks_mut(8).enumerate() {
            let v = self.device_read(physical + i as u64 * 8, chunk.len() as u8);
            chunk.copy_from_slice(&v.to_le_bytes()[..chunk.len()]);
        }
    }

    fn device_write_bytes(&mut self, physical: u64, data: &[u8]) {
        for (i, chunk) in data.chunks(8).enumerate() {
            let mut v = [0; 8];
            v[..chunk.len()].copy_from_slice(chunk);
            self.device_write(physical + i as u64 * 8, chunk.len() as u8, u64::from_le_bytes(v));
        }
    }

    /// The bits of the stack pointer in use, as an address.
    #[inline(always)]
    pub fn stack_pointer(&self) -> u64 {
        self.regs[4] & self.stack_mask
    }

    /// Sets the bits of the stack pointer in use.
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, v: u64) {
        let m = self.stack_mask;
        self.regs[4] = if m == 0xffff {
            self.regs[4] & !m | v & m
        } else {
            v & m
        };
    }

    /// Pushes; RSP moves only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Word>(&mut self, v: T) -> R {
        let sp = self.stack_pointer().wrapping_sub(T::SIZE as u64) & self.stack_mask;
        self.write(Seg::Ss as u8, sp, v)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Pops.
    #[inline(always)]
    pub fn pop<T: Word>(&mut self) -> R<T> {
        let sp = self.stack_pointer();
        let v = self.read(Seg::Ss as u8, sp)?;
        self.set_stack_pointer(sp.wrapping_add(T::SIZE as u64));
        Ok(v)
    }
}
