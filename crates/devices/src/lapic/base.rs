//! IA32_APIC_BASE: where the registers are and in which mode (Intel SDM vol. 3A §11.4.4, 11.12.1, 11.12.5).

use super::LocalApic;
use donjon_engine::Gp;
use std::sync::atomic::Ordering::SeqCst;

pub(super) const BOOTSTRAP: u64 = 1 << 8;
pub(super) const X2APIC: u64 = 1 << 10;
pub(super) const ENABLE: u64 = 1 << 11;
const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

pub(super) fn reset(bootstrap: bool) -> u64 {
    DEFAULT_ADDRESS | ENABLE | if bootstrap { BOOTSTRAP } else { 0 }
}

/// Whether `value` is a possible value for a processor with this many physical address bits.
pub(super) fn is_legal(value: u64, physical_bits: u8) -> bool {
    let address = u64::MAX
        .checked_shr(64 - physical_bits.clamp(1, 64) as u32)
        .unwrap_or(0)
        & !0xfff;
    value & !(address | BOOTSTRAP | X2APIC | ENABLE) == 0 && value & (X2APIC | ENABLE) != X2APIC
}

impl LocalApic {
    pub(super) fn hardware_enabled(&self) -> bool {
        self.base.load(SeqCst) & ENABLE != 0
    }

    pub(super) fn x2apic(&self) -> bool {
        self.base.load(SeqCst) & (ENABLE | X2APIC) == ENABLE | X2APIC
    }

    /// WRMSR: the transitions of figure 11-27.
    pub(super) fn write_base(&self, value: u64) -> Result<(), Gp> {
        const MODE: u64 = ENABLE | X2APIC;
        let was = self.base.load(SeqCst);
        if !is_legal(value, self.config.physical_bits) {
            return Err(Gp);
        }
        match (was & MODE, value & MODE) {
            // x2APIC mode is entered from xAPIC mode only, and left by disabling only.
            (0, MODE) | (MODE, ENABLE) => return Err(Gp),
            (_, 0) => {
                self.base.store(value, SeqCst);
                // What a processor finds when it enables the APIC again.
                self.reset_registers();
            }
            (ENABLE, MODE) => {
                self.base.store(value, SeqCst);
                let mut r = self.registers.lock();
                r.icr &= 0xffff_ffff;
                self.publish(&r);
            }
            _ => {
                self.base.store(value, SeqCst);
                self.publish(&self.registers.lock());
            }
        }
        Ok(())
    }
}
