//! The translation tables of translated code: how pages get in, and how they get out.

use super::frame::{Frame, Mode, Page, TLB_ENTRIES, unused};
use crate::cpu::{Cpu, perm};

const WRITE: u32 = 1 << 16;
const MODE_SHIFT: u32 = 17;

/// What a fill asks for, in one word: bytes from the address on that must lie in the page, whether they
/// are to be written, and the privilege.
pub fn request(span: u32, write: bool, mode: Mode) -> u32 {
    span | if write { WRITE } else { 0 } | (mode as u32) << MODE_SHIFT
}

/// Pages handed to translated code, and changes it has not seen yet.
#[derive(Default)]
pub struct Direct {
    filled: Vec<Filled>,
    pub stale: Stale,
}

/// An entry in use.
#[derive(Clone, Copy)]
struct Filled {
    index: u16,
    mode: u8,
    write: bool,
    global: bool,
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
    /// One page, or the large page around it.
    pub fn page(&mut self, linear: u64, large: bool) {
        if large || self.pages.len() >= 64 {
            self.all = true;
        } else {
            self.pages.push(linear & !0xfff);
        }
    }

    /// Whether there is anything to do.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.all || self.local || !self.pages.is_empty()
    }
}

impl Direct {
    /// Drops the entries that `which` selects.
    fn drop_entries(&mut self, frame: &mut Frame, which: impl Fn(&Page, &Filled) -> bool) {
        self.filled.retain(|f| {
            let tlb = &mut frame.tlb[f.mode as usize];
            let table = if f.write { &mut tlb.write } else { &mut tlb.read };
            let entry = &mut table[f.index as usize];
            let stale = which(entry, f);
            if stale {
                *entry = unused(f.index as usize);
            }
            !stale
        });
    }

    /// Takes what is stale out of the tables.
    pub fn flush(&mut self, frame: &mut Frame) {
        if self.stale.all {
            self.drop_entries(frame, |_, _| true);
        } else if self.stale.local {
            self.drop_entries(frame, |_, f| !f.global);
        }
        if !self.stale.pages.is_empty() && !self.stale.all {
            let pages = std::mem::take(&mut self.stale.pages);
            for linear in &pages {
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
        self.drop_entries(frame, |_, f| f.write);
    }
}

impl Cpu {
    /// Enters the page of `linear` into the table that `request` names. `false` if it cannot be there: a
    /// fault, a device, an access that crosses into another page, a store beside code. The interpreter
    /// then finds out which.
    pub fn fill_page(&mut self, frame: &mut Frame, linear: u64, request: u32) -> bool {
        let (span, write) = (request as u64 & 0xffff, request & WRITE != 0);
        if (linear & 0xfff) + span > 0x1000 {
            return false;
        }
        let mode = request >> MODE_SHIFT;
        let (read_bit, write_bit, user, ac) = match mode {
            0 => (perm::USER_READ, perm::USER_WRITE, true, false),
            1 => (perm::SUPER_READ, perm::SUPER_WRITE, false, false),
            _ => (perm::AC_READ, perm::AC_WRITE, false, true),
        };
        let need = if write { write_bit } else { read_bit };
        let Some((at, global)) = self.direct_page(linear, write, need, user, ac) else {
            return false;
        };
        let ram = &self.board.ram;
        if write && ram.code().is_marked(at) {
            return false;
        }
        let index = (linear >> 12) as usize % TLB_ENTRIES;
        let tlb = &mut frame.tlb[mode as usize];
        let table = if write { &mut tlb.write } else { &mut tlb.read };
        table[index] = Page {
            linear: linear & !0xfff,
            host: ram.host_address() as u64 + at as u64,
        };
        self.direct.filled.push(Filled {
            index: index as u16,
            mode: mode as u8,
            write,
            global,
        });
        true
    }
}
