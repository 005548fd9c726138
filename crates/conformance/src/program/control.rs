//! Programs with loops, calls, indirect jumps and code that changes.
//!
//! Branches lead forward, apart from those of counted loops, and functions only call later ones, so that
//! every program ends.

mod jumps;
mod kernel;
mod loops;

use super::emit::*;
use super::pool::{Class, Pool};
use super::{Branch, FIRST_STACK, Item, Label, Program};
use crate::case::Mode;
use crate::rng::Rng;

/// Makes programs.
pub struct Controls {
    seed: u64,
    long: Pool,
    compatibility: Pool,
}

impl Controls {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            long: Pool::new(Mode::Long),
            compatibility: Pool::new(Mode::Compat32),
        }
    }

    /// Program `index`.
    pub fn program(&self, index: u64) -> Program {
        let mut rng = Rng::new(self.seed ^ 0xc0de, index);
        let (mode, pool) = match rng.below(10) {
            0 => (Mode::Compat32, &self.compatibility),
            _ => (Mode::Long, &self.long),
        };
        let budget = rng.pick(&[3_000, 20_000, 20_000, 60_000, 200_000]);
        let edge = rng.pick(&[0, 0, 0, 2, 10]);
        let mut e = Emitter::new(rng, mode, pool);
        e.edge = edge;
        Writer::new(e, budget).program(index)
    }

    /// Program `index` of those that a kernel surrounds.
    pub fn kernel_program(&self, index: u64) -> Program {
        let mut rng = Rng::new(self.seed ^ 0x5e_c0de, index);
        let budget = rng.pick(&[2_000, 10_000, 30_000]);
        let edge = rng.pick(&[0, 10, 40]);
        let mut e = Emitter::new(rng, Mode::Long, &self.long);
        e.edge = edge;
        e.kernel = true;
        e.before.gpr[RSP as usize] = crate::layout::SCRATCH + FIRST_STACK;
        Writer::new(e, budget).program(index)
    }
}

/// One program in the making.
struct Writer<'a> {
    e: Emitter<'a>,
    /// Counters that no loop around uses.
    counters: Vec<u8>,
    /// The counter of the innermost loop.
    counter: Option<u8>,
    /// How often what is written now will run, as far as loops go.
    times: u64,
    /// Instructions the program may run, roughly.
    budget: u64,
    /// Functions not written yet that may be called.
    functions: Vec<Label>,
    /// Stores that fill the tables of indirect jumps before anything else runs.
    prologue: Vec<Item>,
    tables: u64,
    /// Constants in the code that may be changed.
    constants: Vec<(Label, u32)>,
    /// A fault here goes on behind the statement.
    resumes: bool,
}

impl<'a> Writer<'a> {
    fn new(mut e: Emitter<'a>, budget: u64) -> Self {
        // Registers that instructions do not name implicitly.
        let mut free: Vec<u8> = match e.mode {
            Mode::Long => vec![3, 5, 8, 9, 10, 12, 13, 14, 15],
            _ => vec![3, 5],
        };
        for i in (1..free.len()).rev() {
            let j = e.rng.below(i as u64 + 1) as usize;
            free.swap(i, j);
        }
        let counters = free.split_off(free.len() - if e.mode == Mode::Long { 3 } else { 1 });
        let pointers = if e.mode == Mode::Long { &free[..3] } else { &free };
        e.fixed = 1 << RSP;
        for (n, &r) in pointers.iter().enumerate() {
            e.fixed |= 1 << r;
            e.before.gpr[r as usize] = e.focus[n];
            e.known.set(r, Some(e.focus[n]));
        }
        for &r in &counters {
            e.fixed |= 1 << r;
        }
        e.frame = Some(0);
        let functions = (0..e.rng.below(4)).map(|_| e.label()).collect();
        Self {
            resumes: e.kernel,
            e,
            counters,
            counter: None,
            times: 1,
            budget,
            functions,
            prologue: Vec::new(),
            tables: 0,
            constants: Vec::new(),
        }
    }

    fn program(mut self, index: u64) -> Program {
        let end = self.e.label();
        let length = 3 + self.e.rng.below(6);
        self.sequence(length);
        if !self.functions.is_empty() {
            self.e.branch(Branch::Always, end);
            // A call inside a loop runs as often as the loop.
            self.times = 200;
            self.counters.clear();
            // A fault would have to leave the function.
            self.resumes = false;
            while !self.functions.is_empty() {
                let function = self.functions.remove(0);
                self.e.here(function);
                let length = 1 + self.e.rng.below(3);
                self.sequence(length);
                self.e.bytes(&[0xc3]);
            }
        }
        self.e.here(end);
        self.e.items.splice(0..0, self.prologue);
        self.e.finish(index, Vec::new())
    }

    /// So many statements, one after the other.
    fn sequence(&mut self, length: u64) {
        for _ in 0..length {
            // No program may outgrow the code memory.
            if self.e.items.len() > if self.e.kernel { 220 } else { 260 } {
                return;
            }
            self.statement(Self::any);
        }
    }

    fn any(&mut self) {
        match self.e.rng.below(20) {
            _ if self.e.kernel && self.e.rng.chance(2, 5) => self.kernel(),
            0..=2 => self.choice(),
            3..=6 => self.counted(),
            7 => self.switch(),
            8..=9 => self.call(),
            10 => self.constant(),
            11 => self.rare_fault(),
            _ => {
                for _ in 0..=self.e.rng.below(5) {
                    self.e.something();
                }
            }
        }
    }

    /// If, then, and perhaps else.
    fn choice(&mut self) {
        let (other, end) = (self.e.label(), self.e.label());
        self.e.of(Class::Alu);
        let cc = self.e.rng.below(16) as u8;
        self.e.branch(Branch::If(cc), other);
        self.sequence(1);
        if self.e.rng.chance(1, 2) {
            self.e.branch(Branch::Always, end);
            self.e.here(other);
            self.sequence(1);
            self.e.here(end);
        } else {
            self.e.here(other);
        }
    }

    /// A fault that only happens in one iteration of the loop around.
    fn rare_fault(&mut self) {
        let Some(counter) = self.counter else { return };
        if self.e.edge == 0 || self.e.rng.chance(1, 2) {
            return;
        }
        let over = self.e.label();
        let n = self.e.rng.below(200) as u32;
        self.compare(counter, n);
        self.e.branch(Branch::If(5), over);
        self.e.fault();
        self.e.here(over);
    }
}
