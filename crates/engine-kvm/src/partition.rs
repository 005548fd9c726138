//! A domain's virtual machine.

use crate::clock::TimeBase;
use crate::error::{failed, refused};
use crate::raw::{self, Vm};
use crate::remote::{PINS, Remote};
use crate::vcpu::KvmVcpu;
use crate::{cpuid, filter};
use donjon_engine::{Attention, CpuIo, EngineError, LocalApic, LocalApics, Partition, PartitionConfig, Vcpu};
use donjon_x86::cpuid::{CpuModel, CpuidContext};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use kvm_ioctls::Kvm;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Where the kernel keeps three pages of its own for processors that cannot run real mode (KVM_SET_TSS_ADDR), and
/// one before them: at the end of the 32-bit device hole, where the board has nothing.
const TSS: u64 = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What the vCPUs of a domain have in common.
pub struct Shared {
    pub vm: Arc<Vm>,
    pub io: Arc<dyn CpuIo>,
    pub model: Arc<CpuModel>,
    pub time: TimeBase,
    /// The board's local APICs, if the kernel's are used.
    pub apics: Option<Arc<dyn LocalApics>>,
    pub count: usize,
    /// vCPUs that have taken over the state of their local APICs.
    arrived: AtomicUsize,
}

impl Shared {
    /// A vCPU's local APIC has come from the board. When all have, messages follow.
    pub fn arrive(&self) {
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.count
            && let Some(apics) = &self.apics
        {
            apics.release(Some(Arc::new(Remote(self.vm.clone()))));
        }
    }

    /// A vCPU's local APIC is about to go back to the board: no message goes to the kernel any more.
    pub fn depart(&self) {
        self.arrived.store(0, SeqCst);
        if let Some(apics) = &self.apics {
            apics.hold();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(apics) = &self.apics {
            apics.release(None);
        }
    }
}

/// One vCPU before its thread takes it.
struct Seat {
    fd: raw::Vcpu,
    apic: Arc<dyn LocalApic>,
    attention: Arc<Attention>,
}

/// One domain's vCPUs.
pub struct KvmPartition {
    shared: Arc<Shared>,
    seats: Vec<Mutex<Option<Seat>>>,
}

impl KvmPartition {
    /// Makes the virtual machine and its vCPUs, so that whatever the host lacks is known before anything runs.
    pub fn new(kvm: &Kvm, config: PartitionConfig) -> Result<Self, EngineError> {
        let lacking = config.model.features().without(&cpuid::supported(kvm)?).names();
        if !lacking.is_empty() {
            return Err(EngineError::Unsupported {
                engine: crate::NAME,
                what: format!(
                    "the domain's processor has {}, which this host cannot give it",
                    lacking.join(", ")
                ),
                fix: "continue on `--engine soft`, or start it anew here".into(),
            });
        }
        let vm = Vm::new(kvm, config.ram).map_err(refused("making a virtual machine with its memory"))?;
        vm.fd()
            .set_identity_map_address(IDENTITY_MAP)
            .map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.fd()
            .set_tss_address(TSS as usize)
            .map_err(refused("KVM_SET_TSS_ADDR"))?;
        filter::install(&vm, config.apics.is_none())?;
        let enable = |cap: u32, argument: u64| {
            let mut enable = kvm_enable_cap {
                cap,
                ..kvm_enable_cap::default()
            };
            enable.args[0] = argument;
            vm.fd().enable_cap(&enable)
        };
        if config.apics.is_some() {
            enable(KVM_CAP_SPLIT_IRQCHIP, PINS)
                .map_err(refused("local APICs in the kernel (KVM_CAP_SPLIT_IRQCHIP)"))?;
            let ids = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
            enable(KVM_CAP_X2APIC_API, ids.into()).map_err(refused("KVM_CAP_X2APIC_API"))?;
        }
        let count = config.vcpus.len();
        let mut seats = vec![];
        for (index, vcpu) in config.vcpus.into_iter().enumerate() {
            let fd = vm.vcpu(index as u64).map_err(refused("KVM_CREATE_VCPU"))?;
            let cx = CpuidContext {
                apic_id: index as u32,
                vcpus: count as u32,
                osxsave: false,
                xcr0: 1,
                tsc_hz: config.clock.hz(),
            };
            fd.fd()
                .set_cpuid2(&cpuid::table(&config.model, &cx)?)
                .map_err(refused("KVM_SET_CPUID2"))?;
            TimeBase::set_frequency(&fd, &config.clock)?;
            seats.push(Mutex::new(Some(Seat {
                fd,
                apic: vcpu.apic,
                attention: vcpu.attention,
            })));
        }
        if let Some(apics) = &config.apics {
            apics.hold();
        }
        let shared = Shared {
            vm,
            io: config.io,
            model: config.model,
            time: TimeBase::new(config.clock),
            apics: config.apics,
            count,
            arrived: AtomicUsize::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
            seats,
        })
    }
}

impl Partition for KvmPartition {
    fn take_vcpu(&self, index: usize) -> Result<Box<dyn Vcpu>, EngineError> {
        let seat = self
            .seats
            .get(index)
            .ok_or_else(|| failed(format!("there is no vCPU {index}")))?;
        let seat = seat.lock().unwrap_or_else(|e| e.into_inner()).take();
        let seat = seat.ok_or_else(|| failed(format!("vCPU {index} was taken before")))?;
        Ok(Box::new(KvmVcpu::new(
            index,
            seat.fd,
            seat.apic,
            seat.attention,
            self.shared.clone(),
        )))
    }
}
