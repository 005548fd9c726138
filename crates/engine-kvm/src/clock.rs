//! The domain's time in the kernel: time-stamp counters and the paravirtual clock.
//!
//! A guest's counter is the host's, scaled where the frequencies differ, plus an offset that all vCPUs of a domain
//! share (but for what the guest itself adds, IA32_TSC_ADJUST), so the kernel sees that they agree and gives the
//! guest a clock that it need not correct. Both counters go on from what the domain's [`Clock`] says when the first
//! vCPU is loaded, and the clock goes on from them when the vCPUs leave. Readings are taken in an order that makes
//! time at most a little longer, never run backwards.

use crate::error::{failed, refused};
use crate::raw::{Vcpu, Vm};
use donjon_engine::{Clock, EngineError};
use donjon_x86::msr::IA32_TSC;
use kvm_bindings::{KVM_CAP_TSC_CONTROL, Msrs, kvm_clock_data, kvm_msr_entry};
use kvm_ioctls::Kvm;
use std::sync::{Arc, Mutex};

/// How the domain's time relates to the host's.
pub struct TimeBase {
    clock: Arc<Clock>,
    /// The offset that all vCPUs share, once the first is loaded.
    offset: Mutex<Option<u64>>,
}

impl TimeBase {
    /// Of a domain that has not run here yet.
    pub fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            offset: Mutex::new(None),
        }
    }

    /// Has a vCPU's counter run at the domain's frequency.
    pub fn set_frequency(vcpu: &Vcpu, clock: &Clock) -> Result<(), EngineError> {
        let khz = (clock.hz() / 1000) as u32;
        let host = vcpu.fd().get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
        if host == khz {
            return Ok(());
        }
        vcpu.fd().set_tsc_khz(khz).map_err(|_| EngineError::Unsupported {
            engine: crate::NAME,
            what: format!(
                "the domain's time-stamp counter runs at {khz} kHz, this host's at {host} kHz, and its processor \
                 cannot scale it"
            ),
            fix: "continue on `--engine soft`, or start it anew here".into(),
        })
    }

    /// Sets a vCPU's counter, of which the guest has set IA32_TSC_ADJUST to `adjust`; with the first vCPU, the
    /// paravirtual clock too. No vCPU runs before the first is done.
    pub fn start(&self, vcpu: &Vcpu, adjust: u64) -> Result<(), EngineError> {
        let mut offset = self.offset.lock().unwrap_or_else(|e| e.into_inner());
        let base = match *offset {
            Some(base) => base,
            None => {
                let before = vcpu.tsc_offset().map_err(refused("KVM_VCPU_TSC_OFFSET"))?;
                let host = read_tsc(vcpu)?.wrapping_sub(before);
                let now = self.clock.nanoseconds();
                let data = kvm_clock_data {
                    clock: self.clock.system_time_at(now),
                    ..kvm_clock_data::default()
                };
                vcpu.vm()
                    .fd()
                    .set_clock(&data)
                    .map_err(refused("KVM_SET_CLOCK"))?;
                *offset.insert(self.clock.tsc_at(now).wrapping_sub(host))
            }
        };
        vcpu.set_tsc_offset(base.wrapping_add(adjust))
            .map_err(refused("KVM_VCPU_TSC_OFFSET"))
    }

    /// Has the domain's clock go on from where this vCPU's counter and the paravirtual clock are. None runs.
    pub fn stop(&self, vcpu: &Vcpu, adjust: u64) -> Result<(), EngineError> {
        let now = self.clock.nanoseconds();
        let tsc = read_tsc(vcpu)?.wrapping_sub(adjust);
        self.clock.went_on(now, tsc, system_time(vcpu.vm())?);
        *self.offset.lock().unwrap_or_else(|e| e.into_inner()) = None;
        Ok(())
    }
}

/// The frequency that every guest's counter has on this host, in Hz; `None` if the processor scales it to any.
pub fn only_frequency(kvm: &Kvm) -> Result<Option<u64>, EngineError> {
    if kvm.check_extension_raw(KVM_CAP_TSC_CONTROL.into()) > 0 {
        return Ok(None);
    }
    let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    let khz = vcpu.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
    Ok(Some(u64::from(khz) * 1000))
}

fn system_time(vm: &Vm) -> Result<u64, EngineError> {
    let data = vm.fd().get_clock().map_err(refused("KVM_GET_CLOCK"))?;
    Ok(data.clock)
}

fn read_tsc(vcpu: &Vcpu) -> Result<u64, EngineError> {
    read_msr(vcpu, IA32_TSC)?.ok_or_else(|| failed("KVM_GET_MSRS: no time-stamp counter"))
}

/// An MSR; `None` if the kernel does not know it.
pub fn read_msr(vcpu: &Vcpu, index: u32) -> Result<Option<u64>, EngineError> {
    let entry = kvm_msr_entry {
        index,
        ..kvm_msr_entry::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).map_err(|_| failed("no room for one MSR"))?;
    let read = vcpu.fd().get_msrs(&mut msrs).map_err(refused("KVM_GET_MSRS"))?;
    Ok((read == 1).then(|| msrs.as_slice()[0].data))
}

/// Sets an MSR; whether the kernel knows it and takes the value.
pub fn write_msr(vcpu: &Vcpu, index: u32, data: u64) -> Result<bool, EngineError> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let msrs = Msrs::from_entries(&[entry]).map_err(|_| failed("no room for one MSR"))?;
    let written = vcpu.fd().set_msrs(&msrs).map_err(refused("KVM_SET_MSRS"))?;
    Ok(written == 1)
}
