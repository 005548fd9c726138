//! The software TLB: a direct-mapped cache of translations to RAM.
//!
//! Entries carry an epoch instead of being swept: a flush takes a new epoch, and each PCID keeps its own
//! (Intel SDM vol. 3A §4.10.1). Global translations have an epoch to themselves.

use donjon_x86::paging::Translation;

const ENTRIES: usize = 4096;

/// Permission bits of an entry: what each kind of access needs, with CR0.WP, SMEP and SMAP already
/// applied. A change of those flushes.
pub(crate) mod perm {
    pub const USER_READ: u8 = 1;
    pub const USER_WRITE: u8 = 2;
    pub const USER_FETCH: u8 = 4;
    pub const SUPER_READ: u8 = 8;
    pub const SUPER_WRITE: u8 = 16;
    pub const SUPER_FETCH: u8 = 32;
    /// Supervisor with EFLAGS.AC set.
    pub const AC_READ: u8 = 64;
    pub const AC_WRITE: u8 = 128;
}

#[derive(Clone, Copy)]
struct Entry {
    /// Linear page number; all ones is never a page number.
    page: u64,
    /// RAM offset of the page.
    offset: usize,
    epoch: u32,
    perm: u8,
    /// log2 of the size of the page it is a piece of.
    shift: u8,
}

const EMPTY: Entry = Entry {
    page: u64::MAX,
    offset: 0,
    epoch: 0,
    perm: 0,
    shift: 12,
};

/// Where [`Tlb::large`] notes the large page of that size around a linear page.
fn bucket(page: u64, shift: u8) -> usize {
    (page >> (shift - 12)) as usize % 64
}

/// One processor's TLB.
pub(crate) struct Tlb {
    entries: Box<[Entry; ENTRIES]>,
    epoch: u32,
    global_epoch: u32,
    newest: u32,
    /// The epoch each PCID had last; zero if none.
    pcids: Box<[u32; 4096]>,
    /// Whether pieces of a large page may be present, by its number: see [`bucket`].
    large: [bool; 64],
}

impl Tlb {
    pub fn new() -> Self {
        let entries = vec![EMPTY; ENTRIES]
            .into_boxed_slice()
            .try_into()
            .ok()
            .expect("its length is ENTRIES");
        Self {
            entries,
            epoch: 2,
            global_epoch: 1,
            newest: 2,
            pcids: vec![0; 4096]
                .into_boxed_slice()
                .try_into()
                .expect("its length is 4096"),
            large: [false; 64],
        }
    }

    /// The RAM offset of `linear`, if a translation that permits `need` is at hand.
    #[inline(always)]
    pub fn lookup(&self, linear: u64, need: u8) -> Option<usize> {
        let page = linear >> 12;
        let e = &self.entries[page as usize % ENTRIES];
        let hit =
            e.page == page && e.perm & need != 0 && (e.epoch == self.epoch || e.epoch == self.global_epoch);
        hit.then_some(e.offset | (linear & 0xfff) as usize)
    }

    /// As [`Tlb::lookup`], with whether the translation is global and log2 of its page's size.
    pub fn lookup_whole(&self, linear: u64, need: u8) -> Option<(usize, bool, u8)> {
        let offset = self.lookup(linear, need)?;
        let e = &self.entries[(linear >> 12) as usize % ENTRIES];
        Some((offset, e.epoch == self.global_epoch, e.shift))
    }

    /// Enters the translation of `linear`'s page to the RAM page at `offset`.
    pub fn insert(&mut self, linear: u64, offset: usize, found: &Translation, perm: u8) {
        let page = linear >> 12;
        let epoch = if found.global {
            self.global_epoch
        } else {
            self.epoch
        };
        let shift = found.page_shift;
        self.entries[page as usize % ENTRIES] = Entry {
            page,
            offset: offset & !0xfff,
            epoch,
            perm,
            shift,
        };
        if shift > 12 {
            self.large[bucket(page, shift)] = true;
        }
    }

    fn next_epoch(&mut self) -> u32 {
        if self.newest == u32::MAX {
            self.entries.fill(EMPTY);
            self.pcids.fill(0);
            self.newest = 1;
            self.global_epoch = self.newest;
        }
        self.newest += 1;
        self.newest
    }

    /// Drops everything, global translations too.
    pub fn flush_all(&mut self) {
        self.global_epoch = self.next_epoch();
        self.flush_every_pcid();
        self.large = [false; 64];
    }

    /// Drops the non-global translations of every PCID.
    pub fn flush_every_pcid(&mut self) {
        self.pcids.fill(0);
        self.epoch = self.next_epoch();
    }

    /// Drops the non-global translations of one PCID.
    pub fn flush_pcid(&mut self, pcid: u16, current: u16) {
        self.pcids[pcid as usize & 0xfff] = 0;
        if pcid == current {
            self.epoch = self.next_epoch();
        }
    }

    /// Makes `pcid` current after `previous`; without `keep` its old translations are gone.
    pub fn switch(&mut self, previous: u16, pcid: u16, keep: bool) {
        self.pcids[previous as usize & 0xfff] = self.epoch;
        let known = self.pcids[pcid as usize & 0xfff];
        self.epoch = if keep && known != 0 {
            known
        } else {
            self.next_epoch()
        };
    }

    /// Drops the translation of one page, whatever the page's size (Intel SDM vol. 3A §4.10.4.1).
    pub fn invalidate(&mut self, linear: u64) {
        let page = linear >> 12;
        let e = &mut self.entries[page as usize % ENTRIES];
        if e.page == page {
            *e = EMPTY;
        }
        // Every 4 KiB piece that was entered of the large page it is part of: 2 MiB, 4 MiB or 1 GiB.
        for shift in [21, 22, 30] {
            if self.large[bucket(page, shift)] {
                self.sweep(page, shift);
            }
        }
    }

    /// Drops the pieces of the large page of that size around `page`.
    #[cold]
    fn sweep(&mut self, page: u64, shift: u8) {
        let bits = shift - 12;
        // The pieces of a page lie next to each other, as far as the table goes.
        let pieces = (1usize << bits).min(ENTRIES);
        let first = (page >> bits << bits) as usize % ENTRIES;
        for e in &mut self.entries[first..first + pieces] {
            if e.page >> bits == page >> bits && e.shift == shift {
                *e = EMPTY;
            }
        }
    }
}
