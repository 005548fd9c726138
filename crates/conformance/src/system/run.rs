//! Runs kernel programs on several engines and compares what is left.

use super::machine::{Final, Job, Machine};
use super::map::*;
use crate::compare::{GPR, flag_names};
use crate::generate::{Background, EPOCH};
use crate::layout::PAGE;
use crate::program::control::Controls;
use crate::program::listing::listing;
use crate::program::reduce::{MOST, reduce};
use crate::program::{Item, Layout, Program, taint};
use crate::rng::Rng;
use donjon_engine::Engine;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of the first program.
    pub first: u64,
    /// How many.
    pub cases: u64,
    /// Threads, each with a machine of every engine.
    pub jobs: usize,
    /// Go on after a mismatch.
    pub keep_going: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// Programs compared.
    pub cases: u64,
    /// Exceptions and calls that they logged.
    pub events: u64,
    /// Interrupts from outside.
    pub interrupts: u64,
    /// Programs that never end, and are not compared.
    pub endless: u64,
    /// Programs that were stopped for raising too many exceptions.
    pub stopped: u64,
    /// Instructions the first engine ran.
    pub instructions: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// Those that differ, by number, with the report of each.
    pub mismatches: Vec<(u64, String)>,
}

impl Summary {
    /// Whether something ran and everything agreed.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty() && self.cases > 0 && self.events > 0 && self.endless * 50 <= self.cases
    }
}

/// Makes the programs of a seed.
pub struct Source {
    controls: Controls,
    seed: u64,
}

impl Source {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            controls: Controls::new(seed),
            seed,
        }
    }

    /// Program `index`, and its machine.
    pub fn job(&self, index: u64) -> Job {
        let mut rng = Rng::new(self.seed, !index);
        Job {
            program: self.controls.kernel_program(index),
            smap: rng.chance(1, 3),
            noise: rng.chance(1, 4),
        }
    }
}

/// The machines of one thread: what the first does is expected of the others.
pub struct Machines<'a> {
    engines: &'a [(String, &'a dyn Engine)],
    model: &'a str,
    machines: Vec<(String, Machine)>,
    seed: u64,
}

/// How one engine's run differs from the first one's.
pub struct Verdict {
    /// The engine.
    pub engine: String,
    /// What differs, one per line.
    pub text: String,
}

impl<'a> Machines<'a> {
    /// One machine of each engine.
    pub fn new(engines: &'a [(String, &'a dyn Engine)], model: &'a str, seed: u64) -> Result<Self, String> {
        let machine = |(name, e): &(String, &dyn Engine)| {
            let m = Machine::new(*e, model).map_err(|e| e.to_string())?;
            Ok((name.clone(), m))
        };
        let machines = engines.iter().map(machine).collect::<Result<_, String>>()?;
        Ok(Self {
            engines,
            model,
            machines,
            seed,
        })
    }

    /// Runs a program on all of them: what the first left, and whoever left something else.
    pub fn run(&mut self, job: &Job) -> Result<(Final, Option<Verdict>), String> {
        crate::native::crash::at(self.seed, job.program.index);
        let background = Background::new(self.seed, job.program.index / EPOCH);
        let mut first = None;
        for (name, m) in &mut self.machines {
            let got = m.run(job, &background).map_err(|e| e.to_string())?;
            let Some(expected) = &first else {
                // Where it was stopped says nothing.
                if got.endless() {
                    return Ok((got, None));
                }
                first = Some(got);
                continue;
            };
            if let Some(text) = difference(expected, &got) {
                let engine = name.clone();
                return Ok((expected.clone(), Some(Verdict { engine, text })));
            }
        }
        first.map(|f| (f, None)).ok_or("no engine".into())
    }

    /// The verdict of machines that have run nothing else.
    fn afresh(&self, job: &Job) -> Option<Verdict> {
        let mut m = Machines::new(self.engines, self.model, self.seed).ok()?;
        m.run(job).ok()?.1
    }

    /// The job with as few instructions as still fail on machines that have run nothing else, and its
    /// verdict; none if it takes what they ran before.
    pub fn reduced(&self, job: &Job) -> (Job, Option<Verdict>) {
        if self.afresh(job).is_none() {
            return (job.clone(), None);
        }
        let fails = |j: &Job| self.afresh(j).is_some();
        let mut job = job.clone();
        for (noise, smap) in [(false, false), (false, job.smap), (job.noise, false)] {
            let program = job.program.clone();
            let simpler = Job { program, noise, smap };
            if fails(&simpler) {
                job = simpler;
                break;
            }
        }
        let with = |items: &[Item]| Job {
            program: Program {
                items: items.to_vec(),
                ..job.program.clone()
            },
            ..job
        };
        let items = reduce(job.program.items.clone(), |items| {
            let j = with(items);
            let readers = taint::Taint::of(&j.program, &Layout::of(&j.program)).readers;
            readers.is_empty() && fails(&j)
        });
        let j = with(&items);
        let verdict = self.afresh(&j);
        (j, verdict)
    }
}

/// What differs, in words; `None` if nothing does.
fn difference(expected: &Final, got: &Final) -> Option<String> {
    // Only there interrupts from outside leave traces.
    let outside = physical(OUTSIDE) as usize;
    let same = |e: &[u8], g: &[u8]| {
        let end = outside + PAGE as usize;
        e[..outside] == g[..outside] && e[end..] == g[end..]
    };
    if expected.end == got.end && expected.state == got.state && same(&expected.ram, &got.ram) {
        return None;
    }
    let mut out = String::new();
    let mut line = |what: &str, e: String, g: String| {
        if e != g {
            let _ = writeln!(out, "    {what}: expected {e}, got {g}");
        }
    };
    let (e, g) = (&expected.state, &got.state);
    line("end", expected.end.clone(), got.end.clone());
    let hex = |v: u64| format!("{v:#x}");
    for (n, name) in GPR.iter().enumerate() {
        line(name, hex(e.gpr[n]), hex(g.gpr[n]));
    }
    line("rip", hex(e.rip), hex(g.rip));
    let flags = |v: u64| format!("{v:#x} {}", flag_names(v));
    line("rflags", flags(e.rflags), flags(g.rflags));
    for (n, (a, b)) in e.ymm.iter().zip(&g.ymm).enumerate() {
        line(&format!("ymm{n}"), format!("{a:x?}"), format!("{b:x?}"));
    }
    line("mxcsr", hex(e.mxcsr as u64), hex(g.mxcsr as u64));
    line("x87", format!("{:x?}", e.fpu), format!("{:x?}", g.fpu));
    line(
        "segments",
        format!("{:x?}", e.segments),
        format!("{:x?}", g.segments),
    );
    line("msrs", format!("{:x?}", e.msrs), format!("{:x?}", g.msrs));
    let control = |s: &donjon_x86::CpuState| {
        format!(
            "cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} dr {:x?} dr6 {:x} dr7 {:x} shadow {} {:?}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.dr, s.dr6, s.dr7, s.interrupt_shadow, s.activity
        )
    };
    line("control", control(e), control(g));
    let records = expected.events().max(got.events()).min(RECORDS);
    line("events", expected.events().to_string(), got.events().to_string());
    let first = (0..records).find(|n| record(expected, *n) != record(got, *n));
    if let Some(n) = first {
        line(&format!("event {n}"), record(expected, n), record(got, n));
    }
    let mut listed = 0;
    for at in (0..RAM_SIZE as usize).step_by(8) {
        let (a, b) = (&expected.ram[at..at + 8], &got.ram[at..at + 8]);
        let log = physical(LOG) as usize;
        let skipped = (outside..outside + PAGE as usize).contains(&at) || (log..log + 0x1_0000).contains(&at);
        if a != b && !skipped && listed < 8 {
            listed += 1;
            line(
                &format!("physical [{at:#x}]"),
                format!("{a:02x?}"),
                format!("{b:02x?}"),
            );
        }
    }
    Some(out)
}

/// A record of the log.
fn record(f: &Final, n: u64) -> String {
    const NAMES: [&str; 23] = [
        "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
        "r15", "vector", "code", "rip", "cs", "rflags", "rsp", "ss", "cr2",
    ];
    let words = NAMES.iter().enumerate().rev();
    words
        .map(|(i, name)| format!("{name} {:x}", f.word(LOG + n * RECORD + i as u64 * 8)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A failure that a replay does not show.
const HISTORY: &str = "  only after the programs before it: run --first and --cases with --jobs 1\n";

fn report(seed: u64, job: &Job, from: usize, v: &Verdict) -> String {
    let p = &job.program;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "  {}: --replay {seed}:{}  smap {}, noise {}, {} of {from} instructions",
        v.engine,
        p.index,
        job.smap,
        job.noise,
        p.len()
    );
    out + &listing(p) + &v.text
}

/// Runs programs on all engines; the first is right.
pub fn run(engines: &[(String, &dyn Engine)], model: &str, options: &Options) -> Result<Summary, String> {
    let start = Instant::now();
    let source = Source::new(options.seed);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let reported = AtomicUsize::new(0);
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<(), String> {
        let mut machines = Machines::new(engines, model, options.seed)?;
        while !stop.load(Relaxed) {
            let n = next.fetch_add(1, Relaxed);
            if n >= options.cases {
                break;
            }
            let job = source.job(options.first + n);
            let (f, verdict) = machines.run(&job)?;
            let report = verdict.map(|v| {
                if !options.keep_going {
                    stop.store(true, Relaxed);
                }
                let from = job.program.len();
                let many = reported.fetch_add(1, Relaxed) >= MOST;
                match (!many).then(|| machines.reduced(&job)) {
                    Some((small, Some(less))) => report(options.seed, &small, from, &less),
                    Some(_) => HISTORY.to_string() + &report(options.seed, &job, from, &v),
                    _ => report(options.seed, &job, from, &v),
                }
            });
            let mut s = summary.lock().unwrap_or_else(|e| e.into_inner());
            s.cases += !f.endless() as u64;
            s.endless += f.endless() as u64;
            s.events += f.events();
            s.interrupts += f.interrupts();
            s.stopped += (f.events() > MOST_EVENTS as u64) as u64;
            s.mismatches.extend(report.map(|r| (job.program.index, r)));
        }
        let mut s = summary.lock().unwrap_or_else(|e| e.into_inner());
        s.instructions += machines.machines[0].1.instructions();
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

/// Runs program `index` again and prints it. True if all agree.
pub fn replay(engines: &[(String, &dyn Engine)], model: &str, seed: u64, index: u64) -> Result<bool, String> {
    let job = Source::new(seed).job(index);
    println!(
        "smap {}, noise {}\n{}",
        job.smap,
        job.noise,
        listing(&job.program)
    );
    let mut machines = Machines::new(engines, model, seed)?;
    let (f, verdict) = machines.run(&job)?;
    for n in 0..f.events().min(RECORDS) {
        println!("event {n}: {}", record(&f, n));
    }
    let Some(v) = verdict else {
        println!("all agree");
        return Ok(true);
    };
    println!("{}", report(seed, &job, job.program.len(), &v));
    if let (small, Some(less)) = machines.reduced(&job) {
        println!("{}", report(seed, &small, job.program.len(), &less));
    }
    Ok(false)
}
