//! The local APIC in the kernel's form: the page of its registers (Intel SDM vol. 3A table 11-1), each mode with
//! its own ID, logical address and command register.

use donjon_x86::{ApicState, LVT_ENTRIES};
use kvm_bindings::kvm_lapic_state;

const ID: usize = 0x20;
const VERSION: usize = 0x30;
const TPR: usize = 0x80;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SVR: usize = 0xf0;
const ISR: usize = 0x100;
const TMR: usize = 0x180;
const IRR: usize = 0x200;
const ESR: usize = 0x280;
const ICR: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT: [usize; LVT_ENTRIES] = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x2f0];
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
/// IA32_APIC_BASE: x2APIC mode.
const X2APIC: u64 = 1 << 10;

fn get(k: &kvm_lapic_state, at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| k.regs[at + i] as u8))
}

fn put(k: &mut kvm_lapic_state, at: usize, value: u32) {
    for (i, b) in value.to_le_bytes().into_iter().enumerate() {
        k.regs[at + i] = b as _;
    }
}

/// The page for the kernel. `was` is the one it has, from which comes what cannot be set.
pub fn page(s: &ApicState, was: &kvm_lapic_state) -> kvm_lapic_state {
    let mut k = *was;
    let x2apic = s.base & X2APIC != 0;
    put(&mut k, ID, if x2apic { s.id } else { s.id << 24 });
    put(&mut k, VERSION, get(was, VERSION));
    put(&mut k, TPR, s.tpr.into());
    if !x2apic {
        put(&mut k, LDR, s.ldr);
    }
    put(&mut k, DFR, s.dfr);
    put(&mut k, SVR, s.svr);
    for (first, set) in [(ISR, &s.isr), (TMR, &s.tmr), (IRR, &s.irr)] {
        for word in 0..8 {
            put(
                &mut k,
                first + word * 16,
                (set[word / 2] >> (word % 2 * 32)) as u32,
            );
        }
    }
    put(&mut k, ESR, s.esr.into());
    put(&mut k, ICR, s.icr as u32);
    put(&mut k, ICR_HIGH, (s.icr >> 32) as u32);
    for (at, entry) in LVT.into_iter().zip(s.lvt) {
        put(&mut k, at, entry);
    }
    put(&mut k, DIVIDE, s.divide);
    put(&mut k, INITIAL_COUNT, s.initial_count);
    put(&mut k, CURRENT_COUNT, s.current_count);
    k
}

/// The state in the page from the kernel. `was` is what the board has of this local APIC: in x2APIC mode the
/// kernel shows another logical address than the one that xAPIC mode would go back to.
pub fn take_page(k: &kvm_lapic_state, base: u64, tsc_deadline: u64, was: &ApicState) -> ApicState {
    let set = |first: usize| -> [u64; 4] {
        std::array::from_fn(|i| {
            let word = |n: usize| get(k, first + n * 16) as u64;
            word(i * 2) | word(i * 2 + 1) << 32
        })
    };
    let x2apic = base & X2APIC != 0;
    ApicState {
        id: was.id,
        base,
        tpr: get(k, TPR) as u8,
        ldr: if x2apic { was.ldr } else { get(k, LDR) },
        dfr: get(k, DFR),
        svr: get(k, SVR),
        isr: set(ISR),
        tmr: set(TMR),
        irr: set(IRR),
        esr: get(k, ESR) as u8,
        // The kernel has no errors that ESR does not show yet.
        errors: 0,
        icr: get(k, ICR) as u64 | (get(k, ICR_HIGH) as u64) << 32,
        lvt: LVT.map(|at| get(k, at)),
        divide: get(k, DIVIDE),
        initial_count: get(k, INITIAL_COUNT),
        current_count: get(k, CURRENT_COUNT),
        tsc_deadline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_as_they_went() {
        for base in [0xfee0_0900, 0xfee0_0d00] {
            let s = ApicState {
                id: 3,
                base,
                tpr: 0x20,
                ldr: 0x0800_0000,
                dfr: u32::MAX,
                svr: 0x1ff,
                isr: [0, 1 << 40, 0, 5],
                tmr: [1 << 33, 0, 7, 0],
                irr: [0, 2, 3 << 31, 4],
                esr: 0x40,
                errors: 0,
                icr: 0x0300_0000_0000_40fd,
                lvt: [1, 2, 3, 4, 5, 6, 7],
                divide: 0xb,
                initial_count: 1000,
                current_count: 500,
                tsc_deadline: 77,
            };
            let page = page(&s, &kvm_lapic_state::default());
            assert_eq!(take_page(&page, base, 77, &s), s);
            assert_eq!(get(&page, ID), if base & X2APIC != 0 { 3 } else { 3 << 24 });
            assert_eq!(get(&page, ISR + 2 * 16 + 16), 1 << 8, "vector 104");
        }
    }
}
