//! Local APICs that are elsewhere: in an engine, which takes the state from here and brings it back.

use super::cluster::Way;
use super::countdown::Mode;
use super::registers::Registers;
use super::{ApicBus, LocalApic, base};
use donjon_engine::{LocalApics, RemoteApics};
use donjon_x86::ApicState;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

impl LocalApic {
    /// All that the guest could notice of it, as it is now.
    pub fn state(&self) -> ApicState {
        let mut r = self.registers.lock();
        let now = self.settle_timer(&mut r);
        ApicState {
            id: self.config.id,
            base: self.base.load(SeqCst),
            tpr: self.tpr.load(SeqCst),
            ldr: r.ldr,
            dfr: r.dfr,
            svr: r.svr,
            isr: self.isr.get(),
            tmr: self.tmr.get(),
            irr: self.irr.get(),
            esr: r.esr,
            errors: r.errors,
            icr: r.icr,
            lvt: r.lvt,
            divide: r.divide,
            initial_count: r.initial_count,
            current_count: r.current_count(now),
            tsc_deadline: r.tsc_deadline,
        }
    }

    /// Replaces that. The levels at the pins stay as they are.
    pub fn set_state(&self, s: &ApicState) -> Result<(), String> {
        if s.id != self.config.id {
            return Err(format!(
                "state of local APIC {} for local APIC {}",
                s.id, self.config.id
            ));
        }
        if !base::is_legal(s.base, self.config.physical_bits) {
            return Err(format!("IA32_APIC_BASE cannot be {:#x}", s.base));
        }
        let mut r = self.registers.lock();
        *r = Registers {
            ldr: s.ldr,
            dfr: s.dfr,
            svr: s.svr,
            esr: s.esr,
            errors: s.errors,
            icr: s.icr,
            lvt: s.lvt,
            lint: r.lint,
            divide: s.divide,
            initial_count: s.initial_count,
            timer_due: None,
            tsc_deadline: 0,
        };
        match r.timer_mode() {
            Mode::TscDeadline => r.set_deadline(s.tsc_deadline, &self.clock),
            _ => r.go_on_counting(s.current_count, self.clock.nanoseconds()),
        }
        self.base.store(s.base, SeqCst);
        for (set, words) in [(&self.irr, s.irr), (&self.isr, s.isr), (&self.tmr, s.tmr)] {
            set.set(words);
        }
        self.tpr.store(s.tpr, SeqCst);
        self.update_priority();
        self.change_timer(&mut r, |_, _| ());
        self.publish(&r);
        Ok(())
    }

    /// Nothing happens here from now on.
    fn sleep(&self) {
        self.timer.cancel();
    }

    /// What was due is done.
    fn wake(&self) {
        self.change_timer(&mut self.registers.lock(), |_, _| ());
        self.raise_if_pending();
    }

    fn extint_asked(&self) -> bool {
        self.registers.lock().lint[0] || self.extint_message.load(SeqCst)
    }
}

impl ApicBus {
    fn apic(&self, vcpu: usize) -> Arc<LocalApic> {
        self.apics()[vcpu].clone()
    }
}

impl LocalApics for ApicBus {
    fn hold(&self) {
        let mut way = self.way_mut();
        if !matches!(*way, Way::Held(_)) {
            *way = Way::Held(vec![]);
        }
    }

    fn release(&self, to: Option<Arc<dyn RemoteApics>>) {
        for apic in self.apics() {
            match to {
                Some(_) => apic.sleep(),
                None => apic.wake(),
            }
        }
        let way = match &to {
            Some(remote) => Way::Away(remote.clone()),
            None => Way::Here,
        };
        let was = std::mem::replace(&mut *self.way_mut(), way);
        // Told after the change: a pin that changes now tells by itself.
        if let Some(remote) = &to {
            self.tell_levels(&**remote);
        }
        if let Way::Held(waiting) = was {
            for m in &waiting {
                self.deliver(m);
            }
        }
    }

    fn save(&self, vcpu: usize) -> ApicState {
        self.apic(vcpu).state()
    }

    fn load(&self, vcpu: usize, state: &ApicState) -> Result<(), String> {
        self.apic(vcpu).set_state(state)
    }

    fn end_of_interrupt(&self, vector: u8) {
        ApicBus::end_of_interrupt(self, vector);
    }

    fn extint(&self, vcpu: usize) -> bool {
        self.apic(vcpu).extint_asked()
    }

    fn acknowledge_extint(&self, vcpu: usize) -> Option<u8> {
        self.apic(vcpu).extint_vector()
    }
}
