//! The engine and its partitions.

use crate::cpu::{Board, Cpu};
use crate::vcpu::SoftVcpu;
use donjon_engine::{Engine, EngineError, Partition, PartitionConfig, ProbeReport, Vcpu};
use std::sync::Mutex;

/// The software CPU.
#[derive(Debug, Default)]
pub struct SoftEngine;

impl SoftEngine {
    /// The engine.
    pub fn new() -> Self {
        Self
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
        }))
    }
}

struct SoftPartition {
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
        Ok(Box::new(SoftVcpu::new(Cpu::new(board))))
    }
}
