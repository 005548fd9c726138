//! The cache of decoded blocks, by RAM offset and code size.

use super::Op;
use super::fetch::Decoded;
use crate::cpu::{CodeSize, Cpu, Place, R};
use donjon_memory::Ram;

const ENTRIES: usize = 1 << 15;
/// Decoded instructions kept at most; when they are full everything is dropped and decoded anew.
const MAX_OPS: usize = 1 << 19;

/// A straight run of decoded instructions, small because every block that runs touches one.
#[derive(Clone, Copy)]
struct Entry {
    /// RAM offset it was decoded from and code size: see [`key`].
    key: u64,
    /// The page's generation it was decoded from.
    generation: u32,
    /// Where its instructions are in the arena.
    first: u32,
    /// Bytes it covers.
    len: u16,
    count: u8,
    /// Whether its only instruction runs into a second page (then [`Blocks::seconds`] knows more).
    crosses: bool,
}

const EMPTY: Entry = Entry {
    key: u64::MAX,
    generation: 0,
    first: 0,
    len: 0,
    count: 0,
    crosses: false,
};

/// What the execution loop needs of a block.
pub(crate) struct Run<'a> {
    pub ops: &'a [Op],
    /// RAM offset of the page whose generation tells whether they are current; `None` for a block that is
    /// looked up again before each use.
    pub at: Option<usize>,
    pub generation: u32,
    /// Bytes they cover.
    pub len: u16,
    /// RAM offset they begin at, if it is RAM.
    pub start: Option<usize>,
    /// Times they were interpreted: the caller counts.
    pub heat: Option<&'a mut u16>,
}

/// Counters of [`Blocks::heat`].
const HEATS: usize = 1 << 18;

/// A direct-mapped cache of blocks.
pub(crate) struct Blocks {
    entries: Box<[Entry]>,
    /// How often blocks were interpreted. Blocks that share a counter, and those that push each other out
    /// of their entry, only seem to run more often than they do.
    heat: Box<[u16]>,
    /// The second page of entries that cross into one, by slot.
    seconds: std::collections::HashMap<usize, (usize, u32)>,
    ops: Vec<Op>,
    /// Holds a block that must not be cached.
    uncached: Vec<Op>,
}

/// What a block is found by.
#[inline(always)]
fn key(at: usize, code: CodeSize) -> u64 {
    (at as u64) << 2 | code as u64
}

#[inline(always)]
fn slot(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.trailing_zeros())) as usize
}

fn heat_slot(at: usize) -> usize {
    (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> (64 - HEATS.trailing_zeros())
}

impl Blocks {
    pub fn new() -> Self {
        Self {
            entries: vec![EMPTY; ENTRIES].into(),
            heat: vec![0; HEATS].into(),
            seconds: std::collections::HashMap::new(),
            ops: Vec::new(),
            uncached: vec![],
        }
    }

    /// The block at the processor's instruction pointer, decoded if it is not at hand or out of date.
    #[inline(always)]
    pub fn at(&mut self, cpu: &mut Cpu, ram: &Ram) -> R<Run<'_>> {
        let linear = cpu.fetch_linear(cpu.rip());
        let at = match cpu.place_fetch(linear)? {
            Place::Ram(at) => at,
            Place::Device(p) => {
                let decoded = cpu.decode_device(p);
                self.uncached = decoded.ops;
                return Ok(Run {
                    ops: &self.uncached,
                    at: None,
                    generation: 0,
                    len: decoded.len,
                    start: None,
                    heat: None,
                });
            }
        };
        let key = key(at, cpu.code);
        let n = slot(key);
        let e = &self.entries[n];
        let hit = e.key == key && e.generation == ram.code().generation(at);
        if !hit || e.crosses && !self.second_page_holds(cpu, at, n)? {
            self.decode(cpu, at, n)?;
        }
        let e = &self.entries[n];
        let ops = &self.ops[e.first as usize..e.first as usize + e.count as usize];
        Ok(Run {
            ops,
            at: (!e.crosses).then_some(at),
            generation: e.generation,
            len: e.len,
            start: Some(at),
            heat: Some(&mut self.heat[heat_slot(at)]),
        })
    }

    /// How often 64-bit code at RAM offset `at` was interpreted, as far as is known.
    pub fn heat(&self, at: usize) -> u16 {
        self.heat[heat_slot(at)]
    }

    /// Counts anew.
    pub fn cool(&mut self) {
        self.heat.fill(0);
    }

    #[cold]
    fn decode(&mut self, cpu: &mut Cpu, at: usize, n: usize) -> R {
        let Decoded {
            ops,
            generation,
            second,
            len,
        } = cpu.decode_block(at)?;
        if self.ops.len() + ops.len() > MAX_OPS {
            self.entries.fill(EMPTY);
            self.seconds.clear();
            self.ops.clear();
        }
        let (first, count) = (self.ops.len() as u32, ops.len() as u8);
        self.ops.extend(ops);
        if let Some(second) = second {
            self.seconds.insert(n, second);
        }
        let key = key(at, cpu.code);
        self.entries[n] = Entry {
            key,
            generation,
            first,
            len,
            count,
            crosses: second.is_some(),
        };
        Ok(())
    }

    /// Whether the page behind the block's is still the one its instruction runs into.
    #[cold]
    fn second_page_holds(&self, cpu: &mut Cpu, at: usize, n: usize) -> R<bool> {
        let here = 0x1000 - (at & 0xfff) as u64;
        let next = cpu.fetch_linear(cpu.rip().wrapping_add(here));
        let place = cpu.place_fetch(next)?;
        let Some(&(at, generation)) = self.seconds.get(&n) else {
            return Ok(false);
        };
        Ok(place == Place::Ram(at) && cpu.board.ram.code().generation(at) == generation)
    }
}
