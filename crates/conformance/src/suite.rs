//! Runs many cases on both and collects what differs.

use crate::case::Case;
use crate::compare::{Difference, compare};
use crate::forms::{self, Coverage, Form};
use crate::generate::{EPOCH, Generator};
use crate::guest::EngineRunner;
use crate::native::{BATCH, NativeError, NativeRunner};
use crate::report::{Report, report};
use donjon_engine::Engine;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of all random choices.
    pub seed: u64,
    /// How many cases.
    pub cases: u64,
    /// Threads, each with a worker process and a vCPU.
    pub jobs: usize,
    /// Only forms whose label contains this.
    pub pattern: Option<String>,
    /// Leave out forms whose label contains one of these; they are gaps then.
    pub skip: Vec<String>,
    /// Go on after a mismatch.
    pub keep_going: bool,
    /// Reports kept for each form.
    pub reports: usize,
}

/// The mismatches of one form.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// The first few, by case number.
    pub reports: Vec<Report>,
}

/// What a run found.
#[derive(Debug)]
pub struct Summary {
    /// Cases compared.
    pub cases: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// Mismatches by form label.
    pub groups: BTreeMap<String, Group>,
    /// Forms compared in full, over those there are.
    pub coverage: Coverage,
    /// Forms that should have run and did not.
    pub gaps: Vec<Form>,
}

impl Summary {
    /// Whether everything agreed and nothing was left out.
    pub fn passed(&self) -> bool {
        self.groups.is_empty() && self.gaps.is_empty()
    }
}

/// The case numbers of a run: those of the chosen forms, in order.
struct Numbers {
    positions: Vec<u64>,
    round: u64,
}

impl Numbers {
    fn nth(&self, k: u64) -> u64 {
        let m = self.positions.len() as u64;
        k / m * self.round + self.positions[(k % m) as usize]
    }
}

/// Runs the suite.
pub fn run(engine: &dyn Engine, model: &str, forms: &[Form], options: &Options) -> Result<Summary, String> {
    let generator = Generator::new(options.seed, forms);
    let chosen = |f: &Form| {
        options
            .pattern
            .as_ref()
            .is_none_or(|p| f.label().contains(&p.to_lowercase()))
    };
    let positions: Vec<u64> = (0..)
        .zip(generator.forms())
        .filter(|(_, f)| chosen(f))
        .map(|(i, _)| i)
        .collect();
    if positions.is_empty() {
        return Err("no form matches the pattern".into());
    }
    let numbers = Numbers {
        positions,
        round: generator.forms().len() as u64,
    };
    let shared = Shared {
        generator: &generator,
        numbers: &numbers,
        options,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        groups: Mutex::new(BTreeMap::new()),
    };
    let start = Instant::now();
    let errors: Vec<String> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..options.jobs.max(1))
            .map(|_| s.spawn(|| shared.work(engine, model)))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, Result<(), String>>| match t.join() {
            Ok(r) => r.err(),
            Err(_) => Some("a thread of the suite panicked".into()),
        };
        threads.into_iter().filter_map(join).collect()
    });
    if let Some(e) = errors.into_iter().next() {
        return Err(e);
    }
    let stopped = shared.stop.load(Relaxed);
    let cases = shared.done.load(Relaxed);
    let elapsed = start.elapsed();
    let groups = shared.groups.into_inner().unwrap_or_else(|e| e.into_inner());
    let ran: Vec<Form> = (0..cases.min(numbers.positions.len() as u64))
        .map(|k| generator.forms()[numbers.positions[k as usize] as usize])
        .collect();
    let all: Vec<Form> = forms.iter().filter(|f| chosen(f)).copied().collect();
    let ran: std::collections::HashSet<String> = ran.iter().map(Form::label).collect();
    let (coverage, mut gaps) = forms::coverage(&all, |f| ran.contains(&f.label()));
    if stopped {
        // The mismatch says enough; forms not yet reached are no gap in the suite.
        gaps.clear();
    }
    Ok(Summary {
        cases,
        elapsed,
        groups,
        coverage,
        gaps,
    })
}

struct Shared<'a> {
    generator: &'a Generator,
    numbers: &'a Numbers,
    options: &'a Options,
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    groups: Mutex<BTreeMap<String, Group>>,
}

impl Shared<'_> {
    /// One thread: batches until there are none left.
    fn work(&self, engine: &dyn Engine, model: &str) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let mut native = NativeRunner::new().map_err(|e| text(&e))?;
        let mut guest = EngineRunner::new(engine, model).map_err(|e| text(&e))?;
        let mut epoch = None;
        let mut background = Vec::new();
        while !self.stop.load(Relaxed) {
            let first = self.next.fetch_add(BATCH as u64, Relaxed);
            let last = (first + BATCH as u64).min(self.options.cases);
            let mut k = first;
            while k < last {
                // A batch has one background.
                let of = self.numbers.nth(k) / EPOCH;
                let mut cases = Vec::with_capacity(BATCH);
                while k < last && self.numbers.nth(k) / EPOCH == of {
                    cases.push(self.generator.case(self.numbers.nth(k)));
                    k += 1;
                }
                if epoch != Some(of) {
                    epoch = Some(of);
                    let b = self.generator.background(of);
                    native.set_background(&b.scratch, &b.read_only);
                    guest.set_background(&b);
                    background = b.scratch;
                }
                self.batch(&cases, &background, &mut native, &mut guest)
                    .map_err(|e| text(&e))?;
            }
            if first >= self.options.cases {
                break;
            }
        }
        Ok(())
    }

    fn batch(
        &self,
        cases: &[Case],
        background: &[u64],
        native: &mut NativeRunner,
        guest: &mut EngineRunner,
    ) -> std::io::Result<()> {
        native.start(cases)?;
        let got: Vec<_> = cases
            .iter()
            .map(|c| {
                crate::native::crash::at(self.options.seed, c.index);
                guest.run(c)
            })
            .collect();
        let expected = native.finish(cases)?;
        for ((case, expected), got) in cases.iter().zip(expected).zip(got) {
            let (expected, differences) = match (expected, got) {
                (Ok(e), Ok(g)) => {
                    let d = compare(case, background, &e, &g);
                    (Some(e), d)
                }
                (Err(e), _) => (None, vec![native_failure(&e)]),
                (Ok(e), Err(g)) => {
                    let d = Difference {
                        what: "engine".into(),
                        expected: "a run".into(),
                        got: g.to_string(),
                    };
                    (Some(e), vec![d])
                }
            };
            self.done.fetch_add(1, Relaxed);
            if !differences.is_empty() {
                let label = self.generator.form(case.index).label();
                let r = report(
                    self.options.seed,
                    &label,
                    case,
                    background,
                    expected.as_ref(),
                    &differences,
                );
                self.mismatch(r);
            }
        }
        Ok(())
    }

    fn mismatch(&self, report: Report) {
        let mut groups = self.groups.lock().unwrap_or_else(|e| e.into_inner());
        let group = groups.entry(report.label.clone()).or_default();
        group.count += 1;
        // Which thread gets there first must not matter.
        let at = group.reports.partition_point(|r| r.index < report.index);
        group.reports.insert(at, report);
        group.reports.truncate(self.options.reports);
        if !self.options.keep_going {
            self.stop.store(true, Relaxed);
        }
    }
}

fn native_failure(e: &NativeError) -> Difference {
    let got = match e {
        NativeError::Died { status, .. } => format!("the worker died, wait status {status:#x}"),
        NativeError::Hung { .. } => "the worker hung".into(),
    };
    Difference {
        what: "native run".into(),
        expected: "an outcome".into(),
        got,
    }
}
