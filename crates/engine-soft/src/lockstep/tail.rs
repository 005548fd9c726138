//! What the follower interpreted last.

use super::listing::Code;
use crate::cpu::Cpu;

/// Blocks remembered.
const BLOCKS: usize = 256;

/// The last blocks of a round: where they began, and how many instructions of each ran.
pub(super) struct Tail {
    blocks: Box<[(u64, u64); BLOCKS]>,
    /// Blocks of the round so far.
    count: usize,
}

impl Tail {
    pub fn new() -> Self {
        Self {
            blocks: Box::new([(0, 0); BLOCKS]),
            count: 0,
        }
    }

    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
    }

    #[inline]
    pub fn add(&mut self, rip: u64, instructions: u64) {
        self.blocks[self.count % BLOCKS] = (rip, instructions);
        self.count += 1;
    }

    /// Whether they are the whole round.
    pub fn is_whole(&self) -> bool {
        self.count <= BLOCKS
    }

    /// The instructions of at most the last `most` blocks, in order.
    pub fn code(&self, cpu: &mut Cpu, most: usize) -> Code {
        let mut code = Code::default();
        let blocks = self.count.min(BLOCKS).min(most);
        for n in self.count - blocks..self.count {
            let (rip, count) = self.blocks[n % BLOCKS];
            code.append(Code::read(cpu, rip, count as usize));
        }
        code
    }
}
