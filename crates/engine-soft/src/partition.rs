//! The engine and its partitions.

use crate::cpu::{Board, Cpu};
use crate::lockstep::Pair;
use crate::trace::CodeTrace;
use crate::translate::Translator;
use crate::vcpu::SoftVcpu;
use donjon_engine::{Attention, Engine, EngineError, Partition, PartitionConfig, ProbeReport, Vcpu};
use std::sync::{Arc, Mutex};

/// Times a block is interpreted before it is translated.
const HOT: u16 = 24;

/// When guest code is translated to host code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Translation {
    /// Never: everything is interpreted.
    Never,
    /// Once it has run often enough to pay for it. On a host that is not x86-64: never.
    #[default]
    Hot,
    /// Before it runs for the first time, wherever the translator knows how.
    Always,
}

/// How the software CPU runs guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// When guest code is translated.
    pub translation: Translation,
    /// Bytes of host code that a whole domain keeps at most.
    pub arena: usize,
    /// Whether translated code counts the instructions it runs, which costs it some speed.
    pub count: bool,
    /// Whether everything is interpreted as well.
    pub lockstep: Lockstep,
}

/// Interpreting all translated code as well, to stop where the results differ: for proving the translator, on
/// domains with one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lockstep {
    /// No.
    #[default]
    Off,
    /// Unit by unit: a difference names the code, but no unit ever leads to another.
    Units,
    /// Units lead to one another as always, and what ran until the next exit is compared.
    Chains,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            translation: Translation::default(),
            arena: 64 << 20,
            count: false,
            lockstep: Lockstep::Off,
        }
    }
}

/// The software CPU.
#[derive(Debug, Default)]
pub struct SoftEngine {
    settings: Settings,
    trace: Option<Arc<dyn CodeTrace>>,
}

impl SoftEngine {
    /// The engine as `settings` ask.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            trace: None,
        }
    }

    /// The same, telling `trace` of all host code that is made.
    pub fn traced(self, trace: Arc<dyn CodeTrace>) -> Self {
        Self {
            trace: Some(trace),
            ..self
        }
    }
}

impl Engine for SoftEngine {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn probe(&self) -> ProbeReport {
        crate::probe::probe(&self.settings)
    }

    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        let count = config.vcpus.len() as u32;
        let vcpus = config.vcpus.into_iter().enumerate().map(|(n, v)| {
            let board = Board {
                ram: config.ram.clone(),
                io: config.io.clone(),
                apic: v.apic,
                attention: v.attention,
                clock: config.clock.clone(),
                model: config.model.clone(),
                apic_id: n as u32,
                vcpus: count,
                deck: None,
            };
            Mutex::new(Some(board))
        });
        Ok(Box::new(SoftPartition {
            vcpus: vcpus.collect(),
            settings: self.settings,
            trace: self.trace.clone(),
        }))
    }
}

struct SoftPartition {
    settings: Settings,
    trace: Option<Arc<dyn CodeTrace>>,
    vcpus: Vec<Mutex<Option<Board>>>,
}

impl Partition for SoftPartition {
    fn take_vcpu(&self, index: usize) -> Result<Box<dyn Vcpu>, EngineError> {
        let failed = |what: String| EngineError::Failed { engine: "soft", what };
        let slot = self
            .vcpus
            .get(index)
            .ok_or_else(|| failed(format!("there is no vCPU {index}")))?;
        let board = slot.lock().unwrap_or_else(|e| e.into_inner()).take();
        let board = board.ok_or_else(|| failed(format!("vCPU {index} was taken before")))?;
        let threshold = match self.settings.translation {
            Translation::Never => None,
            Translation::Hot => Some(HOT),
            Translation::Always => Some(0),
        };
        let arena = self.settings.arena / self.vcpus.len();
        let mut translator = threshold.and_then(|t| Translator::new(board.ram.clone(), arena, t));
        if let (Some(translator), Some(trace)) = (&mut translator, &self.trace) {
            translator.trace(trace.clone());
        }
        if self.settings.lockstep != Lockstep::Off {
            let translator = translator.filter(|_| self.vcpus.len() == 1);
            let needs = || failed("lockstep needs a translator and a domain with one vCPU".into());
            let chains = self.settings.lockstep == Lockstep::Chains;
            return Ok(Box::new(Pair::new(board, translator.ok_or_else(needs)?, chains)?));
        }
        let mut cpu = Cpu::new(board);
        let ram = &cpu.board.ram;
        cpu.direct.counts = self.settings.count;
        cpu.direct.base = if translator.is_none() || self.vcpus.len() == 1 {
            ram.host_address() as u64
        } else {
            // What one vCPU stores may be what another has translated.
            let attention = cpu.board.attention.clone();
            ram.code().watch(move || attention.raise(Attention::CODE));
            ram.guarded_address().map_err(|e| failed(e.to_string()))? as u64
        };
        Ok(Box::new(SoftVcpu::new(cpu, translator)))
    }
}
