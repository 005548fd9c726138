//! The engine and its partitions.

use crate::cpu::{Board, Cpu};
use crate::translate::Translator;
use crate::vcpu::SoftVcpu;
use donjon_engine::{Engine, EngineError, Partition, PartitionConfig, ProbeReport, Vcpu};
use std::sync::Mutex;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            translation: Translation::default(),
            arena: 64 << 20,
        }
    }
}

/// The software CPU.
#[derive(Debug, Default)]
pub struct SoftEngine {
    settings: Settings,
}

impl SoftEngine {
    /// The engine as `settings` ask.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Engine for SoftEngine {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn probe(&self) -> ProbeReport {
        crate::probe::probe()
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
            };
            Mutex::new(Some(board))
        });
        Ok(Box::new(SoftPartition {
            vcpus: vcpus.collect(),
            settings: self.settings,
        }))
    }
}

struct SoftPartition {
    settings: Settings,
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
        // Stores of one vCPU do not reach another's translations yet.
        let alone = self.vcpus.len() == 1;
        let translator = threshold
            .filter(|_| alone)
            .and_then(|t| Translator::new(board.ram.clone(), arena, t));
        Ok(Box::new(SoftVcpu::new(Cpu::new(board), translator)))
    }
}
