//! Saving and restoring a local APIC.

use super::registers::{Lvt, Registers};
use super::{LocalApic, base};
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use donjon_engine::Attention;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::SeqCst;

#[derive(Serialize, Deserialize)]
struct State {
    base: u64,
    irr: [u64; 4],
    isr: [u64; 4],
    tmr: [u64; 4],
    tpr: u8,
    extint_message: bool,
    /// NMI, INIT and start-up messages that the processor has not taken yet, as attention bits.
    messages: u32,
    registers: Registers,
}

impl Saved for State {
    const KIND: &'static str = "lapic";
    const VERSION: u16 = 1;
}

const MESSAGES: u32 = Attention::NMI | Attention::INIT | Attention::SIPI;

impl State {
    fn check(&self, physical_bits: u8) -> Result<(), RestoreError> {
        let r = &self.registers;
        let illegal = |set: &[u64; 4]| set[0] & 0xffff != 0;
        if !base::is_legal(self.base, physical_bits) {
            return Err(Self::damaged(format!(
                "IA32_APIC_BASE cannot be {:#x}",
                self.base
            )));
        }
        if illegal(&self.irr) || illegal(&self.isr) {
            return Err(Self::damaged("vectors 0-15 are requested or in service"));
        }
        let entries = [
            Lvt::Timer,
            Lvt::Thermal,
            Lvt::Performance,
            Lvt::Lint0,
            Lvt::Lint1,
            Lvt::Error,
            Lvt::Cmci,
        ];
        if entries.iter().any(|&e| r.lvt(e) & !e.defined() != 0)
            || r.svr & !super::registers::SVR_DEFINED != 0
            || r.divide & !0xb != 0
        {
            return Err(Self::damaged("reserved register bits are set"));
        }
        Ok(())
    }
}

impl Lifecycle for LocalApic {
    fn reset(&self) {
        self.base.store(base::reset(self.config.bootstrap), SeqCst);
        self.attention.take(MESSAGES | Attention::INTERRUPT);
        self.reset_registers();
    }

    fn migrate(&self) -> Migrate {
        State {
            base: self.base.load(SeqCst),
            irr: self.irr.get(),
            isr: self.isr.get(),
            tmr: self.tmr.get(),
            tpr: self.tpr.load(SeqCst),
            extint_message: self.extint_message.load(SeqCst),
            messages: self.attention.bits() & (MESSAGES | 0xff00),
            registers: self.registers.lock().clone(),
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = State::open(record)?;
        state.check(self.config.physical_bits)?;
        let mut r = self.registers.lock();
        *r = state.registers;
        self.base.store(state.base, SeqCst);
        for (set, words) in [
            (&self.irr, state.irr),
            (&self.isr, state.isr),
            (&self.tmr, state.tmr),
        ] {
            set.set(words);
        }
        self.tpr.store(state.tpr, SeqCst);
        self.update_priority();
        self.extint_message.store(state.extint_message, SeqCst);
        self.attention.take(MESSAGES | Attention::INTERRUPT);
        self.attention
            .raise(state.messages & (Attention::NMI | Attention::INIT));
        if state.messages & Attention::SIPI != 0 {
            self.attention.raise_sipi((state.messages >> 8) as u8);
        }
        self.change_timer(&mut r, |_, _| ());
        self.publish(&r);
        Ok(())
    }
}
