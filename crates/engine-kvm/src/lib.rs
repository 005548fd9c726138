//! The engine on hardware virtualization, through `/dev/kvm`.
//!
//! The processor runs the guest's code. Local APICs are in the host's kernel, all other chips are the board's:
//! messages from devices go to the kernel, the ends of level-triggered interrupts come back from there, and a vCPU
//! that is loaded takes over the state of the board's local APIC and gives it back when it leaves
//! ([`donjon_engine::LocalApics`]). So devices, board and saved state are the same as on any other engine. Where the
//! board offers no local APICs together, each vCPU's own is used and the kernel has none, which is slower.
#![deny(unsafe_code)]

mod clock;
mod cpuid;
mod error;
mod exits;
mod filter;
mod guest;
mod partition;
mod probe;
mod raw;
mod remote;
mod state;
mod transfer;
mod vcpu;

pub use probe::{KvmReport, KvmStatus, MIN_RING0_MIPS, probe};

use donjon_engine::{Engine, EngineError, Limits, Partition, PartitionConfig, ProbeReport};
use kvm_ioctls::Kvm;

/// The engine's name on the command line.
pub const NAME: &str = "kvm";

/// Hardware virtualization.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvmEngine;

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> ProbeReport {
        probe().into()
    }

    fn limits(&self) -> Result<Limits, EngineError> {
        let kvm = open()?;
        Ok(Limits {
            tsc_hz: clock::only_frequency(&kvm)?,
            features: Some(cpuid::supported(&kvm)?),
        })
    }

    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        Ok(Box::new(partition::KvmPartition::new(&open()?, config)?))
    }
}

fn open() -> Result<Kvm, EngineError> {
    Kvm::new().map_err(|e| EngineError::Unsupported {
        engine: NAME,
        what: format!("/dev/kvm cannot be opened: {e}"),
        fix: "see `donjon doctor`, or use `--engine soft`".into(),
    })
}
