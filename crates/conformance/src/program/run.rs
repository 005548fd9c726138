//! Runs many programs on both.

use super::block::Blocks;
use super::check::compare;
use super::control::Controls;
use super::listing::report;
use super::reduce::{MOST, reduce};
use super::taint::Taint;
use super::{Item, Layout, Program};
use crate::compare::Difference;
use crate::generate::{Background, EPOCH};
use crate::guest::EngineRunner;
use crate::native::{NativeError, NativeRunner};
use crate::outcome::Outcome;
use donjon_engine::Engine;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

/// Programs handed to the worker at once.
const BATCH: u64 = 64;
/// A program that takes the processor longer leads nowhere; it is not compared.
const NATIVE_PATIENCE: Duration = Duration::from_secs(2);
/// The same for parts of a program.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);

/// Which programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A few instructions.
    Blocks,
    /// With loops, calls and jumps.
    Programs,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which programs.
    pub kind: Kind,
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of the first program.
    pub first: u64,
    /// How many.
    pub cases: u64,
    /// Threads, each with a worker process and a vCPU.
    pub jobs: usize,
    /// Go on after a mismatch.
    pub keep_going: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// Programs compared.
    pub cases: u64,
    /// Those that ended in an exception.
    pub faults: u64,
    /// Those that never ended.
    pub endless: u64,
    /// Instructions the engine ran.
    pub instructions: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// Those that differ, by number, with the report of each.
    pub mismatches: Vec<(u64, String)>,
}

impl Summary {
    /// Whether something ran and everything agreed.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty() && self.cases > 0 && self.endless * 50 <= self.cases
    }
}

/// Makes the programs of a kind.
pub enum Source {
    /// Blocks.
    Blocks(Blocks),
    /// With control flow.
    Programs(Controls),
}

impl Source {
    /// Those of a kind and a seed.
    pub fn new(kind: Kind, seed: u64) -> Self {
        match kind {
            Kind::Blocks => Self::Blocks(Blocks::new(seed)),
            Kind::Programs => Self::Programs(Controls::new(seed)),
        }
    }

    /// Program `index`.
    pub fn program(&self, index: u64) -> Program {
        match self {
            Self::Blocks(b) => b.program(index),
            Self::Programs(c) => c.program(index),
        }
    }
}

/// One worker process and one vCPU.
pub struct Pair<'a> {
    engine: &'a dyn Engine,
    model: &'a str,
    native: NativeRunner,
    guest: EngineRunner,
    background: Vec<u64>,
    epoch: Option<u64>,
    seed: u64,
}

/// What one program did.
pub struct Verdict {
    /// What the processor did.
    pub expected: Outcome,
    /// What the engine did otherwise.
    pub differences: Vec<Difference>,
}

impl<'a> Pair<'a> {
    /// Of an engine.
    pub fn new(engine: &'a dyn Engine, model: &'a str, seed: u64) -> Result<Self, String> {
        Ok(Self {
            engine,
            model,
            native: NativeRunner::new().map_err(|e| e.to_string())?,
            guest: EngineRunner::new(engine, model).map_err(|e| e.to_string())?,
            background: Vec::new(),
            epoch: None,
            seed,
        })
    }

    fn prepare(&mut self, index: u64) {
        let epoch = index / EPOCH;
        if self.epoch != Some(epoch) {
            let b = Background::new(self.seed, epoch);
            self.native.set_background(&b.scratch, &b.read_only);
            self.guest.set_background(&b);
            self.background = b.scratch;
            self.epoch = Some(epoch);
        }
    }

    /// Runs programs of one background; `None` for one that never ended.
    pub fn run(&mut self, programs: &[Program], patience: Duration) -> Result<Vec<Option<Verdict>>, String> {
        self.prepare(programs[0].index);
        self.native.set_timeout(patience);
        let layouts: Vec<Layout> = programs.iter().map(Layout::of).collect();
        let cases: Vec<_> = programs.iter().zip(&layouts).map(|(p, l)| p.case(l)).collect();
        let expected = self.native.run(&cases).map_err(|e| e.to_string())?;
        let mut verdicts = Vec::new();
        for (((program, layout), case), expected) in programs.iter().zip(&layouts).zip(&cases).zip(expected) {
            let expected = match expected {
                Ok(e) => e,
                Err(NativeError::Hung { .. }) => {
                    verdicts.push(None);
                    continue;
                }
                Err(e) => return Err(format!("program {}: {e:?}", program.index)),
            };
            crate::native::crash::at(self.seed, program.index);
            let differences = match self.guest.run(case) {
                Ok(got) => compare(program, layout, &self.background, &expected, &got),
                Err(e) => vec![Difference {
                    what: "engine".into(),
                    expected: "a run".into(),
                    got: e.to_string(),
                }],
            };
            verdicts.push(Some(Verdict {
                expected,
                differences,
            }));
        }
        Ok(verdicts)
    }

    /// The verdict of an engine that has run nothing else.
    fn afresh(&mut self, program: &Program, patience: Duration) -> Option<Verdict> {
        self.guest = EngineRunner::new(self.engine, self.model).ok()?;
        self.epoch = None;
        let verdict = self.run(std::slice::from_ref(program), patience);
        verdict.ok()?.pop()?.filter(|v| !v.differences.is_empty())
    }

    /// The program with as few instructions as still fail on an engine that has run nothing else, and its
    /// verdict; none if it takes what it ran before.
    pub fn reduced(&mut self, program: &Program) -> (Program, Option<Verdict>) {
        if self.afresh(program, NATIVE_PATIENCE).is_none() {
            return (program.clone(), None);
        }
        let with = |items: &[Item]| Program {
            items: items.to_vec(),
            ..program.clone()
        };
        let items = reduce(program.items.clone(), |items| {
            let p = with(items);
            let readers = Taint::of(&p, &Layout::of(&p)).readers;
            readers.is_empty() && self.afresh(&p, SHORT_PATIENCE).is_some()
        });
        let p = with(&items);
        let verdict = self.afresh(&p, NATIVE_PATIENCE);
        (p, verdict)
    }

    /// Instructions the engine ran.
    pub fn instructions(&self) -> u64 {
        self.guest.instructions()
    }
}

/// A failure that a replay does not show.
const HISTORY: &str = "  only after the programs before it: run --first and --cases with --jobs 1\n";

/// Runs programs on both.
pub fn run(engine: &dyn Engine, model: &str, options: &Options) -> Result<Summary, String> {
    let start = Instant::now();
    let source = Source::new(options.kind, options.seed);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let reported = AtomicUsize::new(0);
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<(), String> {
        let mut pair = Pair::new(engine, model, options.seed)?;
        while !stop.load(Relaxed) {
            let first = next.fetch_add(BATCH, Relaxed);
            if first >= options.cases {
                break;
            }
            let numbers = first..(first + BATCH).min(options.cases);
            let programs: Vec<Program> = numbers.map(|n| source.program(options.first + n)).collect();
            for programs in programs.chunk_by(|a, b| a.index / EPOCH == b.index / EPOCH) {
                for (p, v) in programs.iter().zip(pair.run(programs, NATIVE_PATIENCE)?) {
                    let report = v.as_ref().filter(|v| !v.differences.is_empty()).map(|v| {
                        if !options.keep_going {
                            stop.store(true, Relaxed);
                        }
                        let many = reported.fetch_add(1, Relaxed) >= MOST;
                        match (!many).then(|| pair.reduced(p)) {
                            Some((small, Some(l))) => {
                                report(options.seed, &small, p.len(), &l.expected, &l.differences)
                            }
                            Some(_) => {
                                HISTORY.to_string()
                                    + &report(options.seed, p, p.len(), &v.expected, &v.differences)
                            }
                            None => report(options.seed, p, p.len(), &v.expected, &v.differences),
                        }
                    });
                    let mut s = summary.lock().unwrap_or_else(|e| e.into_inner());
                    s.mismatches.extend(report.map(|r| (p.index, r)));
                    match v {
                        None => s.endless += 1,
                        Some(v) => {
                            s.cases += 1;
                            let completed = v.expected.end == crate::outcome::End::Completed;
                            s.faults += !completed as u64;
                        }
                    }
                }
            }
        }
        let mut s = summary.lock().unwrap_or_else(|e| e.into_inner());
        s.instructions += pair.instructions();
        Ok(())
    };
    let results: Vec<Result<(), String>> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| s.spawn(work)).collect();
        let panicked = |_| Err("a thread panicked".into());
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(panicked))
            .collect()
    });
    results.into_iter().collect::<Result<Vec<()>, String>>()?;
    let mut summary = summary.into_inner().unwrap_or_else(|e| e.into_inner());
    summary.mismatches.sort();
    summary.elapsed = start.elapsed();
    Ok(summary)
}
