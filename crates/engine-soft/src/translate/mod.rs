//! The dynamic binary translator: guest code that runs often becomes host code.
//!
//! [`unit`] reads and analyses guest code, [`emit`] turns it into host code, [`arena`] holds that and runs
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
mod memory;
mod registers;
mod trampolines;
mod unit;

pub(crate) use memory::Direct;

use crate::cpu::Cpu;
use arena::Arena;
use donjon_memory::Ram;
use donjon_x86::Seg;
use donjon_x86::bits::{cr0, cr4, rflags};
use emit::Exit;
use frame::{Mode, live, no_target, target_slot};
use std::collections::HashMap;
use std::sync::Arc;
use unit::Reader;

/// Room a unit's code may need at most.
const MAX_CODE: usize = 64 << 10;

/// Why [`Translator::run`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// What comes next is not translated.
    Cold,
    /// The next instruction is the interpreter's, whatever is pending.
    One,
    /// Something may want attention.
    Attend,
}

/// A translated unit.
#[derive(Clone, Copy)]
struct Entry {
    generation: u32,
    /// Its ways in.
    host_flags: u32,
    saved_flags: u32,
    indirect: u32,
}

/// A jump target or link that is in use.
#[derive(Clone, Copy)]
struct Used {
    /// Mode and slot of a target; ones and slot of a link.
    mode: u8,
    slot: u32,
    global: bool,
    /// The linear pages it depends on.
    pages: [u64; 2],
}

pub(crate) struct Translator {
    arena: Arena,
    reader: Reader,
    ram: Arc<Ram>,
    index: HashMap<u64, Entry, Hasher>,
    /// RAM offsets and generations of pages with translations.
    pages: HashMap<usize, Vec<u64>, Hasher>,
    exits: Vec<Exit>,
    links: usize,
    used: Vec<Used>,
    /// A bit for each linear page, hashed, that anything in `used` depends on.
    code_pages: Box<[u64; 64]>,
    changes: u64,
    marked: u64,
    /// Times a block is interpreted before it is translated.
    pub threshold: u16,
    stats: Counts,
}

/// What happened so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    pub units: u64,
    pub entries: u64,
    pub exits: [u64; 5],
    pub resets: u64,
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
        if !host_suffices() {
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
            links: 0,
            used: vec![],
            code_pages: Box::new([0; 64]),
            changes: ram.code().changes(),
            marked: ram.code().marked(),
            ram,
            threshold,
            stats: Counts::default(),
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
        let changes = self.ram.code().changes();
        if changes != self.changes {
            self.changes = changes;
            self.drop_changed();
        }
        let marked = self.ram.code().marked();
        if marked != self.marked {
            // A page has become code since it was handed out for stores.
            self.marked = marked;
            cpu.direct.flush_stores(self.arena.frame_mut());
        }
        if cpu.direct.stale.any() {
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
            let now = ram.code().generation(*page);
            let current = |key: &u64| index.get(key).is_some_and(|e| e.generation == now);
            if units.first().is_some_and(current) {
                return true;
            }
            for key in units {
                index.remove(key);
            }
            false
        });
        if self.pages.len() != before {
            self.drop_every_jump();
        }
    }

    /// Drops jump targets and links that depend on stale mappings.
    fn drop_used(&mut self, stale: &memory::Stale) {
        if stale.all {
            return self.drop_every_jump();
        }
        let frame = self.arena.frame_mut();
        let mut drop = |u: &Used| {
            if u.mode == u8::MAX {
                frame.links[u.slot as usize] = u64::MAX;
            } else {
                frame.targets[u.mode as usize][u.slot as usize] = no_target(u.slot as usize);
            }
        };
        if stale.local {
            self.used.retain(|u| {
                if !u.global {
                    drop(u);
                }
                u.global
            });
        }
        for page in &stale.pages {
            let (word, bit) = code_page_bit(*page);
            if self.code_pages[word] & bit == 0 {
                continue;
            }
            self.used.retain(|u| {
                let stale = u.pages.contains(page);
                if stale {
                    drop(u);
                }
                !stale
            });
        }
    }

    fn drop_every_jump(&mut self) {
        let frame = self.arena.frame_mut();
        for u in self.used.drain(..) {
            if u.mode == u8::MAX {
                frame.links[u.slot as usize] = u64::MAX;
            } else {
                frame.targets[u.mode as usize][u.slot as usize] = no_target(u.slot as usize);
            }
        }
        self.code_pages.fill(0);
    }

    fn note_used(&mut self, used: Used) {
        for page in used.pages {
            let (word, bit) = code_page_bit(page);
            self.code_pages[word] |= bit;
        }
        if self.used.len() > 1 << 17 {
            self.drop_every_jump();
        }
        self.used.push(used);
    }

    /// The translation of the code at RAM offset `at`, if there is a current one.
    #[inline]
    fn find(&self, at: usize, mode: Mode) -> Option<Entry> {
        let e = self.index.get(&key(at, mode))?;
        (e.generation == self.ram.code().generation(at)).then_some(*e)
    }

    /// Translates the code at RAM offset `at`. `hot` tells whether code at an offset runs often. `false` if
    /// its first instruction is the interpreter's.
    pub fn translate(&mut self, cpu: &Cpu, at: usize, mode: Mode, hot: impl FnMut(usize) -> bool) -> bool {
        if !self.arena.has_room(MAX_CODE) {
            self.reset();
        }
        if self.find(at, mode).is_some() {
            return true;
        }
        let Some(unit) = self.reader.read(cpu, at, true, hot) else {
            return false;
        };
        let base = self.arena.used();
        let exits = self.exits.len();
        let pools = emit::Pools {
            exits: &mut self.exits,
            links: &mut self.links,
        };
        let Some(code) = emit::emit(&unit, mode, base, self.arena.trampolines, pools) else {
            self.exits.truncate(exits);
            self.reset();
            return true;
        };
        if !self.arena.has_room(code.bytes.len()) {
            self.exits.truncate(exits);
            self.reset();
            return true;
        }
        self.arena.append_emitted(&code.bytes);
        for (at, to) in code.on_fault {
            self.arena.on_fault(at, to);
        }
        let entry = Entry {
            generation: unit.generation,
            host_flags: code.host_flags as u32,
            saved_flags: code.saved_flags as u32,
            indirect: code.indirect as u32,
        };
        self.stats.units += 1;
        self.index.insert(key(at, mode), entry);
        let units = self.pages.entry(unit.page).or_default();
        if units
            .first()
            .and_then(|k| self.index.get(k))
            .is_some_and(|e| e.generation != unit.generation)
        {
            // What is left of older bytes, which nothing finds any more.
            let old = std::mem::take(units);
            for k in old {
                if self
                    .index
                    .get(&k)
                    .is_some_and(|e| e.generation != unit.generation)
                {
                    self.index.remove(&k);
                }
            }
            self.drop_every_jump();
        }
        self.pages.entry(unit.page).or_default().push(key(at, mode));
        true
    }

    /// Starts over with an empty arena.
    #[cold]
    fn reset(&mut self) {
        self.stats.resets += 1;
        self.drop_every_jump();
        self.index.clear();
        self.pages.clear();
        self.exits.clear();
        self.links = 0;
        self.arena.reset();
    }

    /// Runs translated code from the instruction pointer, at RAM offset `at`, on; `None` if there is none.
    /// `interest` are the attention bits that concern the vCPU.
    pub fn run(&mut self, cpu: &mut Cpu, at: usize, mode: Mode, interest: u32) -> Option<After> {
        self.refresh(cpu);
        let mut code = self.find(at, mode)?.saved_flags as usize;
        self.load(cpu, interest);
        self.stats.entries += 1;
        loop {
            self.arena.enter(cpu, code);
            let exit = self.exits[self.arena.frame().exit as usize];
            let next = match exit {
                Exit::Jump {
                    site,
                    to,
                    mode,
                    host_flags,
                    page,
                } => {
                    self.stats.exits[0] += 1;
                    self.jump(site, to, mode, host_flags, page)
                }
                Exit::Cross { site, slot, to, mode } => {
                    self.stats.exits[1] += 1;
                    self.cross(cpu, site, slot, to, mode)
                }
                Exit::Indirect { mode, offset, moved } => {
                    self.stats.exits[2] += 1;
                    if donjon_x86::paging::canonical(self.arena.frame().target) {
                        self.indirect(cpu, mode)
                    } else {
                        let rsp = cpu.reg(4);
                        cpu.set_reg(4, rsp.wrapping_sub(moved as i64 as u64));
                        Err((offset as i64, After::One))
                    }
                }
                Exit::Interpret { offset } => {
                    self.stats.exits[3] += 1;
                    Err((offset as i64, After::One))
                }
                Exit::Poll { offset } => {
                    self.stats.exits[4] += 1;
                    Err((offset as i64, After::Attend))
                }
            };
            let frame = self.arena.frame();
            match next {
                Ok(entry) if cpu.board.attention.bits() & frame.interest == 0 => code = entry,
                Ok(_) => {
                    // The frame's page is that of the target already, and so is the offset.
                    let rip = frame.target;
                    self.store(cpu, rip);
                    return Some(After::Attend);
                }
                Err((offset, after)) => {
                    let rip = frame.page.wrapping_add(offset as u64);
                    self.store(cpu, rip);
                    return Some(after);
                }
            }
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
        self.note_used(Used {
            mode: u8::MAX,
            slot: slot as u32,
            global: global && here,
            pages: [from, page],
        });
        Ok(e.saved_flags as usize)
    }

    fn indirect(&mut self, cpu: &mut Cpu, mode: Mode) -> Result<usize, (i64, After)> {
        let (page, linear) = (self.arena.frame().page, self.arena.frame().target);
        let found = cpu.direct_fetch(linear);
        let found = found.and_then(|(at, global)| Some((self.find(at, mode)?, global)));
        let Some((e, global)) = found else {
            return Err((linear.wrapping_sub(page) as i64, After::Cold));
        };
        let code = self.arena.address(e.indirect as usize);
        let slot = target_slot(linear);
        let frame = self.arena.frame_mut();
        frame.targets[mode as usize][slot] = frame::Target { linear, code };
        frame.page = linear & !0xfff;
        self.note_used(Used {
            mode: mode as u8,
            slot: slot as u32,
            global,
            pages: [linear & !0xfff; 2],
        });
        Ok(e.saved_flags as usize)
    }

    /// Takes the vCPU's state into the frame.
    fn load(&mut self, cpu: &Cpu, interest: u32) {
        let frame = self.arena.frame_mut();
        let bits = cpu.flags.bits();
        // As LAHF and SETO would give it.
        frame.flags = ((bits & 0xff) as u32) << 8 | 0x200 | (bits >> 11 & 1) as u32;
        frame.page = cpu.rip() & !0xfff;
        frame.attention = cpu.board.attention.address() as u64;
        frame.interest = interest;
        frame.rflags = cpu.rflags;
        frame.fs_base = cpu.seg_base[Seg::Fs as usize];
        frame.gs_base = cpu.seg_base[Seg::Gs as usize];
        frame.kernel_gs_base = cpu.msrs.kernel_gs_base;
        let sse =
            cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.cr4 & cr4::OSFXSR != 0 && cpu.mxcsr & 0x1f80 == 0x1f80;
        let avx = sse && cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & 6 == 6;
        frame.allowed = if sse { live::SSE as u32 } else { 0 } | if avx { live::AVX as u32 } else { 0 };
        frame.mxcsr = cpu.mxcsr;
        frame.host_mxcsr = 0x1f80;
    }

    /// Gives the vCPU its state back, about to execute at `rip`.
    fn store(&mut self, cpu: &mut Cpu, rip: u64) {
        let frame = self.arena.frame_mut();
        cpu.set_rip(rip);
        let low = (frame.flags >> 8 & 0xff) as u64;
        cpu.flags = crate::cpu::Flags::from_bits(low & rflags::STATUS | (frame.flags as u64 & 1) << 11);
        if frame.rflags != cpu.rflags {
            cpu.rflags = frame.rflags;
            cpu.access_mode_changed();
        }
        if frame.gs_base != cpu.seg_base[Seg::Gs as usize] {
            cpu.seg_base[Seg::Gs as usize] = frame.gs_base;
            cpu.seg[Seg::Gs as usize].base = frame.gs_base;
        }
        cpu.msrs.kernel_gs_base = frame.kernel_gs_base;
        cpu.mxcsr = frame.mxcsr;
        cpu.instructions += std::mem::take(&mut frame.instructions);
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.stats
    }
}

/// Whether the host's CPU has everything that translated code and the guest's own instructions use.
fn host_suffices() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2")
        && has!("fma")
        && has!("f16c")
        && has!("bmi1")
        && has!("bmi2")
        && has!("lzcnt")
        && has!("movbe")
        && has!("popcnt")
        && has!("aes")
        && has!("pclmulqdq")
        && has!("adx")
        && has!("cmpxchg16b")
        && has!("sse4.2")
}
