//! What a machine is made of.

use crate::MachineError;
use crate::layout::{self, FILES, MAX_MEMORY};
use donjon_memory::{Backing, MemoryFile, Ram};
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
    /// Bytes of RAM, whole pages, [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: u64,
    /// Where the host takes it from.
    pub backing: Backing,
    /// The CPU the guest sees.
    pub model: Arc<CpuModel>,
    /// Ticks a second of its time-stamp counter.
    pub tsc_hz: u64,
}

impl MachineSpec {
    /// Checks the counts.
    pub fn validate(&self) -> Result<(), SpecError> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(SpecError::Cpus(self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) || !self.memory.is_multiple_of(4096) {
            return Err(SpecError::Memory(self.memory));
        }
        Ok(())
    }

    /// RAM for one machine, with files that are persistent memory of its guest; devices can be made with it.
    pub fn ram(&self, files: &[MemoryFile]) -> Result<Arc<Ram>, MachineError> {
        self.validate()?;
        let placed = layout::place_files(files).ok_or(SpecError::Files)?;
        Ok(Arc::new(Ram::backed(self.memory, &placed, self.backing)?))
    }
}

/// A machine that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// Too few or too many.
    #[error("a domain has 1 to {MAX_CPUS} vCPUs, not {0}")]
    Cpus(u32),
    /// Too little, too much, or no whole number of pages.
    #[error("a domain has {MIN_MEMORY} to {MAX_MEMORY} bytes of memory, in whole 4 KiB pages, not {0}")]
    Memory(u64),
    /// More persistent memory than there are addresses for.
    #[error(
        "a domain has at most {} GiB of persistent memory, each file rounded up to 1 GiB; use fewer or smaller files",
        (FILES.end - FILES.start) >> 30
    )]
    Files,
}
