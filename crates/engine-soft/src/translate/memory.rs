//! The translation tables of translated code: how pages get in, and how they get out.

use super::frame::{Frame, Mode, Page, TLB_ENTRIES, unused};
use super::step::Step;
use super::{After, Hasher};
use crate::cpu::{Cpu, perm};
use std::collections::HashSet;

const WRITE: u32 = 1 << 16;
const MODE_SHIFT: u32 = 17;
const ALIGN_SHIFT: u32 = 19;
const AT_SHIFT: u32 = 22;

/// What a fill asks for, in one word: bytes from the address on that must lie in the page, whether they
/// are to be written, the privilege, and if the access must be aligned how and where it begins: being
/// misaligned comes before what the page tables say.
pub fn request(span: u32, write: bool, mode: Mode, aligned: Option<(u32, i64)>) -> u32 {
    let aligned = aligned.map_or(0, |(to, at)| {
        debug_assert!(to <= 32);
        to.trailing_zeros() << ALIGN_SHIFT | (at as u32 & 31) << AT_SHIFT
    });
    span | if write { WRITE } else { 0 } | (mode as u32) << MODE_SHIFT | aligned
}

/// Asks for the x87 state instead of a page.
pub const WANTS_X87: u32 = u32::MAX;

/// Pages handed to translated code, and changes it has not seen yet.
#[derive(Default)]
pub struct Direct {
    /// Entries in use: of translations that are not global, and of those that are.
    filled: [Vec<Filled>; 2],
    pub stale: Stale,
    /// Numbers of large pages that pieces were handed out of, by log2 of their size.
    large: [HashSet<u64, Hasher>; 3],
    /// The code map's count of changes that has been acted on.
    pub changes: u64,
    /// Instructions that translated code has interpreted.
    pub steps: Vec<Step>,
    /// Instructions of its unit that had run when the last step did.
    pub done: u8,
    /// Steps that finished their instruction.
    pub steps_done: u64,
    /// Pages looked up, where that is counted.
    pub lookups: u64,
    /// Whether units count the instructions they run.
    pub counts: bool,
    /// What the last step that ended a run came to.
    pub result: After,
    /// Pages asked for, and those of them that were filled; instructions interpreted in [`Direct::steps`].
    pub misses: u64,
    pub fills: u64,
    pub stepped: u64,
    /// Host address of RAM as translated code sees it.
    pub base: u64,
    /// The last fill failed because the access runs into another page.
    pub crossed: bool,
}

/// An entry in use.
#[derive(Clone, Copy)]
struct Filled {
    index: u16,
    mode: u8,
    write: bool,
}

impl Filled {
    fn drop(&self, frame: &mut Frame) {
        let tlb = &mut frame.tlb[self.mode as usize];
        let table = if self.write { &mut tlb.write } else { &mut tlb.read };
        table[self.index as usize] = unused(self.index as usize);
    }
}

/// Translations that are no longer valid.
#[derive(Default)]
pub struct Stale {
    /// All of them.
    pub all: bool,
    /// Those that are not global.
    pub local: bool,
    /// These pages.
    pub pages: Vec<u64>,
}

impl Stale {
    /// Whether there is anything to do.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.all || self.local || !self.pages.is_empty()
    }
}

/// log2 of the sizes of large pages.
const LARGE: [u8; 3] = [21, 22, 30];

impl Direct {
    /// Notes that a piece of the large page around `linear` was handed out.
    pub fn note_large(&mut self, linear: u64, shift: u8) {
        if let Some(n) = LARGE.iter().position(|s| *s == shift) {
            self.large[n].insert(linear >> shift);
        }
    }

    /// The translations of one page, whatever its size, are no longer valid.
    pub fn stale_page(&mut self, linear: u64) {
        let large = |n: usize| self.large[n].contains(&(linear >> LARGE[n]));
        if (0..3).any(large) || self.stale.pages.len() >= 64 {
            self.stale.all = true;
        } else {
            self.stale.pages.push(linear & !0xfff);
        }
    }

    /// Drops the entries that are global, or not.
    fn drop_entries(&mut self, frame: &mut Frame, global: bool) {
        for f in self.filled[global as usize].drain(..) {
            f.drop(frame);
        }
    }

    /// Takes what is stale out of the tables.
    pub fn flush(&mut self, frame: &mut Frame) {
        if self.stale.all {
            self.drop_entries(frame, true);
            self.large = Default::default();
        }
        if self.stale.all || self.stale.local {
            self.drop_entries(frame, false);
        }
        if !self.stale.pages.is_empty() && !self.stale.all {
            for linear in &self.stale.pages {
                let index = (linear >> 12) as usize % TLB_ENTRIES;
                for tlb in &mut frame.tlb {
                    for table in [&mut tlb.read, &mut tlb.write] {
                        if table[index].linear == *linear {
                            // Its note stays and does no harm.
                            table[index] = unused(index);
                        }
                    }
                }
            }
        }
    }

    /// Takes back every permission to store.
    pub fn flush_stores(&mut self, frame: &mut Frame) {
        for filled in &mut self.filled {
            filled.retain(|f| {
                if f.write {
                    f.drop(frame);
                }
                !f.write
            });
        }
    }
}

impl Cpu {
    /// Enters the page of `linear` into the table that `request` names. `false` if it cannot be there: a
    /// fault, a device, an access that crosses into another page, a store beside code. The interpreter
    /// then finds out which.
    pub fn fill_page(&mut self, frame: &mut Frame, linear: u64, request: u32) -> bool {
        if request == WANTS_X87 {
            return self.give_x87(frame);
        }
        self.direct.misses += 1;
        let (span, write) = (request as u64 & 0xffff, request & WRITE != 0);
        self.direct.crossed = (linear & 0xfff) + span > 0x1000;
        if self.direct.crossed {
            return false;
        }
        let align = 1u64 << (request >> ALIGN_SHIFT & 7);
        if linear.wrapping_add((request >> AT_SHIFT & 31) as u64) & (align - 1) != 0 {
            return false;
        }
        let mode = request >> MODE_SHIFT & 3;
        let (read_bit, write_bit, user, ac) = match mode {
            0 => (perm::USER_READ, perm::USER_WRITE, true, false),
            1 => (perm::SUPER_READ, perm::SUPER_WRITE, false, false),
            _ => (perm::AC_READ, perm::AC_WRITE, false, true),
        };
        let need = if write { write_bit } else { read_bit };
        let Some((at, global)) = self.direct_page(linear, write, need, user, ac) else {
            return false;
        };
        let at = at & !0xfff;
        let ram = &self.board.ram;
        if write && !ram.unguard(at) {
            return false;
        }
        let index = (linear >> 12) as usize % TLB_ENTRIES;
        let tlb = &mut frame.tlb[mode as usize];
        let table = if write { &mut tlb.write } else { &mut tlb.read };
        table[index] = Page {
            linear: linear & !0xfff,
            host: self.direct.base + at as u64,
        };
        self.direct.filled[global as usize].push(Filled {
            index: index as u16,
            mode: mode as u8,
            write,
        });
        self.direct.fills += 1;
        true
    }
}
