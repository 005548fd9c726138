//! What the supervising thread of a domain hears of.

use crate::domain::Move;
use donjon_devices::PowerSink;
use donjon_engine::{Attention, EngineError};
use donjon_x86::CpuState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Sender;

/// Anything that happens to a running domain.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something in the machine of a given generation. Those of an earlier one are of no interest.
    Machine(u64, MachineEvent),
    /// A vCPU thread is about to end.
    VcpuDone(u64),
    /// The console.
    Console(ConsoleEvent),
    /// A signal to this process that ends it.
    Signal(i32),
    /// The terminal has another size.
    Resized,
    /// The domain is to go on with another engine.
    Move(Move),
}

/// Why a machine cannot go on.
#[derive(Debug)]
pub(crate) enum MachineEvent {
    PowerOff,
    Reset,
    TripleFault {
        vcpu: usize,
        state: Box<CpuState>,
    },
    Engine {
        vcpu: usize,
        error: EngineError,
        state: Option<Box<CpuState>>,
    },
    Panic {
        vcpu: usize,
        message: String,
    },
}

/// What happens at the console.
#[derive(Debug)]
pub(crate) enum ConsoleEvent {
    /// The user typed the escape character, or the terminal is gone.
    Left,
    /// Nobody reads what the guest writes.
    OutputClosed(std::io::Error),
}

/// One machine's connection to the supervisor: vCPU threads and devices report through it and are stopped
/// by it. Nothing here blocks, because devices call it on the vCPU thread whose instruction they carry out.
pub(crate) struct Control {
    pub generation: u64,
    pub attentions: Vec<Arc<Attention>>,
    stopping: AtomicBool,
    leaving: AtomicBool,
    events: Sender<Event>,
}

impl Control {
    pub fn new(generation: u64, cpus: u32, events: Sender<Event>) -> Self {
        let attentions = (0..cpus).map(|_| Arc::default()).collect();
        Self {
            generation,
            attentions,
            stopping: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            events,
        }
    }

    /// Reports `event` and stops all vCPUs: whatever it is, this machine runs no further.
    pub fn report(&self, event: MachineEvent) {
        // The supervisor outlives all machines; if it does not, there is nobody to tell.
        let _ = self.events.send(Event::Machine(self.generation, event));
        self.stop();
    }

    /// A vCPU thread ends.
    pub fn done(&self) {
        let _ = self.events.send(Event::VcpuDone(self.generation));
    }

    /// Makes all vCPUs return from [`donjon_engine::Vcpu::run`] and their threads end.
    pub fn stop(&self) {
        // In this order: a vCPU that has already taken an earlier kick sees the flag, one that has not
        // sees the kick.
        self.stopping.store(true, SeqCst);
        self.attentions.iter().for_each(|a| a.raise(Attention::KICK));
    }

    /// Makes all vCPUs return and their threads end, for a while.
    pub fn leave(&self) {
        self.leaving.store(true, SeqCst);
        self.attentions.iter().for_each(|a| a.raise(Attention::KICK));
    }

    /// vCPUs may run again.
    pub fn stay(&self) {
        self.leaving.store(false, SeqCst);
    }

    /// Whether vCPU threads are to end.
    pub fn ends(&self) -> bool {
        self.stopping() || self.leaving.load(SeqCst)
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

impl PowerSink for Control {
    fn power_off(&self) {
        self.report(MachineEvent::PowerOff);
    }

    fn reset(&self) {
        self.report(MachineEvent::Reset);
    }
}
