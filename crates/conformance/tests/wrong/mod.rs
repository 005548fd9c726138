//! An engine that is wrong.

use donjon_engine::{Engine, EngineError, Exit, Partition, PartitionConfig, ProbeReport, Vcpu};
use donjon_engine_soft::SoftEngine;
use donjon_x86::CpuState;

/// What is wrong with a wrong engine's answers.
pub type Mistake = fn(&mut CpuState);

/// The software CPU, with a mistake in every state it saves.
pub struct Wrong(pub Mistake);
struct WrongPartition(Box<dyn Partition>, Mistake);
struct WrongVcpu(Box<dyn Vcpu>, Mistake);

impl Engine for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn probe(&self) -> ProbeReport {
        SoftEngine::default().probe()
    }
    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        Ok(Box::new(WrongPartition(
            SoftEngine::default().create(config)?,
            self.0,
        )))
    }
}

impl Partition for WrongPartition {
    fn take_vcpu(&self, index: usize) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(WrongVcpu(self.0.take_vcpu(index)?, self.1)))
    }
}

impl Vcpu for WrongVcpu {
    fn run(&mut self) -> Exit {
        self.0.run()
    }
    fn save(&self) -> Result<CpuState, EngineError> {
        let mut s = self.0.save()?;
        (self.1)(&mut s);
        Ok(s)
    }
    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.0.load(state)
    }
    fn instructions(&self) -> u64 {
        self.0.instructions()
    }
}
