//! CPUID: what the guest is shown, and what the host can give.

use crate::error::{failed, refused};
use donjon_engine::EngineError;
use donjon_x86::cpuid::{CpuModel, CpuidContext, Features, Leaf};
use donjon_x86::msr;
use kvm_bindings::{
    CpuId, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, Msrs,
    kvm_cpuid_entry2, kvm_msr_entry,
};
use kvm_ioctls::Kvm;

/// Leaves with subleaves, and how many of those say something.
const SUBLEAVES: [(u32, u32); 4] = [(4, 5), (7, 1), (0xb, 3), (0xd, 3)];

/// All that the model says to a vCPU, for KVM_SET_CPUID2. The kernel fills in what depends on the guest's own
/// registers (OSXSAVE, the size of XSAVE's area).
pub fn table(model: &CpuModel, cx: &CpuidContext) -> Result<CpuId, EngineError> {
    let mut entries = vec![];
    for base in [0, 0x4000_0000, 0x8000_0000] {
        let last = model.cpuid(base, 0, cx)[0];
        for leaf in base..=last {
            let subleaves = SUBLEAVES.iter().find(|(l, _)| *l == leaf).map(|(_, n)| *n);
            for index in 0..subleaves.unwrap_or(1) {
                let [eax, ebx, ecx, edx] = model.cpuid(leaf, index, cx);
                entries.push(kvm_cpuid_entry2 {
                    function: leaf,
                    index,
                    flags: if subleaves.is_some() {
                        KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                    } else {
                        0
                    },
                    eax,
                    ebx,
                    ecx,
                    edx,
                    padding: [0; 3],
                });
            }
        }
    }
    CpuId::from_entries(&entries)
        .map_err(|_| failed("the CPU model has more CPUID leaves than the kernel takes"))
}

/// What of all that models may show this host can give.
pub fn supported(kvm: &Kvm) -> Result<Features, EngineError> {
    let all = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    let cpuid = |leaf: u32, subleaf: u32| -> Leaf {
        let of = |e: &&kvm_cpuid_entry2| e.function == leaf && e.index == subleaf;
        let entry = all.as_slice().iter().find(of);
        entry.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    };
    let mut features = Features::of(cpuid, arch_capabilities(kvm))
        // Not of the processor: hypervisor present, several logical processors, OSXSAVE.
        .with(1, 0, 2, 31)
        .with(1, 0, 3, 28)
        .with(1, 0, 2, 27)
        // The kernel's local APIC has it on every host.
        .with(1, 0, 2, 21);
    if kvm.check_extension_raw(KVM_CAP_TSC_DEADLINE_TIMER.into()) > 0 {
        features = features.with(1, 0, 2, 24);
    }
    Ok(features)
}

/// IA32_ARCH_CAPABILITIES as the kernel would show it; none, if it does not say.
fn arch_capabilities(kvm: &Kvm) -> u64 {
    let entry = kvm_msr_entry {
        index: msr::IA32_ARCH_CAPABILITIES,
        ..kvm_msr_entry::default()
    };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else {
        return 0;
    };
    match kvm.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice()[0].data,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_model_says() {
        let model = CpuModel::named("x86-64-v3").unwrap();
        let cx = CpuidContext {
            apic_id: 1,
            vcpus: 2,
            osxsave: false,
            xcr0: 1,
            tsc_hz: 2_500_000_000,
        };
        let table = table(&model, &cx).unwrap();
        for e in table.as_slice() {
            assert_eq!(
                [e.eax, e.ebx, e.ecx, e.edx],
                model.cpuid(e.function, e.index, &cx)
            );
        }
        let has = |leaf, index| {
            table
                .as_slice()
                .iter()
                .any(|e| (e.function, e.index) == (leaf, index))
        };
        for (leaf, index) in [
            (1, 0),
            (4, 3),
            (7, 0),
            (0xb, 1),
            (0xd, 2),
            (0x15, 0),
            (0x4000_0001, 0),
            (0x8000_0008, 0),
        ] {
            assert!(has(leaf, index), "{leaf:#x}.{index}");
        }
    }
}
