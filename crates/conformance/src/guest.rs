//! Runs cases on a CPU engine, through the public traits only.
//!
//! [`EngineRunner`] makes a domain with one vCPU and just enough memory: the pages of [`crate::layout`] at
//! their addresses, and in the upper half a kernel that consists of descriptor tables and 256 exception
//! handlers of one HLT each. A case starts at CPL 3 and ends in one of the handlers: that of its exception,
//! or that of #GP when it has reached the stub page, which holds HLT here.

mod tables;
mod watchdog;

use crate::case::{Case, Mode};
use crate::generate::Background;
use crate::layout::*;
use crate::outcome::{End, Outcome};
use crate::regs::Regs;
use donjon_engine::{
    Attention, Clock, Detached, Engine, EngineError, Exit, PartitionConfig, Vcpu, VcpuConfig,
};
use donjon_memory::Ram;
use donjon_x86::cpuid::CpuModel;
use donjon_x86::exception;
use donjon_x86::{CpuState, Seg};
use std::sync::Arc;
use std::time::Duration;
pub use watchdog::Watchdog;

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no engine to run cases on.
#[derive(Debug)]
pub struct SetupError(pub String);

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

impl From<EngineError> for SetupError {
    fn from(e: EngineError) -> Self {
        Self(e.to_string())
    }
}

/// A CPU model and a clock as far as `engine` can give them on this host.
pub fn on_this_host(engine: &dyn Engine, model: &str) -> Result<(Arc<CpuModel>, Arc<Clock>), SetupError> {
    let named = CpuModel::named(model).ok_or_else(|| SetupError(format!("no CPU model {model}")))?;
    let limits = engine.limits()?;
    let model = match &limits.features {
        Some(features) => named.within(features).map_err(|e| SetupError(e.to_string()))?,
        None => named,
    };
    let clock = Clock::new(limits.tsc_hz.unwrap_or(Clock::DEFAULT_HZ));
    Ok((Arc::new(model), Arc::new(clock)))
}

/// One vCPU that runs cases.
pub struct EngineRunner {
    vcpu: Box<dyn Vcpu>,
    ram: Arc<Ram>,
    template: CpuState,
    background: Vec<u64>,
    /// What the scratch area holds now.
    shadow: Vec<u64>,
    attention: Arc<Attention>,
    watchdog: Watchdog,
}

impl EngineRunner {
    /// A domain of `engine` with guest model `model`.
    pub fn new(engine: &dyn Engine, model: &str) -> Result<Self, SetupError> {
        let (model, clock) = on_this_host(engine, model)?;
        let ram = Arc::new(Ram::new(tables::RAM_SIZE).map_err(|e| SetupError(e.to_string()))?);
        tables::write(&ram);
        let attention = Arc::new(Attention::default());
        let partition = engine.create(PartitionConfig {
            ram: ram.clone(),
            model,
            clock,
            io: Arc::new(Detached),
            apics: None,
            vcpus: vec![VcpuConfig {
                apic: Arc::new(Detached),
                attention: attention.clone(),
            }],
        })?;
        let words = SCRATCH_SIZE as usize / 8;
        Ok(Self {
            vcpu: partition.take_vcpu(0)?,
            ram,
            template: tables::cpu_state(),
            background: vec![0; words],
            shadow: vec![0; words],
            watchdog: Watchdog::new(attention.clone(), PATIENCE),
            attention,
        })
    }

    /// Sets what the scratch and read-only areas hold before the patches of a case.
    pub fn set_background(&mut self, b: &Background) {
        self.background.copy_from_slice(&b.scratch);
        self.shadow.copy_from_slice(&b.scratch);
        let write = |at: u64, words: &[u64]| {
            for (i, w) in words.iter().enumerate() {
                self.ram.store::<u64>(at as usize + i * 8, *w);
            }
        };
        write(tables::SCRATCH_AT, &b.scratch);
        write(tables::READ_ONLY_AT, &b.read_only);
    }

    /// Instructions run so far.
    pub fn instructions(&self) -> u64 {
        self.vcpu.instructions()
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Result<Outcome, EngineError> {
        for piece in &case.program {
            self.write_code(piece.address, piece.bytes());
        }
        for patch in &case.patches {
            self.patch(patch.offset, &patch.bytes);
        }
        let state = self.before(case);
        self.vcpu.load(&state)?;
        // A kick that came too late for the case before.
        self.attention.take(Attention::KICK);
        self.watchdog.start();
        let exit = self.vcpu.run();
        self.watchdog.stop();
        let state = self.vcpu.save()?;
        let mut outcome = self.outcome(&exit, &state);
        outcome.memory = self.collect();
        if case.program.len() > Case::PIECES {
            // A program may have stored anywhere in it.
            self.write_code(CODE, &[CODE_FILL; CODE_SIZE as usize]);
        }
        for piece in &case.program {
            self.write_code(
                piece.address,
                &[CODE_FILL; crate::case::CodeBytes::MAX][..piece.len],
            );
        }
        outcome.normalize(case.mode);
        Ok(outcome)
    }

    /// Writes the part of `bytes` that falls into code memory.
    fn write_code(&self, address: u64, bytes: &[u8]) {
        for (i, &b) in bytes.iter().enumerate() {
            let offset = (address + i as u64).wrapping_sub(CODE);
            if offset < CODE_SIZE {
                self.ram.store::<u8>((tables::CODE_AT + offset) as usize, b);
            }
        }
    }

    fn patch(&mut self, offset: usize, bytes: &[u8]) {
        self.ram.write_at(tables::SCRATCH_AT as usize + offset, bytes);
        for word in offset / 8..=(offset + bytes.len() - 1) / 8 {
            self.shadow[word] = self.ram.load(tables::SCRATCH_AT as usize + word * 8);
        }
    }

    /// Notes what changed in the scratch area and restores it.
    fn collect(&mut self) -> Vec<(usize, u64)> {
        let mut changes = Vec::new();
        for word in 0..self.shadow.len() {
            let at = tables::SCRATCH_AT as usize + word * 8;
            let now: u64 = self.ram.load(at);
            if now != self.shadow[word] {
                changes.push((word * 8, now));
            }
            if now != self.background[word] {
                self.ram.store::<u64>(at, self.background[word]);
            }
            self.shadow[word] = self.background[word];
        }
        changes
    }

    fn before(&self, case: &Case) -> CpuState {
        let r = &case.before;
        let mut s = self.template.clone();
        s.gpr = r.gpr;
        s.rip = r.rip;
        s.rflags = r.rflags;
        s.fpu = r.fpu;
        s.mxcsr = r.mxcsr;
        s.ymm = r.ymm;
        for (to, &selector) in s.segments.iter_mut().zip(&r.selectors) {
            *to = tables::segment(selector);
        }
        if case.mode == Mode::Long {
            s.segments[Seg::Fs as usize].base = r.fs_base;
            s.segments[Seg::Gs as usize].base = r.gs_base;
        }
        s
    }

    /// Reads the state of the interrupted program from the handler's stack.
    fn outcome(&self, exit: &Exit, s: &CpuState) -> Outcome {
        let mut after = Regs {
            gpr: s.gpr,
            rip: s.rip,
            rflags: s.rflags,
            fs_base: s.segments[Seg::Fs as usize].base,
            gs_base: s.segments[Seg::Gs as usize].base,
            selectors: std::array::from_fn(|i| s.segments[i].selector),
            fpu: s.fpu,
            mxcsr: s.mxcsr,
            ymm: s.ymm,
        };
        let mut end = match exit {
            Exit::Kicked => End::Hung,
            Exit::Shutdown => End::Failed("shut down (triple fault)".into()),
            Exit::Error(e) => End::Failed(e.to_string()),
            Exit::Halt { .. } => End::Failed(format!("halted at {:#x}, which is no handler", s.rip)),
        };
        if matches!(exit, Exit::Halt { .. })
            && let Some(vector) = tables::vector(s.rip)
        {
            let word = |i: u64| -> u64 {
                let at = s.gpr[4].wrapping_add(i * 8);
                tables::stack_offset(at).map_or(0, |at| self.ram.load(at))
            };
            let has_code = exception::has_error_code(vector);
            let frame = has_code as u64;
            after.rip = word(frame);
            after.selectors[1] = word(frame + 1) as u16;
            after.rflags = word(frame + 2);
            after.gpr[4] = word(frame + 3);
            after.selectors[2] = word(frame + 4) as u16;
            let error_code = if has_code { word(0) as u32 } else { 0 };
            let at_stub = matches!(after.rip, STUB_FALL | STUB_TAKEN)
                && after.selectors[1] == selector::CODE64
                && vector == exception::GP
                && error_code == 0;
            end = if at_stub {
                End::Completed
            } else {
                End::Exception {
                    vector,
                    error_code,
                    cr2: (vector == exception::PF).then_some(s.cr2),
                }
            };
        }
        Outcome {
            end,
            after,
            memory: Vec::new(),
        }
    }
}
