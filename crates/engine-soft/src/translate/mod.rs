//! The dynamic binary translator: guest code that runs often becomes host code.
//!
//! [`mod@unit`] reads and analyses guest code, [`emit`] turns it into host code, [`arena`] holds that and runs
//! it, [`frame`] is what both share. [`Translator`] finds, makes and connects translations and takes them
//! away when what they rest on changes:
//!
//! * the bytes: every unit remembers the generation of its page; when any page's generation moves on, the
//!   units of older generations go, and every jump into them;
//! * the mapping: units hold no linear address, only their frame knows the page they run at. Jumps inside a
//!   page are direct; jumps to other pages go through entries that are valid for one mapping and are dropped
//!   with it.
//!
//! Every vCPU translates for itself, so that nothing here is shared between threads.

mod arena;
mod asm;
mod emit;
mod encoding;
mod frame;
mod host;
mod memory;
mod registers;
mod statistics;
mod step;
mod trampolines;
mod unit;
mod x87;

#[cfg(test)]
mod tests;

pub(crate) use host::obstacle;
pub(crate) use memory::Direct;

use crate::cpu::{Cpu, R};
use crate::trace::CodeTrace;
use arena::Arena;
use donjon_engine::{Attention, TranslatorStatistics};
use donjon_memory::Ram;
use donjon_x86::bits::rflags;
use emit::Exit;
use frame::{Frame, Mode, no_target, target_slot};
use std::collections::{HashMap, hash_map};
use std::sync::Arc;
use unit::Reader;

/// Room a unit's code may need at most.
const MAX_CODE: usize = 64 << 10;

/// Why [`Translator::run`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum After {
    /// What comes next is not translated.
    Cold,
    /// The next instruction is the interpreter's, whatever is pending.
    One,
    /// Something may want attention.
    #[default]
    Attend,
    /// Another privilege or place goes on; nothing wants attention.
    Go,
    /// An instruction was interpreted, to this end.
    Done(R),
}

/// The list of [`Translator::used`] for global large pages.
const LARGE: usize = 2;

/// The exit number of a run that a step ended.
const STOPPED: u32 = u32::MAX;

/// Failed checks that make a unit be translated anew, with a check for each access.
const CROSSINGS: u16 = 8;

/// What a unit was made from.
struct Origin {
    key: u64,
    /// Failed checks of several accesses; of no interest in a unit without such.
    crossings: u16,
}

/// A translated unit.
#[derive(Clone, Copy)]
struct Entry {
    generation: u32,
    /// Its ways in.
    host_flags: u32,
    saved_flags: u32,
}

/// A jump target or link that is in use.
#[derive(Clone, Copy)]
struct Used {
    /// Mode and slot of a target; ones and slot of a link.
    mode: u8,
    slot: u32,
    /// The linear pages it depends on.
    pages: [u64; 2],
}

impl Used {
    fn drop(&self, frame: &mut Frame) {
        if self.mode == u8::MAX {
            frame.links[self.slot as usize] = u64::MAX;
        } else {
            frame.targets[self.mode as usize][self.slot as usize] = no_target(self.slot as usize);
        }
    }
}

/// Jumps in use.
struct InUse {
    list: Vec<Used>,
    /// A bit for each linear page, hashed, that any of them depends on.
    pages: Box<[u64; 64]>,
}

impl Default for InUse {
    fn default() -> Self {
        Self {
            list: vec![],
            pages: Box::new([0; 64]),
        }
    }
}

impl InUse {
    fn add(&mut self, used: Used, frame: &mut Frame) {
        if self.list.len() > 1 << 16 {
            self.drop_all(frame);
        }
        for page in used.pages {
            let (word, bit) = code_page_bit(page);
            self.pages[word] |= bit;
        }
        self.list.push(used);
    }

    fn drop_all(&mut self, frame: &mut Frame) {
        for u in self.list.drain(..) {
            u.drop(frame);
        }
        self.pages.fill(0);
    }

    fn drop_page(&mut self, page: u64, frame: &mut Frame) {
        let (word, bit) = code_page_bit(page);
        if self.pages[word] & bit == 0 {
            return;
        }
        self.list.retain(|u| {
            let stale = u.pages.contains(&page);
            if stale {
                u.drop(frame);
            }
            !stale
        });
    }
}

/// Units that depend on a page's bytes.
struct PageUnits {
    generation: u32,
    keys: Vec<u64>,
}

pub(crate) struct Translator {
    arena: Arena,
    reader: Reader,
    ram: Arc<Ram>,
    index: HashMap<u64, Entry, Hasher>,
    /// RAM offsets and generations of pages with translations.
    pages: HashMap<usize, PageUnits, Hasher>,
    exits: Vec<Exit>,
    /// For each exit the instructions of its unit that have run when it is taken.
    done: Vec<u8>,
    /// Every unit in the arena, by number.
    origins: Vec<Origin>,
    links: usize,
    /// What depends on translations that are not global, on those that are, and on those of global large
    /// pages alone.
    used: [InUse; 3],
    /// The 2 MiB regions of the latter: RAM offsets by linear address.
    regions: HashMap<u64, usize, Hasher>,
    changes: u64,
    marked: u64,
    /// Times a block is interpreted before it is translated.
    pub threshold: u16,
    /// No unit leads to another: [`Translator::run`] comes back after each.
    pub apart: bool,
    /// What [`Translator::uncounted`] was at the last exit.
    left: i64,
    /// What happened so far; the counts that [`Direct`] has are not in it.
    stats: TranslatorStatistics,
    /// Who wants to hear of new code.
    trace: Option<Arc<dyn CodeTrace>>,
}

/// Multiplicative hashing: keys are addresses.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hasher;

impl std::hash::BuildHasher for Hasher {
    type Hasher = Multiply;
    fn build_hasher(&self) -> Multiply {
        Multiply(0)
    }
}

pub(crate) struct Multiply(u64);

impl std::hash::Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(*b as u64);
        }
    }
    fn write_u64(&mut self, v: u64) {
        let v = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = v ^ v >> 32;
    }
    fn write_usize(&mut self, v: usize) {
        self.write_u64(v as u64);
    }
}

fn key(at: usize, mode: Mode) -> u64 {
    (at as u64) << 2 | mode as u64
}

fn code_page_bit(linear: u64) -> (usize, u64) {
    let h = (linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    (h as usize >> 6, 1 << (h & 63))
}

impl Translator {
    /// A translator with `len` bytes for code; `None` if the host cannot run what it makes.
    pub fn new(ram: Arc<Ram>, len: usize, threshold: u16) -> Option<Self> {
        if !host::lacking().is_empty() {
            return None;
        }
        let arena = match Arena::new(len.max(4 * MAX_CODE)) {
            Ok(arena) => arena,
            Err(error) => {
                tracing::warn!(%error, "no memory for translated code; everything is interpreted");
                return None;
            }
        };
        Some(Self {
            arena,
            reader: Reader::new(),
            index: HashMap::default(),
            pages: HashMap::default(),
            exits: vec![],
            done: vec![],
            origins: vec![],
            links: 0,
            used: Default::default(),
            regions: HashMap::default(),
            changes: ram.code().changes(),
            marked: ram.code().marked(),
            ram,
            threshold,
            apart: false,
            left: 0,
            stats: TranslatorStatistics::default(),
            trace: None,
        })
    }

    /// The privilege that code runs with now; `None` if translated code cannot run.
    pub fn mode(cpu: &Cpu) -> Option<Mode> {
        if !cpu.is64() || cpu.checks_data() {
            return None;
        }
        match cpu.cpl {
            3 => Some(Mode::User),
            0 if cpu.rflags & rflags::AC != 0 => Some(Mode::SupervisorAc),
            0 => Some(Mode::Supervisor),
            _ => None,
        }
    }

    /// Drops what rests on bytes that have changed.
    fn refresh(&mut self, cpu: &mut Cpu) {
        // Before the count is read: a change after that raises it again.
        if cpu.board.attention.bits() & Attention::CODE != 0 {
            cpu.board.attention.take(Attention::CODE);
        }
        if self.arena.take_faulted() {
            // A page became code after it was handed out for stores.
            cpu.direct.flush_stores(self.arena.frame_mut());
        }
        let changes = self.ram.code().changes();
        cpu.direct.changes = changes;
        if changes != self.changes {
            self.changes = changes;
            self.drop_changed();
        }
        let marked = self.ram.code().marked();
        if marked != self.marked {
            // A page has become code since it was handed out for stores.
            self.marked = marked;
            self.stats.invalidations.stores += 1;
            cpu.direct.flush_stores(self.arena.frame_mut());
        }
        if cpu.direct.stale.all {
            // A kernel flushes everything for any change; its own code rarely moves.
            let moved = |(linear, at): (&u64, &usize)| !cpu.still_maps(*linear, *at);
            if self.regions.iter().any(moved) {
                self.regions.clear();
                self.used[LARGE].drop_all(self.arena.frame_mut());
            }
        }
        if cpu.direct.stale.any() {
            if cpu.direct.stale.all {
                self.stats.invalidations.mappings += 1
            } else if cpu.direct.stale.local {
                self.stats.invalidations.local_mappings += 1
            } else {
                self.stats.invalidations.pages += 1
            }
            cpu.direct.flush(self.arena.frame_mut());
            let stale = std::mem::take(&mut cpu.direct.stale);
            self.drop_used(&stale);
        }
    }

    #[cold]
    fn drop_changed(&mut self) {
        let (ram, index) = (&self.ram, &mut self.index);
        let before = self.pages.len();
        self.pages.retain(|page, units| {
            let current = units.generation == ram.code().generation(*page);
            if !current {
                for key in &units.keys {
                    index.remove(key);
                }
            }
            current
        });
        if self.pages.len() != before {
            self.stats.invalidations.code += 1;
            self.drop_every_jump();
        }
    }

    /// Drops jump targets and links that depend on stale mappings.
    fn drop_used(&mut self, stale: &memory::Stale) {
        let frame = self.arena.frame_mut();
        if stale.all {
            self.used[1].drop_all(frame);
        }
        // Those of large pages were looked at before.
        if stale.all || stale.local {
            self.used[0].drop_all(frame);
        }
        for page in &stale.pages {
            for used in &mut self.used {
                used.drop_page(*page, frame);
            }
        }
    }

    fn drop_every_jump(&mut self) {
        let frame = self.arena.frame_mut();
        for used in &mut self.used {
            used.drop_all(frame);
        }
        self.regions.clear();
    }

    /// Which list of [`Translator::used`] a jump between these pages belongs in.
    fn class(&mut self, cpu: &mut Cpu, global: bool, mode: Mode, pages: [u64; 2]) -> usize {
        let large = global && mode != Mode::User && pages.iter().all(|p| cpu.is_large_code(*p));
        if !large {
            return global as usize;
        }
        for page in pages {
            let region = page & !0x1f_ffff;
            if let hash_map::Entry::Vacant(new) = self.regions.entry(region) {
                let Some((at, _)) = cpu.direct_fetch(page) else {
                    return 1;
                };
                let at = (at & !0xfff).checked_sub((page & 0x1f_f000) as usize);
                let Some(at) = at.filter(|at| cpu.still_maps(region, *at)) else {
                    return 1;
                };
                new.insert(at);
            }
        }
        LARGE
    }

    fn note_used(&mut self, class: usize, used: Used) {
        self.used[class].add(used, self.arena.frame_mut());
    }

    /// The translation of the code at RAM offset `at`, if there is a current one.
    #[inline]
    fn find(&self, at: usize, mode: Mode) -> Option<Entry> {
        let e = self.index.get(&key(at, mode))?;
        (e.generation == self.ram.code().generation(at)).then_some(*e)
    }

    /// Translates the code at RAM offset `at`. `hot` tells whether code at an offset runs often. `false` if
    /// its first instruction is the interpreter's.
    pub fn translate(
        &mut self,
        cpu: &mut Cpu,
        at: usize,
        mode: Mode,
        hot: impl FnMut(usize) -> bool,
    ) -> bool {
        self.find(at, mode).is_some() || self.make(cpu, at, mode, true, hot).is_some()
    }

    /// Translates, with or without one check for several accesses. `None` if its first instruction is not
    /// translated; else what there is now, which is nothing if the arena was full.
    fn make(
        &mut self,
        cpu: &mut Cpu,
        at: usize,
        mode: Mode,
        group: bool,
        hot: impl FnMut(usize) -> bool,
    ) -> Option<Option<Entry>> {
        if !self.arena.has_room(MAX_CODE) {
            self.reset(cpu);
        }
        let unit = self.reader.read(cpu, at, mode, group, hot)?;
        let base = self.arena.used();
        let pools = emit::Pools {
            exits: &mut self.exits,
            done: &mut self.done,
            links: &mut self.links,
            counts: cpu.direct.counts,
            apart: self.apart,
            steps: &mut cpu.direct.steps,
        };
        let id = self.origins.len() as u32;
        let code = emit::emit(&unit, id, mode, base, self.arena.trampolines, pools);
        let Some(code) = code.filter(|c| self.arena.has_room(c.bytes[0].len().max(c.bytes[1].len()))) else {
            self.reset(cpu);
            return Some(None);
        };
        self.origins.push(Origin {
            key: key(at, mode),
            crossings: if group { 0 } else { CROSSINGS },
        });
        self.arena.append_emitted(&code.bytes);
        for (base, code) in base.into_iter().zip(&code.bytes) {
            self.tell(base, code.len(), mode, cpu.rip());
        }
        for (at, to) in code.on_fault {
            self.arena.on_fault(at, to);
        }
        let entry = Entry {
            generation: unit.generation,
            host_flags: code.host_flags as u32,
            saved_flags: code.saved_flags as u32,
        };
        self.stats.units += 1;
        self.index.insert(key(at, mode), entry);
        self.depends(unit.page, unit.generation, key(at, mode));
        if let Some((page, generation)) = unit.second {
            self.depends(page, generation, key(at, mode));
        }
        Some(Some(entry))
    }

    /// Notes that a unit was made from a page's bytes as of a generation.
    fn depends(&mut self, page: usize, generation: u32, key: u64) {
        let fresh = || PageUnits {
            generation,
            keys: vec![],
        };
        let units = self.pages.entry(page).or_insert_with(fresh);
        if units.generation == generation {
            units.keys.push(key);
            return;
        }
        // What is left of older bytes, which nothing may find any more.
        let old = std::mem::replace(units, fresh());
        units.keys.push(key);
        for k in old.keys.iter().filter(|k| **k != key) {
            self.index.remove(k);
        }
        self.drop_every_jump();
    }

    /// A check in a unit failed because the accesses it stands for run into another page. If that goes on
    /// the unit is replaced by one that checks each access by itself.
    #[cold]
    fn crossed(&mut self, cpu: &mut Cpu, unit: u32, hot: impl FnMut(usize) -> bool) {
        let origin = &mut self.origins[unit as usize];
        if origin.crossings >= CROSSINGS {
            return;
        }
        origin.crossings += 1;
        if origin.crossings < CROSSINGS {
            return;
        }
        let key = origin.key;
        let Some(old) = self.index.get(&key).copied() else {
            return;
        };
        let (at, mode) = ((key >> 2) as usize, Mode::from_bits(key));
        if old.generation != self.ram.code().generation(at) {
            return;
        }
        // The reader wants the instruction pointer at the unit.
        let rip = cpu.rip();
        cpu.set_rip(self.arena.frame().page | (at & 0xfff) as u64);
        let resets = self.stats.arena_emptied;
        if let Some(Some(new)) = self.make(cpu, at, mode, false, hot)
            && self.stats.arena_emptied == resets
        {
            self.arena
                .redirect(old.saved_flags as usize, new.saved_flags as usize);
            if old.host_flags != old.saved_flags {
                self.arena
                    .redirect(old.host_flags as usize, new.host_flags as usize);
            }
        }
        cpu.set_rip(rip);
    }

    /// Starts over with an empty arena.
    #[cold]
    fn reset(&mut self, cpu: &mut Cpu) {
        self.stats.arena_emptied += 1;
        self.drop_every_jump();
        self.origins.clear();
        cpu.direct.steps.clear();
        self.index.clear();
        self.pages.clear();
        self.exits.clear();
        self.done.clear();
        self.links = 0;
        self.arena.reset();
    }

    /// Runs translated code from the instruction pointer, at RAM offset `at`, on; `None` if there is none.
    /// `interest` are the attention bits that concern the vCPU.
    pub fn run(&mut self, cpu: &mut Cpu, at: usize, mode: Mode, interest: u32) -> Option<After> {
        self.refresh(cpu);
        let mut code = self.find(at, mode)?.saved_flags as usize;
        cpu.give(self.arena.frame_mut(), interest);
        self.stats.entries += 1;
        loop {
            self.arena.enter(cpu, code);
            if self.apart || cpu.direct.counts {
                self.left = self.uncounted(cpu);
            }
            if self.arena.frame().exit == STOPPED {
                self.stats.exits.step += 1;
                return Some(cpu.direct.result);
            }
            let exit = self.exits[self.arena.frame().exit as usize];
            if self.apart
                && let Some(offset) = self.leads_to(exit)
            {
                let frame = self.arena.frame_mut();
                let rip = frame.page.wrapping_add(offset as u64);
                cpu.take_back(frame, rip);
                return Some(After::Go);
            }
            let next = match exit {
                Exit::Jump {
                    site,
                    to,
                    mode,
                    host_flags,
                    page,
                } => {
                    self.stats.exits.jump += 1;
                    self.jump(site, to, mode, host_flags, page)
                }
                Exit::Cross { site, slot, to, mode } => {
                    self.stats.exits.page += 1;
                    self.cross(cpu, site, slot, to, mode)
                }
                Exit::Indirect { mode, offset, moved } => {
                    self.stats.exits.indirect += 1;
                    if donjon_x86::paging::canonical(self.arena.frame().target) {
                        self.indirect(cpu, mode)
                    } else {
                        let rsp = cpu.reg(4);
                        cpu.set_reg(4, rsp.wrapping_sub(moved as i64 as u64));
                        Err((offset as i64, After::One))
                    }
                }
                Exit::Guard {
                    slot,
                    resume,
                    offset,
                    second,
                    generation,
                } => {
                    self.stats.exits.guard += 1;
                    if self.guard(cpu, slot, second, generation) {
                        Ok(resume)
                    } else {
                        Err((offset as i64, After::One))
                    }
                }
                Exit::Interpret { offset, unit } => {
                    self.stats.exits.interpreter += 1;
                    if std::mem::take(&mut cpu.direct.crossed) {
                        self.crossed(cpu, unit, |_| false);
                    }
                    Err((offset as i64, After::One))
                }
                Exit::Poll { offset } => {
                    self.stats.exits.attention += 1;
                    Err((offset as i64, After::Attend))
                }
            };
            let frame = self.arena.frame_mut();
            match next {
                Ok(entry)
                    if matches!(exit, Exit::Guard { .. })
                        || cpu.board.attention.bits() & frame.interest == 0 =>
                {
                    code = entry
                }
                Ok(_) => {
                    // The frame's page is that of the target already, and so is the offset.
                    let rip = frame.target;
                    cpu.take_back(frame, rip);
                    return Some(After::Attend);
                }
                Err((offset, after)) => {
                    let rip = frame.page.wrapping_add(offset as u64);
                    cpu.take_back(frame, rip);
                    return Some(after);
                }
            }
        }
    }

    /// The offset from the page that an exit to more code leads to.
    fn leads_to(&self, exit: Exit) -> Option<i64> {
        let frame = self.arena.frame();
        match exit {
            Exit::Jump { to, .. } => Some(to as i64),
            Exit::Cross { to, .. } => Some(to),
            Exit::Indirect { .. } if donjon_x86::paging::canonical(frame.target) => {
                Some(frame.target.wrapping_sub(frame.page) as i64)
            }
            _ => None,
        }
    }

    /// Runs as [`Translator::run`] does and adds all that its code retired, which it also returns, to the
    /// vCPU's count. [`Direct::counts`] is set.
    pub fn run_accounted(
        &mut self,
        cpu: &mut Cpu,
        at: usize,
        mode: Mode,
        interest: u32,
    ) -> Option<(After, u64)> {
        let (before, steps) = (cpu.instructions, cpu.direct.steps_done);
        let (after, retired) = self.run_counted(cpu, at, mode, interest)?;
        cpu.instructions = before + retired + (cpu.direct.steps_done - steps);
        Some((after, retired))
    }

    /// Runs as [`Translator::run`] does and counts what that retired: all of it if [`Direct::counts`], else
    /// what its last unit did.
    pub fn run_counted(
        &mut self,
        cpu: &mut Cpu,
        at: usize,
        mode: Mode,
        interest: u32,
    ) -> Option<(After, u64)> {
        let (counted, steps) = (cpu.instructions, cpu.direct.steps_done);
        self.left = 0;
        let after = self.run(cpu, at, mode, interest)?;
        let counted = (cpu.instructions - counted) - (cpu.direct.steps_done - steps);
        Some((after, counted.wrapping_add(self.left as u64)))
    }

    /// The instructions of the last unit that its code has not counted.
    fn uncounted(&self, cpu: &Cpu) -> i64 {
        let frame = self.arena.frame();
        if frame.exit == STOPPED {
            return cpu.direct.done as i64;
        }
        let (exit, done) = (
            self.exits[frame.exit as usize],
            self.done[frame.exit as usize] as i64,
        );
        match exit {
            // The branch is undone and left to the interpreter.
            Exit::Indirect { .. } if !donjon_x86::paging::canonical(frame.target) && cpu.direct.counts => -1,
            Exit::Indirect { .. } if !donjon_x86::paging::canonical(frame.target) => done - 1,
            Exit::Jump { .. } | Exit::Cross { .. } | Exit::Indirect { .. } if cpu.direct.counts => 0,
            _ => done,
        }
    }

    /// A jump inside a page: the code to go on with, or the offset of what is not translated.
    fn jump(
        &mut self,
        site: usize,
        to: i32,
        mode: Mode,
        host: bool,
        page: usize,
    ) -> Result<usize, (i64, After)> {
        let Some(e) = self.find(page + to as usize, mode) else {
            return Err((to as i64, After::Cold));
        };
        let entry = if host { e.host_flags } else { e.saved_flags };
        self.arena.link(site, entry as usize);
        let frame = self.arena.frame_mut();
        frame.target = frame.page.wrapping_add(to as u64);
        Ok(e.saved_flags as usize)
    }

    /// Whether an instruction that runs into the next page still finds the bytes there that it was made
    /// from; if so the link in `slot` says so from now on.
    fn guard(&mut self, cpu: &mut Cpu, slot: usize, second: usize, generation: u32) -> bool {
        let page = self.arena.frame().page;
        let next = page.wrapping_add(0x1000);
        let Some((at, global)) = cpu.direct_fetch(next) else {
            return false;
        };
        if at != second || self.ram.code().generation(at) != generation {
            return false;
        }
        let here = cpu.direct_fetch(page).is_some_and(|(_, global)| global);
        self.arena.frame_mut().links[slot] = page;
        let used = Used {
            mode: u8::MAX,
            slot: slot as u32,
            pages: [page, next],
        };
        self.note_used((global && here) as usize, used);
        true
    }

    fn cross(
        &mut self,
        cpu: &mut Cpu,
        site: usize,
        slot: usize,
        to: i64,
        mode: Mode,
    ) -> Result<usize, (i64, After)> {
        let from = self.arena.frame().page;
        let linear = from.wrapping_add(to as u64);
        let found = cpu.direct_fetch(linear);
        let found = found.and_then(|(at, global)| Some((self.find(at, mode)?, global)));
        let Some((e, global)) = found else {
            return Err((to, After::Cold));
        };
        let page = linear & !0xfff;
        let here = cpu.direct_fetch(from).is_some_and(|(_, global)| global);
        self.arena.link(site, e.saved_flags as usize);
        let frame = self.arena.frame_mut();
        frame.links[slot] = from;
        frame.page = page;
        frame.target = linear;
        let used = Used {
            mode: u8::MAX,
            slot: slot as u32,
            pages: [from, page],
        };
        let class = self.class(cpu, global && here, mode, used.pages);
        self.note_used(class, used);
        Ok(e.saved_flags as usize)
    }

    fn indirect(&mut self, cpu: &mut Cpu, mode: Mode) -> Result<usize, (i64, After)> {
        let (page, linear) = (self.arena.frame().page, self.arena.frame().target);
        let found = cpu.direct_fetch(linear);
        let found = found.and_then(|(at, global)| Some((self.find(at, mode)?, global)));
        let Some((e, global)) = found else {
            return Err((linear.wrapping_sub(page) as i64, After::Cold));
        };
        let code = self.arena.address(e.saved_flags as usize);
        let slot = target_slot(linear);
        let frame = self.arena.frame_mut();
        frame.targets[mode as usize][slot] = frame::Target { linear, code };
        frame.page = linear & !0xfff;
        let used = Used {
            mode: mode as u8,
            slot: slot as u32,
            pages: [linear & !0xfff; 2],
        };
        let class = self.class(cpu, global, mode, used.pages);
        self.note_used(class, used);
        Ok(e.saved_flags as usize)
    }

    /// How often the arena was emptied.
    pub fn resets(&self) -> u64 {
        self.stats.arena_emptied
    }
}
