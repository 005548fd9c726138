//! From linear addresses to RAM or a device: the TLB, the page walk behind it, and what flushes it.

use super::tlb::perm;
use super::{Cpu, Kind, Place, R, Stop};
use donjon_memory::Ram;
use donjon_x86::bits::{cr0, cr4, rflags};
use donjon_x86::paging::{self, Access, Mode, TableMemory, Translation};
use donjon_x86::{Seg, exception};
use std::cell::Cell;

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

/// Page tables that are looked at and left alone: the flag is cleared instead of setting bits.
struct Untouched<'a>(Tables<'a>, Cell<bool>);

impl TableMemory for Untouched<'_> {
    fn load(&self, address: u64, size: u8) -> u64 {
        self.0.load(address, size)
    }

    fn set_bits(&self, _: u64, _: u8, _: u64, _: u64) -> bool {
        self.1.set(false);
        true
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

    pub(super) fn data_breakpoints(&self) -> bool {
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
        self.direct.stale.all = true;
    }

    /// Drops the non-global translations of every PCID.
    pub fn flush_tlb_nonglobal(&mut self) {
        self.tlb.flush_every_pcid();
        self.direct.stale.local = true;
    }

    /// Drops the translations of one linear page.
    pub fn flush_tlb_page(&mut self, linear: u64) {
        self.direct.stale_page(linear);
        self.tlb.invalidate(linear);
    }

    /// Drops the non-global translations of a PCID.
    pub fn flush_tlb_pcid(&mut self, pcid: u16) {
        let current = self.pcid();
        self.tlb.flush_pcid(pcid, current);
        self.direct.stale.local |= pcid == current;
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
        self.direct.stale.local = true;
    }

    #[cold]
    pub(super) fn page_fault(&mut self, linear: u64, code: u32) -> Stop {
        self.cr2 = linear;
        self.raise_code(exception::PF, code)
    }

    /// Walks the page tables and enters the translation.
    #[cold]
    pub(super) fn fill(&mut self, seg: u8, linear: u64, access: Access) -> R<Place> {
        if self.long_mode() && !paging::canonical(linear) {
            return Err(self.segment_fault(seg));
        }
        self.walks += 1;
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

    pub(super) fn is_apic_page(&self, physical: u64) -> bool {
        self.board.apic.page().is_some_and(|p| p == physical & !0xfff)
    }

    pub(super) fn permissions(mode: &Mode, t: &Translation) -> u8 {
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

    pub(super) fn access(&self, write: bool) -> Access {
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

    /// The RAM page behind `linear` for an access by translated code, walking the page tables if needed, and
    /// whether its translation is global. `None`: a fault, or not RAM; the vCPU is as before.
    pub fn direct_page(
        &mut self,
        linear: u64,
        write: bool,
        need: u8,
        user: bool,
        ac: bool,
    ) -> Option<(usize, bool)> {
        if let Some(found) = self.direct_lookup(linear, need) {
            return Some(found);
        }
        if !paging::canonical(linear) {
            return None;
        }
        let access = Access {
            write,
            fetch: false,
            user,
            ac,
        };
        let (cr2, fault) = (self.cr2, self.fault);
        let place = self.fill(Seg::Ds as u8, linear, access);
        (self.cr2, self.fault) = (cr2, fault);
        let Ok(Place::Ram(_)) = place else { return None };
        self.direct_lookup(linear, need)
    }

    /// The RAM page of a translation that is at hand, noted as handed out.
    fn direct_lookup(&mut self, linear: u64, need: u8) -> Option<(usize, bool)> {
        let (at, global, shift) = self.tlb.lookup_whole(linear, need)?;
        if shift > 12 {
            self.direct.note_large(linear, shift);
        }
        Some((at, global))
    }

    /// Whether code at `linear` is in a large page, by a translation that is at hand.
    pub fn is_large_code(&self, linear: u64) -> bool {
        self.tlb
            .lookup_whole(linear, self.need_fetch)
            .is_some_and(|(_, _, shift)| shift >= 21)
    }

    /// Whether the page tables still map the supervisor's code at `linear` to RAM offset `at`, globally and
    /// in a large page, with nothing for a walk to change in them.
    pub fn still_maps(&self, linear: u64, at: usize) -> bool {
        let tables = Untouched(Tables(&self.board.ram), Cell::new(true));
        let access = Access {
            write: false,
            fetch: true,
            user: false,
            ac: false,
        };
        let Ok(found) = self.paging_mode().translate(&tables, linear, access) else {
            return false;
        };
        let same = self.board.ram.offset(found.physical) == Some(at);
        same && found.global && found.page_shift >= 21 && tables.1.get()
    }

    /// The RAM offset of code at `linear`, if its translation is at hand.
    pub fn cached_fetch(&self, linear: u64) -> Option<usize> {
        self.tlb.lookup(linear, self.need_fetch)
    }

    /// As [`Cpu::place_fetch`] in 64-bit code, without a trace of a fault, and whether it is global.
    pub fn direct_fetch(&mut self, linear: u64) -> Option<(usize, bool)> {
        let (cr2, fault) = (self.cr2, self.fault);
        let place = self.place_fetch(linear);
        (self.cr2, self.fault) = (cr2, fault);
        let Ok(Place::Ram(_)) = place else { return None };
        self.direct_lookup(linear, self.need_fetch)
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
}
