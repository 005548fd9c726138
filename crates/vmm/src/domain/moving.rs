//! A running domain goes on with another engine.

use super::{Incarnation, start_vcpus};
use crate::event::{Event, MachineEvent};
use crate::meter::Meter;
use donjon_engine::{Engine, EngineError, Vcpu};
use donjon_machine::Machine;
use donjon_x86::CpuState;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reaches a domain that [`crate::run`] runs, from other threads.
#[derive(Default)]
pub struct Handle {
    events: Mutex<Option<Sender<Event>>>,
}

/// What a move took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// How long no vCPU ran.
    pub pause: Duration,
}

/// Why a domain did not go on with another engine. It goes on with the one it had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoveError {
    /// The domain has ended, or is about to.
    #[error("the domain is not running")]
    NotRunning,
    /// The engine would not have it.
    #[error("{0}")]
    Engine(String),
}

/// A wish to move.
pub(crate) struct Move {
    engine: Arc<dyn Engine>,
    reply: SyncSender<Result<Moved, MoveError>>,
}

impl std::fmt::Debug for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Move({})", self.engine.name())
    }
}

impl Handle {
    /// Has the domain go on with `engine`, from the instruction where it is. Waits until it does.
    pub fn move_to(&self, engine: Arc<dyn Engine>) -> Result<Moved, MoveError> {
        let (reply, answer) = sync_channel(1);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = events.map(|e| e.send(Event::Move(Move { engine, reply })));
        match sent {
            // A supervisor that ends drops the wish, and with it the reply.
            Some(Ok(())) => answer.recv().unwrap_or(Err(MoveError::NotRunning)),
            _ => Err(MoveError::NotRunning),
        }
    }

    /// The domain runs, and hears of events; or it does not.
    pub(super) fn connect(&self, events: Option<Sender<Event>>) {
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }
}

/// Carries out a wish; the engine that the machine has then.
pub(super) fn carry_out(
    wish: Move,
    incarnation: &mut Incarnation,
    engine: Arc<dyn Engine>,
    meter: &Arc<Meter>,
) -> Arc<dyn Engine> {
    let (engine, result) = move_it(&wish.engine, incarnation, engine, meter);
    // Who asked may have given up.
    let _ = wish.reply.send(result);
    engine
}

fn move_it(
    to: &Arc<dyn Engine>,
    incarnation: &mut Incarnation,
    from: Arc<dyn Engine>,
    meter: &Arc<Meter>,
) -> (Arc<dyn Engine>, Result<Moved, MoveError>) {
    let start = Instant::now();
    let Incarnation {
        machine,
        control,
        threads,
    } = incarnation;
    control.leave();
    let count = threads.len();
    let vcpus: Vec<_> = threads
        .drain(..)
        .filter_map(|t| t.join().ok().flatten())
        .collect();
    control.stay();
    // One that is not there has reported why.
    if control.stopping() || vcpus.len() < count {
        return (from, Err(MoveError::NotRunning));
    }
    let states = match leave(vcpus) {
        Ok(states) => states,
        Err(e) => {
            control.report(failure(e));
            return (from, Err(MoveError::NotRunning));
        }
    };
    let (engine, vcpus, result) = match settle(&**to, machine, &states) {
        Ok(vcpus) => (to.clone(), vcpus, Ok(())),
        Err(e) => match settle(&*from, machine, &states) {
            Ok(vcpus) => (from, vcpus, Err(MoveError::Engine(e.to_string()))),
            Err(again) => {
                control.report(failure(again));
                return (from, Err(MoveError::Engine(e.to_string())));
            }
        },
    };
    match start_vcpus(control, vcpus, meter) {
        Ok(started) => *threads = started,
        Err(e) => control.report(failure(EngineError::Failed {
            engine: engine.name(),
            what: e.to_string(),
        })),
    }
    let moved = Moved {
        pause: start.elapsed(),
    };
    tracing::info!(engine = engine.name(), pause = ?moved.pause, "the domain goes on with another engine");
    (engine, result.map(|()| moved))
}

fn failure(error: EngineError) -> MachineEvent {
    MachineEvent::Engine {
        vcpu: 0,
        error,
        state: None,
    }
}

/// The state of every vCPU. None runs any more, and none is left.
fn leave(mut vcpus: Vec<Box<dyn Vcpu>>) -> Result<Vec<CpuState>, EngineError> {
    vcpus.iter_mut().map(|v| v.leave()).collect()
}

/// An engine's vCPUs in these states.
pub(super) fn settle(
    engine: &dyn Engine,
    machine: &Machine,
    states: &[CpuState],
) -> Result<Vec<Box<dyn Vcpu>>, EngineError> {
    let partition = engine.create(machine.partition_config())?;
    let vcpu = |(index, state)| {
        let mut vcpu = partition.take_vcpu(index)?;
        vcpu.load(state)?;
        Ok(vcpu)
    };
    states.iter().enumerate().map(vcpu).collect()
}
