//! Straight-line programs: a few instructions with at most a short branch over some of them.

use super::Program;
use super::emit::Emitter;
use super::pool::Pool;
use crate::case::Mode;
use crate::rng::Rng;

/// Makes blocks.
pub struct Blocks {
    seed: u64,
    long: Pool,
    compatibility: Pool,
}

impl Blocks {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            long: Pool::new(Mode::Long),
            compatibility: Pool::new(Mode::Compat32),
        }
    }

    /// Block `index`.
    pub fn program(&self, index: u64) -> Program {
        let mut rng = Rng::new(self.seed ^ 0xb10c, index);
        let (mode, pool) = match rng.below(8) {
            0 => (Mode::Compat32, &self.compatibility),
            _ => (Mode::Long, &self.long),
        };
        let most = rng.pick(&[6, 23, 23]);
        let length = 2 + rng.below(most) as usize;
        let edge = rng.pick(&[0, 0, 10, 40, 150]);
        let mut e = Emitter::new(rng, mode, pool);
        e.edge = edge;
        while e.items.len() < length {
            e.something();
        }
        e.finish(index, Vec::new())
    }
}
