//! Events under way, and what a vCPU is doing.

use donjon_x86::{Activity, CpuState, PendingEvent, exception};
use kvm_bindings::*;

/// Interrupt shadow, either kind (KVM_X86_SHADOW_INT_*): STI and MOV SS hold interrupts off alike here.
const SHADOW_ANY: u8 = 3;
const SHADOW_STI: u8 = 2;

/// Events for the kernel. `nmi`: one waits.
pub fn events(s: &CpuState, nmi: bool) -> kvm_vcpu_events {
    let mut e = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    e.interrupt.shadow = if s.interrupt_shadow { SHADOW_STI } else { 0 };
    e.nmi.masked = s.nmi_blocked.into();
    e.nmi.pending = nmi.into();
    match s.pending {
        Some(p) if p.vector == exception::NMI => e.nmi.injected = 1,
        // The manual numbers exceptions below 32; the rest came from outside.
        Some(p) if p.vector >= 32 => (e.interrupt.injected, e.interrupt.nr) = (1, p.vector),
        Some(p) => {
            (e.exception.injected, e.exception.nr) = (1, p.vector);
            e.exception.has_error_code = p.error_code.is_some().into();
            e.exception.error_code = p.error_code.unwrap_or(0);
        }
        None => {}
    }
    e
}

/// Events from the kernel; whether an NMI waits.
pub fn take_events(e: &kvm_vcpu_events, s: &mut CpuState) -> bool {
    s.interrupt_shadow = e.interrupt.shadow & SHADOW_ANY != 0;
    s.nmi_blocked = e.nmi.masked != 0;
    let vector = |vector, error_code| Some(PendingEvent { vector, error_code });
    s.pending = if e.exception.injected != 0 || e.exception.pending != 0 {
        let code = (e.exception.has_error_code != 0).then_some(e.exception.error_code);
        vector(e.exception.nr, code)
    } else if e.nmi.injected != 0 {
        vector(exception::NMI, None)
    } else if e.interrupt.injected != 0 {
        vector(e.interrupt.nr, None)
    } else {
        None
    };
    e.nmi.pending != 0
}

/// What the vCPU is doing, for the kernel.
pub fn mp_state(activity: Activity) -> kvm_mp_state {
    let mp_state = match activity {
        Activity::Active | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

/// What the vCPU is doing, from the kernel.
pub fn take_mp_state(state: kvm_mp_state) -> Activity {
    match state.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Active,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_they_went() {
        let event = |vector, error_code| Some(PendingEvent { vector, error_code });
        for pending in [
            None,
            event(2, None),
            event(14, Some(6)),
            event(6, None),
            event(0x41, None),
        ] {
            for flags in 0..8 {
                let s = CpuState {
                    pending,
                    interrupt_shadow: flags & 1 != 0,
                    nmi_blocked: flags & 2 != 0,
                    ..CpuState::reset()
                };
                let mut back = CpuState::reset();
                assert_eq!(
                    take_events(&events(&s, flags & 4 != 0), &mut back),
                    flags & 4 != 0
                );
                assert_eq!(back, s);
            }
        }
    }

    #[test]
    fn activities_come_back_as_they_went() {
        for a in [Activity::Active, Activity::Halted, Activity::WaitForSipi] {
            assert_eq!(take_mp_state(mp_state(a)), a);
        }
    }
}
