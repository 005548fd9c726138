//! The cache of decoded blocks, by RAM offset and code size.

use super::Op;
use super::fetch::Decoded;
use crate::cpu::{CodeSize, Cpu, Place, R};

const ENTRIES: usize = 1 << 15;

/// A straight run of decoded instructions.
pub(crate) struct Block {
    pub ops: Box<[Op]>,
    /// RAM offset it was decoded from.
    pub at: usize,
    /// The page's generation it was decoded from.
    pub generation: u32,
    code: CodeSize,
    second: Option<(usize, u32)>,
}

/// A direct-mapped cache of blocks.
pub(crate) struct Blocks {
    entries: Box<[Option<Box<Block>>]>,
    /// Holds a block that must not be cached.
    uncached: Option<Box<Block>>,
    /// Blocks decoded so far.
    pub decoded: u64,
}

fn slot(at: usize, code: CodeSize) -> usize {
    let key = (at as u64) << 2 | code as u64;
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.trailing_zeros())) as usize
}

impl Blocks {
    pub fn new() -> Self {
        Self { entries: (0..ENTRIES).map(|_| None).collect(), uncached: None, decoded: 0 }
    }

    /// The block at the processor's instruction pointer, decoded if it is not at hand or out of date.
    #[inline]
    pub fn at(&mut self, cpu: &mut Cpu) -> R<&Block> {
        let linear = cpu.fetch_linear(cpu.rip());
        let at = match cpu.place_fetch(linear)? {
            Place::Ram(at) => at,
            Place::Device(p) => {
                let decoded = cpu.decode_device(p);
                return Ok(self.uncached.insert(Block::new(0, cpu.code, decoded)));
            }
        };
        let n = slot(at, cpu.code);
        let valid = match &self.entries[n] {
            Some(b) if b.at == at && b.code == cpu.code && b.generation == cpu.board.ram.code().generation(at) => {
                b.second.is_none() || Self::second_page_holds(cpu, b)?
            }
            _ => false,
        };
        if !valid {
            self.decoded += 1;
            let decoded = cpu.decode_block(at)?;
            self.entries[n] = Some(Block::new(at, cpu.code, decoded));
        }
        Ok(self.entries[n].as_ref().expect("just checked or filled"))
    }

    /// Whether the page behind the block's is still the one its instruction runs into.
    #[cold]
    fn second_page_holds(cpu: &mut Cpu, b: &Block) -> R<bool> {
        let here = 0x1000 - (b.at & 0xfff) as u64;
        let next = cpu.fetch_linear(cpu.rip().wrapping_add(here));
        let place = cpu.place_fetch(next)?;
        let Some((at, generation)) = b.second else { return Ok(true) };
        Ok(place == Place::Ram(at) && cpu.board.ram.code().generation(at) == generation)
    }
}

impl Block {
    fn new(at: usize, code: CodeSize, d: Decoded) -> Box<Self> {
        Box::new(Self { ops: d.ops.into(), at, generation: d.generation, code, second: d.second })
    }

    /// Whether the instructions are still those in memory.
    #[inline(always)]
    pub fn current(&self, cpu: &Cpu) -> bool {
        self.second.is_some() || cpu.board.ram.code().generation(self.at) == self.generation
    }
}
