//! One vCPU's thread.

use crate::event::{Control, MachineEvent};
use crate::meter::{Meter, VcpuStats};
use donjon_engine::{Attention, EngineError, Exit, Vcpu};
use donjon_x86::CpuState;
use rustix::time::{ClockId, clock_gettime};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Runs vCPU `index`, which is loaded, on a thread of its own. That ends after [`Control::stop`] or
/// [`Control::leave`], and gives the vCPU back, unless that is the reason.
pub(crate) fn spawn(
    control: Arc<Control>,
    mut vcpu: Box<dyn Vcpu>,
    index: usize,
    meter: Arc<Meter>,
) -> std::io::Result<JoinHandle<Option<Box<dyn Vcpu>>>> {
    Builder::new().name(format!("vcpu{index}")).spawn(move || {
        // A defect in an engine or a device must not leave the domain half alive.
        let run = AssertUnwindSafe(|| run(&control, &mut *vcpu, index, &meter));
        let ended = catch_unwind(run);
        if let Err(payload) = &ended {
            control.report(MachineEvent::Panic {
                vcpu: index,
                message: message(&**payload),
            });
        }
        control.done();
        ended.ok().map(|()| vcpu)
    })
}

fn run(control: &Control, vcpu: &mut dyn Vcpu, index: usize, meter: &Meter) {
    let failed = |error: EngineError, state| {
        control.report(MachineEvent::Engine {
            vcpu: index,
            error,
            state,
        })
    };
    let attention = &control.attentions[index];
    let mut stats = VcpuStats::default();
    while !control.ends() {
        let start = busy();
        let exit = vcpu.run();
        stats.busy += busy().saturating_sub(start);
        stats.engine = vcpu.statistics();
        meter.tell(index, stats);
        match exit {
            // The next run takes what woke it, the kick too.
            Exit::Halt { wake } => drop(attention.wait(wake | Attention::KICK, None)),
            Exit::Kicked => {}
            Exit::Shutdown => {
                control.report(MachineEvent::TripleFault {
                    vcpu: index,
                    state: saved(vcpu).unwrap_or_default(),
                });
            }
            Exit::Error(e) => failed(e, saved(vcpu)),
        }
    }
}

/// Time that this thread has run, the guest's included: what an engine spends halted is not.
fn busy() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
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
