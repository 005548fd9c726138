//! What a CPU engine is: the seam between the board and whatever executes guest instructions.
//!
//! An [`Engine`] is probed, then creates a [`Partition`] for one domain; the partition hands out one
//! [`Vcpu`] per virtual processor, each bound to its own thread. Port and memory-mapped accesses are
//! callbacks ([`CpuIo`]), because a translator needs their results in the middle of an instruction;
//! [`Exit`] is left with the few things that end a run.
#![forbid(unsafe_code)]

mod apics;
mod attention;
mod clock;
mod detached;
mod limits;
mod probe;
mod statistics;

pub use apics::{LocalApics, Msi, RemoteApics};
pub use attention::{Attention, Kick};
pub use clock::Clock;
pub use detached::Detached;
pub use limits::Limits;
pub use probe::{Fitness, ProbeReport};
pub use statistics::{Exits, HardwareExits, Invalidations, Statistics, TranslatorStatistics};

use donjon_memory::Ram;
use donjon_x86::CpuState;
use donjon_x86::cpuid::CpuModel;
use std::sync::Arc;

/// A kind of CPU.
pub trait Engine: Send + Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Finds out whether this engine works on this host, and how fast.
    fn probe(&self) -> ProbeReport;

    /// What domains cannot have on this host.
    fn limits(&self) -> Result<Limits, EngineError> {
        Ok(Limits::default())
    }

    /// Makes the CPUs of one domain.
    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, EngineError>;
}

/// What an engine needs to know of the domain.
pub struct PartitionConfig {
    /// RAM.
    pub ram: Arc<Ram>,
    /// The CPU the guest sees.
    pub model: Arc<CpuModel>,
    /// Time-stamp counter and system time.
    pub clock: Arc<Clock>,
    /// Ports and memory-mapped devices.
    pub io: Arc<dyn CpuIo>,
    /// One for each vCPU, in order of APIC ID.
    pub vcpus: Vec<VcpuConfig>,
    /// The same local APICs together, for an engine that has local APICs of its own. Without, it uses those of
    /// the vCPUs.
    pub apics: Option<Arc<dyn LocalApics>>,
}

/// What belongs to one vCPU.
pub struct VcpuConfig {
    /// Its local APIC.
    pub apic: Arc<dyn LocalApic>,
    /// How others get its attention.
    pub attention: Arc<Attention>,
}

/// One domain's CPUs.
pub trait Partition: Send + Sync {
    /// Takes vCPU `index`; each can be taken once and stays on the thread that runs it.
    fn take_vcpu(&self, index: usize) -> Result<Box<dyn Vcpu>, EngineError>;
}

/// One virtual processor.
pub trait Vcpu: Send {
    /// Runs until something ends the run.
    fn run(&mut self) -> Exit;

    /// The whole architectural state.
    fn save(&self) -> Result<CpuState, EngineError>;

    /// Replaces the whole architectural state. Where local APICs are the engine's own, the vCPU takes the state of
    /// the board's.
    fn load(&mut self, state: &CpuState) -> Result<(), EngineError>;

    /// Saves, and gives its local APIC back to the board, so that another engine can go on. It runs no more until
    /// it is loaded again. All vCPUs of the domain must have stopped.
    fn leave(&mut self) -> Result<CpuState, EngineError> {
        self.save()
    }

    /// Guest instructions retired so far.
    fn instructions(&self) -> u64;

    /// What it did so far, for people to look at.
    fn statistics(&self) -> Statistics {
        Statistics {
            interpreted: self.instructions(),
            translated: Some(0),
            ..Statistics::default()
        }
    }
}

/// Why [`Vcpu::run`] returned.
#[derive(Debug)]
pub enum Exit {
    /// Nothing to do until one of these [`Attention`] bits is raised.
    Halt {
        /// Bits that end the wait.
        wake: u32,
    },
    /// [`Attention::KICK`] was raised (and has been cleared).
    Kicked,
    /// Triple fault (Intel SDM vol. 3A §6.15, interrupt 8): the processor shut down.
    Shutdown,
    /// The engine cannot go on.
    Error(EngineError),
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not on this host, or not by this engine.
    #[error("engine {engine}: {what}; {fix}")]
    Unsupported {
        /// Engine.
        engine: &'static str,
        /// What is missing.
        what: String,
        /// What to do.
        fix: String,
    },
    /// A state that no processor can be in.
    #[error("invalid CPU state: {0}")]
    InvalidState(String),
    /// Anything else.
    #[error("engine {engine} failed: {what}")]
    Failed {
        /// Engine.
        engine: &'static str,
        /// What happened.
        what: String,
    },
}

/// Ports and memory-mapped devices, as the CPU reaches them. Sizes are 1, 2 or 4 bytes for ports and
/// 1 to 8 for memory; an address nobody claims reads as ones and swallows writes.
pub trait CpuIo: Send + Sync {
    /// IN: the value, in the low `size` bytes.
    fn port_in(&self, port: u16, size: u8) -> u32;
    /// OUT.
    fn port_out(&self, port: u16, size: u8, value: u32);
    /// A load from a guest-physical address that is not RAM.
    fn mmio_read(&self, address: u64, size: u8) -> u64;
    /// A store to a guest-physical address that is not RAM.
    fn mmio_write(&self, address: u64, size: u8, value: u64);
}

/// A general-protection fault, as the answer to an MSR access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gp;

/// A vCPU's local APIC as the vCPU itself reaches it (Intel SDM vol. 3A ch. 11).
///
/// When its answer to [`LocalApic::pending`] may have become true the APIC raises
/// [`Attention::INTERRUPT`]; NMI, INIT and start-up messages are raised as their own bits.
pub trait LocalApic: Send + Sync {
    /// Whether an interrupt above the processor priority waits (from the APIC or, through LINT0 in
    /// ExtINT mode, from the 8259).
    fn pending(&self) -> bool;
    /// Interrupt acknowledge: takes the highest-priority interrupt into service.
    fn acknowledge(&self) -> Option<u8>;
    /// CR8, 0-15.
    fn cr8(&self) -> u8;
    /// Writes CR8.
    fn set_cr8(&self, value: u8);
    /// IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range.
    fn read_msr(&self, msr: u32) -> Result<u64, Gp>;
    /// As [`LocalApic::read_msr`].
    fn write_msr(&self, msr: u32, value: u64) -> Result<(), Gp>;
    /// Guest-physical address of the 4 KiB register page, while it is enabled in xAPIC mode.
    fn page(&self) -> Option<u64>;
    /// Reads the aligned 32-bit register at `offset` of the page.
    fn page_read(&self, offset: u16) -> u32;
    /// Writes it.
    fn page_write(&self, offset: u16, value: u32);
    /// INIT reset it (Intel SDM vol. 3A §11.4.7.3).
    fn init(&self);
}
