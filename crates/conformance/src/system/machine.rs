//! One engine's machine: it runs a program in a fresh memory and says what is left.

use super::kernel;
use super::map::*;
use crate::generate::Background;
use crate::guest::{SetupError, Watchdog, on_this_host};
use crate::layout::*;
use crate::program::{Layout, Program};
use donjon_engine::{Attention, Detached, Engine, Exit, Gp, LocalApic, PartitionConfig, Vcpu, VcpuConfig};
use donjon_memory::Ram;
use donjon_x86::CpuState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

/// How long a program may take; most take a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(700);

/// A program and how its machine is set up.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// The program.
    pub program: Program,
    /// Ring 0 may only reach the program's pages while AC is set.
    pub smap: bool,
    /// Another thread interrupts it all the time.
    pub noise: bool,
}

/// [`Final::end`] of a program that had to be stopped.
const HUNG: &str = "hung";

/// What a run left.
#[derive(Clone, PartialEq, Debug)]
pub struct Final {
    /// How it ended.
    pub end: String,
    /// The processor.
    pub state: CpuState,
    /// All of memory.
    pub ram: Vec<u8>,
}

impl Final {
    /// Whether it had to be stopped.
    pub fn endless(&self) -> bool {
        self.end == HUNG
    }

    /// A word of memory at a linear address.
    pub fn word(&self, linear: u64) -> u64 {
        let at = physical(linear) as usize;
        u64::from_le_bytes(self.ram[at..at + 8].try_into().expect("eight bytes"))
    }

    /// Events in the log.
    pub fn events(&self) -> u64 {
        self.word(LOGGED)
    }

    /// Interrupts from outside.
    pub fn interrupts(&self) -> u64 {
        self.word(OUTSIDE)
    }
}

/// An interrupt controller with one line.
struct Line {
    raised: AtomicBool,
    attention: Arc<Attention>,
}

impl Line {
    fn raise(&self) {
        self.raised.store(true, SeqCst);
        self.attention.raise(Attention::INTERRUPT);
    }
}

impl LocalApic for Line {
    fn pending(&self) -> bool {
        self.raised.load(SeqCst)
    }
    fn acknowledge(&self) -> Option<u8> {
        self.raised.swap(false, SeqCst).then_some(vector::OUTSIDE)
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&self, _: u8) {}
    fn read_msr(&self, _: u32) -> Result<u64, Gp> {
        Err(Gp)
    }
    fn write_msr(&self, msr: u32, _: u64) -> Result<(), Gp> {
        if msr != INTERRUPT_MSR {
            return Err(Gp);
        }
        self.raise();
        Ok(())
    }
    fn page(&self) -> Option<u64> {
        None
    }
    fn page_read(&self, _: u16) -> u32 {
        0
    }
    fn page_write(&self, _: u16, _: u32) {}
    fn init(&self) {}
}

/// One processor and its memory.
pub struct Machine {
    vcpu: Box<dyn Vcpu>,
    ram: Arc<Ram>,
    line: Arc<Line>,
    watchdog: Watchdog,
    image: Vec<u8>,
}

impl Machine {
    /// A machine of an engine.
    pub fn new(engine: &dyn Engine, model: &str) -> Result<Self, SetupError> {
        let (model, clock) = on_this_host(engine, model)?;
        let ram = Arc::new(Ram::new(RAM_SIZE).map_err(|e| SetupError(e.to_string()))?);
        let attention = Arc::new(Attention::default());
        let line = Arc::new(Line {
            raised: AtomicBool::new(false),
            attention: attention.clone(),
        });
        let partition = engine.create(PartitionConfig {
            ram: ram.clone(),
            model,
            clock,
            io: Arc::new(Detached),
            apics: None,
            vcpus: vec![VcpuConfig {
                apic: line.clone(),
                attention: attention.clone(),
            }],
        })?;
        let mut image = kernel::image();
        for (at, code) in kernel::system_calls() {
            let at = physical(at) as usize;
            image[at..at + code.len()].copy_from_slice(&code);
        }
        Ok(Self {
            vcpu: partition.take_vcpu(0)?,
            ram,
            line,
            watchdog: Watchdog::new(attention, PATIENCE),
            image,
        })
    }

    /// Instructions run so far.
    pub fn instructions(&self) -> u64 {
        self.vcpu.instructions()
    }

    /// Runs a program.
    pub fn run(&mut self, job: &Job, background: &Background) -> Result<Final, SetupError> {
        self.fill(job, background);
        let b = &job.program.before;
        let mut state = kernel::state(job.smap);
        state.gpr = b.gpr;
        state.rip = job.program.start;
        state.rflags = b.rflags | donjon_x86::bits::rflags::AC;
        state.fpu = b.fpu;
        state.mxcsr = b.mxcsr;
        state.ymm = b.ymm;
        state.segments[4].base = b.fs_base;
        state.segments[5].base = b.gs_base;
        self.vcpu.load(&state)?;
        self.line.raised.store(false, SeqCst);
        // What came too late for the program before.
        self.line.attention.take(Attention::KICK | Attention::INTERRUPT);
        self.watchdog.start();
        let (vcpu, line) = (&mut self.vcpu, &self.line);
        let exit = if job.noise {
            noisy(&mut **vcpu, line)
        } else {
            vcpu.run()
        };
        self.watchdog.stop();
        let end = match exit {
            Exit::Halt { .. } => "halted".to_string(),
            Exit::Kicked => HUNG.into(),
            other => format!("{other:?}"),
        };
        let mut ram = vec![0; RAM_SIZE as usize];
        self.ram
            .read(0, &mut ram)
            .map_err(|e| SetupError(e.to_string()))?;
        Ok(Final {
            end,
            state: self.vcpu.save()?,
            ram,
        })
    }

    fn fill(&self, job: &Job, background: &Background) {
        let mut image = self.image.clone();
        let mut put = |linear: u64, bytes: &[u8]| {
            let at = physical(linear) as usize;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(CODE, &[CODE_FILL_UD; CODE_SIZE as usize]);
        for (at, words) in [(SCRATCH, &background.scratch), (READ_ONLY, &background.read_only)] {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            put(at, &bytes);
        }
        let layout = Layout::of(&job.program);
        for piece in job.program.case(&layout).program {
            put(piece.address, piece.bytes());
        }
        put(RESUME, &STUB_FALL.to_le_bytes());
        self.ram.write_at(0, &image);
    }
}

/// What code memory holds around the program: INT3, which ring 0 may run too.
const CODE_FILL_UD: u8 = 0xcc;

/// Runs with interrupts at random moments.
fn noisy(vcpu: &mut dyn Vcpu, line: &Line) -> Exit {
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut pause = 1;
            while !done.load(Acquire) {
                line.raise();
                // From one to some sixty microseconds.
                pause = pause * 5 % 61;
                let until = Instant::now() + Duration::from_micros(1 + pause);
                while Instant::now() < until && !done.load(Acquire) {
                    std::hint::spin_loop();
                }
            }
        });
        let exit = vcpu.run();
        done.store(true, Release);
        exit
    })
}
