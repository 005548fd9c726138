//! Model-specific registers that belong to a vCPU's state.

use donjon_x86::{Msrs, msr};

/// One of them: its number and where it is kept.
type Place = (u32, fn(&mut Msrs) -> &mut u64);

/// All but IA32_EFER, which goes with the control registers, IA32_MISC_ENABLE, which the guest reads here and not in
/// the kernel, IA32_XSS, which no CPU model has, and the MTRRs.
const PLACES: [Place; 15] = [
    (msr::IA32_STAR, |m| &mut m.star),
    (msr::IA32_LSTAR, |m| &mut m.lstar),
    (msr::IA32_CSTAR, |m| &mut m.cstar),
    (msr::IA32_FMASK, |m| &mut m.fmask),
    (msr::IA32_KERNEL_GS_BASE, |m| &mut m.kernel_gs_base),
    (msr::IA32_SYSENTER_CS, |m| &mut m.sysenter_cs),
    (msr::IA32_SYSENTER_ESP, |m| &mut m.sysenter_esp),
    (msr::IA32_SYSENTER_EIP, |m| &mut m.sysenter_eip),
    (msr::IA32_TSC_AUX, |m| &mut m.tsc_aux),
    (msr::IA32_TSC_ADJUST, |m| &mut m.tsc_adjust),
    (msr::IA32_PAT, |m| &mut m.pat),
    (msr::IA32_SPEC_CTRL, |m| &mut m.spec_ctrl),
    (msr::IA32_MCG_STATUS, |m| &mut m.mcg_status),
    (msr::KVM_WALL_CLOCK_NEW, |m| &mut m.kvm_wall_clock),
    // Last: the clock's record is written with what is set by then.
    (msr::KVM_SYSTEM_TIME_NEW, |m| &mut m.kvm_system_time),
];

const FIXED: [u32; 3] = [
    msr::IA32_MTRR_FIX64K_00000,
    msr::IA32_MTRR_FIX16K_80000,
    msr::IA32_MTRR_FIX16K_A0000,
];

/// The memory-type range registers, in order.
fn mtrrs(m: &mut Msrs) -> impl Iterator<Item = (u32, &mut u64)> {
    let fixed = FIXED
        .into_iter()
        .chain(msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000);
    let variable = msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7;
    let fixed = fixed.zip(m.mtrr_fixed.iter_mut());
    let variable = variable.zip(m.mtrr_variable.iter_mut());
    fixed
        .chain(variable)
        .chain([(msr::IA32_MTRR_DEF_TYPE, &mut m.mtrr_def_type)])
}

/// Every number with its value, in the order in which they are to be written.
pub fn list(m: &Msrs) -> Vec<(u32, u64)> {
    let mut m = *m;
    let mut all: Vec<_> = mtrrs(&mut m).map(|(n, v)| (n, *v)).collect();
    all.extend(PLACES.map(|(n, place)| (n, *place(&mut m))));
    all
}

/// Keeps the value of one; whether it is one of these.
pub fn take(m: &mut Msrs, number: u32, value: u64) -> bool {
    let found = PLACES.iter().find(|(n, _)| *n == number);
    let place = match found {
        Some((_, place)) => Some(place(m)),
        None => mtrrs(m).find(|(n, _)| *n == number).map(|(_, v)| v),
    };
    place.map(|v| *v = value).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_there_once_and_comes_back() {
        let list = list(&Msrs::default());
        let mut back = Msrs::default();
        for (i, (number, _)) in list.iter().enumerate() {
            assert!(take(&mut back, *number, 1000 + i as u64));
        }
        let again = super::list(&back);
        assert_eq!(again.len(), 15 + 11 + 16 + 1);
        for (i, (number, value)) in again.iter().enumerate() {
            assert_eq!(
                (*number, *value),
                (list[i].0, 1000 + i as u64),
                "none is in two places"
            );
        }
        assert!(!take(&mut back, msr::IA32_EFER, 0));
    }
}
