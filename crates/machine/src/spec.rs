//! What a machine is made of.

use donjon_x86::cpuid::CpuModel;
use std::sync::Arc;

/// The most vCPUs a domain can have.
pub const MAX_CPUS: u32 = 64;
/// The least memory a domain can have.
pub const MIN_MEMORY: u64 = 16 << 20;

/// What a machine is made of.
#[derive(Clone)]
pub struct MachineSpec {
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Bytes of RAM, whole pages, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// The CPU the guest sees.
    pub model: Arc<CpuModel>,
}

impl MachineSpec {
    /// Checks the counts.
    pub fn validate(&self) -> Result<(), SpecError> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(SpecError::Cpus(self.cpus));
        }
        if self.memory < MIN_MEMORY || !self.memory.is_multiple_of(4096) {
            return Err(SpecError::Memory(self.memory));
        }
        Ok(())
    }
}

/// A machine that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// Too few or too many.
    #[error("a domain has 1 to {MAX_CPUS} vCPUs, not {0}")]
    Cpus(u32),
    /// Too little, or no whole number of pages.
    #[error("a domain has at least {min} bytes of memory, in whole 4 KiB pages, not {0}", min = MIN_MEMORY)]
    Memory(u64),
}
