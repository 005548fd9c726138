//! One vCPU's thread.

use crate::event::{Control, MachineEvent};
use crate::meter::{Meter, VcpuStats};
use donjon_engine::{Attention, EngineError, Exit, Partition, Vcpu};
use donjon_x86::CpuState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

/// Starts vCPU `index` in `state`. The thread ends after [`Control::stop`].
pub(crate) fn spawn(
    control: Arc<Control>,
    partition: Arc<dyn Partition>,
    index: usize,
    state: CpuState,
    meter: Arc<Meter>,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("vcpu{index}")).spawn(move || {
        // A defect in an engine or a device must not leave the domain half alive.
        let run = AssertUnwindSafe(|| run(&control, &*partition, index, &state, &meter));
        if let Err(payload) = catch_unwind(run) {
            control.report(MachineEvent::Panic {
                vcpu: index,
                message: message(&*payload),
            });
        }
        control.done();
    })
}

fn run(control: &Control, partition: &dyn Partition, index: usize, state: &CpuState, meter: &Meter) {
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
    let mut stats = VcpuStats::default();
    while !control.stopping() {
        let start = Instant::now();
        let exit = vcpu.run();
        stats.busy += start.elapsed();
        stats.engine = vcpu.statistics();
        meter.tell(index, stats);
        match exit {
            // The next run takes what woke it, the kick too.
            Exit::Halt { wake } => drop(attention.wait(wake | Attention::KICK, None)),
            Exit::Kicked => {}
            Exit::Shutdown => {
                control.report(MachineEvent::TripleFault {
                    vcpu: index,
                    state: saved(&*vcpu).unwrap_or_default(),
                });
            }
            Exit::Error(e) => failed(e, saved(&*vcpu)),
        }
    }
}

/// Where it was, if that can be told.
fn saved(vcpu: &dyn Vcpu) -> Option<Box<CpuState>> {
    let state = vcpu.save();
    state
        .map_err(|e| tracing::error!("the state of a vCPU cannot be read: {e}"))
        .ok()
        .map(Box::new)
}

/// What a panic said.
fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
