//! One vCPU's thread.

use crate::event::{Control, MachineEvent};
use donjon_engine::{Attention, EngineError, Exit, Partition, Vcpu};
use donjon_x86::CpuState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// What a vCPU did.
#[derive(Clone, Copy, Default, Debug)]
pub struct VcpuStats {
    /// Guest instructions retired.
    pub instructions: u64,
    /// Time it was running, as opposed to halted.
    pub busy: Duration,
}

impl VcpuStats {
    /// Million instructions a second while it ran.
    pub fn mips(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 {
            self.instructions as f64 / seconds / 1e6
        } else {
            0.0
        }
    }
}

/// Starts vCPU `index` in `state`. The thread ends after [`Control::stop`].
pub(crate) fn spawn(
    control: Arc<Control>,
    partition: Arc<dyn Partition>,
    index: usize,
    state: CpuState,
) -> std::io::Result<JoinHandle<VcpuStats>> {
    Builder::new().name(format!("vcpu{index}")).spawn(move || {
        let mut stats = VcpuStats::default();
        // A defect in an engine or a device must not leave the domain half alive.
        let run = AssertUnwindSafe(|| run(&control, &*partition, index, &state, &mut stats));
        if let Err(payload) = catch_unwind(run) {
            control.report(MachineEvent::Panic {
                vcpu: index,
                message: message(&*payload),
            });
        }
        control.done();
        stats
    })
}

fn run(control: &Control, partition: &dyn Partition, index: usize, state: &CpuState, stats: &mut VcpuStats) {
    let failed = |error: EngineError, state| {
        control.report(MachineEvent::Engine {
            vcpu: index,
            error,
            state,
        })
    };
    let mut vcpu = match partition.take_vcpu(index) {
        Ok(vcpu) => vcpu,
        Err(e) => return failed(e, None),
    };
    if let Err(e) = vcpu.load(state) {
        return failed(e, Some(Box::new(state.clone())));
    }
    let attention = &control.attentions[index];
    while !control.stopping() {
        let start = Instant::now();
        let exit = vcpu.run();
        stats.busy += start.elapsed();
        match exit {
            // The next run takes what woke it, the kick too.
            Exit::Halt { wake } => drop(attention.wait(wake | Attention::KICK, None)),
            Exit::Kicked => {}
            Exit::Shutdown => {
                control.report(MachineEvent::TripleFault {
                    vcpu: index,
                    state: saved(&*vcpu),
                });
            }
            Exit::Error(e) => failed(e, Some(saved(&*vcpu))),
        }
    }
    stats.instructions = vcpu.instructions();
}

fn saved(vcpu: &dyn Vcpu) -> Box<CpuState> {
    Box::new(vcpu.save())
}

/// What a panic said.
fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
