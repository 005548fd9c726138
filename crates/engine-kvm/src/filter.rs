//! Which MSRs the kernel handles by itself, and what the guest finds in the others.
//!
//! A guest sees the same registers on every host and every engine: those that the kernel keeps as the board's
//! processor has them it handles, some constants are answered here, and everything else is a general-protection
//! fault, whatever the host's processor or kernel would make of it.

use crate::error::refused;
use crate::raw::Vm;
use donjon_engine::{EngineError, Gp};
use donjon_x86::cpuid::CpuModel;
use donjon_x86::msr::*;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags};

/// First and last of the ranges that the kernel handles.
const KERNEL: [(u32, u32); 13] = [
    (IA32_TSC, IA32_TSC),
    (IA32_TSC_ADJUST, IA32_TSC_ADJUST),
    (IA32_SPEC_CTRL, IA32_PRED_CMD),
    (IA32_SYSENTER_CS, IA32_SYSENTER_EIP),
    (IA32_MCG_STATUS, IA32_MCG_STATUS),
    (IA32_MTRR_PHYSBASE0, IA32_MTRR_PHYSMASK7),
    (IA32_MTRR_FIX64K_00000, IA32_MTRR_FIX4K_F8000),
    (IA32_PAT, IA32_PAT),
    (IA32_MTRR_DEF_TYPE, IA32_MTRR_DEF_TYPE),
    (IA32_TSC_DEADLINE, IA32_TSC_DEADLINE),
    (KVM_WALL_CLOCK_NEW, KVM_SYSTEM_TIME_NEW),
    (IA32_EFER, IA32_FMASK),
    (IA32_FS_BASE, IA32_TSC_AUX),
];
/// IA32_APIC_BASE is the kernel's where the local APIC is.
const APIC_BASE: (u32, u32) = (IA32_APIC_BASE, IA32_APIC_BASE);

/// Reported by IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;

/// Has the kernel leave all other MSRs to us.
pub fn install(vm: &Vm, apic_here: bool) -> Result<(), EngineError> {
    let reasons = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
    let mut enable = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..kvm_enable_cap::default()
    };
    enable.args[0] = reasons.into();
    vm.fd()
        .enable_cap(&enable)
        .map_err(refused("KVM_CAP_X86_USER_SPACE_MSR"))?;
    // One bitmap of ones is long enough for each.
    let ones = [0xff; 16];
    let kernel = KERNEL
        .into_iter()
        .filter(|r| !(apic_here && r.0 == IA32_TSC_DEADLINE));
    let ranges: Vec<_> = kernel
        .chain((!apic_here).then_some(APIC_BASE))
        .map(|(first, last)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: first,
            msr_count: last - first + 1,
            bitmap: &ones,
        })
        .collect();
    vm.fd()
        .set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
        .map_err(refused("KVM_X86_SET_MSR_FILTER"))
}

/// What RDMSR of a register gives that the kernel does not handle.
pub fn read(model: &CpuModel, misc_enable: u64, index: u32) -> Result<u64, Gp> {
    Ok(match index {
        IA32_PLATFORM_ID | IA32_MCG_CAP | IA32_DEBUGCTL => 0,
        // Locked, with nothing enabled.
        IA32_FEATURE_CONTROL => 1,
        // Microcode revision, in the upper half.
        IA32_BIOS_SIGN_ID => 1 << 32,
        IA32_ARCH_CAPABILITIES => model.arch_capabilities(),
        IA32_MTRRCAP => MTRR_CAP,
        IA32_MISC_ENABLE => misc_enable,
        _ => return Err(Gp),
    })
}

/// Whether WRMSR of a register that the kernel does not handle is fine; it changes nothing.
pub fn write(index: u32, value: u64) -> Result<(), Gp> {
    match index {
        IA32_BIOS_SIGN_ID => Ok(()),
        IA32_DEBUGCTL if value & !3 == 0 => Ok(()),
        _ => Err(Gp),
    }
}
