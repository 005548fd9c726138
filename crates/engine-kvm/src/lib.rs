//! The engine on hardware virtualization, through `/dev/kvm`.
//!
//! This version finds out whether the host's KVM is there and how fast it is ([`probe()`]); running domains on
//! it is not written yet, and [`KvmEngine`] says so.
#![deny(unsafe_code)]

mod guest;
mod probe;
mod raw;

pub use probe::{KvmReport, KvmStatus, MIN_RING0_MIPS, probe};

use donjon_engine::{Engine, EngineError, Partition, PartitionConfig, ProbeReport};

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

    fn create(&self, _: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
        Err(EngineError::Unsupported {
            engine: NAME,
            what: "this version of donjon measures the host's KVM but cannot run domains on it yet".into(),
            fix: "use `--engine soft`".into(),
        })
    }
}
