//! Register access: the 4 KiB page of xAPIC mode and the MSRs of x2APIC mode (Intel SDM vol. 3A §11.4.1,
//! 11.12.1.2).

use super::countdown::Mode;
use super::registers::{Lvt, Registers, SVR_DEFINED, error, offset};
use super::{DeliveryMode, Destination, LocalApic, Message};
use donjon_engine::Gp;
use donjon_x86::msr;
use std::sync::atomic::Ordering::SeqCst;

/// Version: an integrated APIC, six LVT entries (IA32_MCG_CAP says that nobody would use the seventh, for corrected
/// machine checks), EOI broadcasts can be suppressed.
const VERSION: u32 = 0x14 | (Lvt::COUNT as u32 - 2) << 16 | 1 << 24;

/// Bits of ICR that can be written. Delivery status (bit 12) is always idle.
const ICR_WRITABLE: u64 = 0xc_cfff;
const ICR_DELIVERY_STATUS: u64 = 1 << 12;

impl LocalApic {
    pub(super) fn register_page_read(&self, at: u16) -> u32 {
        if at & 15 != 0 {
            // Between the registers: reserved, reads as zero.
            return 0;
        }
        match at {
            offset::ID => self.config.id << 24,
            offset::LDR => self.registers.lock().ldr,
            offset::DFR => self.registers.lock().dfr,
            offset::APR => self.arbitration_priority() as u32,
            offset::EOI | offset::RRD => 0,
            offset::ICR_HIGH => (self.registers.lock().icr >> 32) as u32,
            _ => self.common_read(at).unwrap_or_else(|| {
                self.report(&mut self.registers.lock(), error::ILLEGAL_REGISTER);
                0
            }),
        }
    }

    pub(super) fn register_page_write(&self, at: u16, value: u32) {
        if at & 15 != 0 {
            return;
        }
        match at {
            // Read-only in processors that have x2APIC mode.
            offset::ID => {}
            offset::LDR => self.change(|r| r.ldr = value & 0xff00_0000),
            offset::DFR => self.change(|r| r.dfr = value | 0x0fff_ffff),
            offset::ICR_HIGH => {
                let mut r = self.registers.lock();
                r.icr = r.icr & 0xffff_ffff | (value as u64 & 0xff00_0000) << 32;
            }
            offset::ICR => {
                let mut r = self.registers.lock();
                r.icr = r.icr & !0xffff_ffff | value as u64 & ICR_WRITABLE;
                let (icr, id) = (r.icr, (r.icr >> 56) as u32);
                drop(r);
                self.send_ipi(icr as u32, id);
            }
            offset::VERSION
            | offset::APR
            | offset::PPR
            | offset::RRD
            | offset::ISR..=offset::IRR_LAST
            | offset::CURRENT_COUNT => {}
            _ => {
                if !self.common_write(at, value) {
                    self.report(&mut self.registers.lock(), error::ILLEGAL_REGISTER);
                }
            }
        }
    }

    pub(super) fn msr_read(&self, index: u32) -> Result<u64, Gp> {
        match index {
            msr::IA32_APIC_BASE => Ok(self.base.load(SeqCst)),
            msr::IA32_TSC_DEADLINE => Ok(self.read_tsc_deadline()),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if self.x2apic() => {
                let Some(at) = x2apic_offset(index) else {
                    return Err(Gp);
                };
                match at {
                    offset::ID => Ok(self.config.id as u64),
                    offset::LDR => Ok(self.x2apic_ldr() as u64),
                    offset::ICR => Ok(self.registers.lock().icr),
                    _ => self.common_read(at).map(u64::from).ok_or(Gp),
                }
            }
            _ => Err(Gp),
        }
    }

    pub(super) fn msr_write(&self, index: u32, value: u64) -> Result<(), Gp> {
        match index {
            msr::IA32_APIC_BASE => self.write_base(value),
            msr::IA32_TSC_DEADLINE => {
                self.change_timer(&mut self.registers.lock(), |r, _| {
                    if r.timer_mode() == Mode::TscDeadline {
                        r.set_deadline(value, &self.clock);
                    }
                });
                Ok(())
            }
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if self.x2apic() => {
                self.x2apic_write(x2apic_offset(index).ok_or(Gp)?, value)
            }
            _ => Err(Gp),
        }
    }

    fn x2apic_write(&self, at: u16, value: u64) -> Result<(), Gp> {
        if at == offset::ICR {
            let low = value & 0xffff_ffff & !ICR_DELIVERY_STATUS;
            if low & !ICR_WRITABLE != 0 {
                return Err(Gp);
            }
            let icr = value & !0xffff_ffff | low;
            self.registers.lock().icr = icr;
            self.send_ipi(icr as u32, (icr >> 32) as u32);
            return Ok(());
        }
        // Bits that must be zero (Intel SDM vol. 3A §11.12.1.3).
        let defined = match at {
            offset::TPR | offset::SELF_IPI => 0xff,
            offset::EOI | offset::ESR => 0,
            offset::SVR => SVR_DEFINED,
            offset::INITIAL_COUNT => u32::MAX,
            offset::DIVIDE => 0xb,
            _ => Lvt::at(at).ok_or(Gp)?.defined(),
        };
        if value & !(defined as u64) != 0 {
            return Err(Gp);
        }
        if at == offset::SELF_IPI {
            // Fixed, edge, to this processor only (Intel SDM vol. 3A §11.12.11).
            self.send_ipi(1 << 18 | value as u32, 0);
            return Ok(());
        }
        if self.common_write(at, value as u32) {
            Ok(())
        } else {
            Err(Gp)
        }
    }

    /// Registers that both modes read alike.
    fn common_read(&self, at: u16) -> Option<u32> {
        let set = |first: u16| (at - first) as usize / 16;
        Some(match at {
            offset::VERSION => VERSION,
            offset::TPR => self.tpr.load(SeqCst) as u32,
            offset::PPR => self.ppr.load(SeqCst) as u32,
            offset::ISR..=offset::ISR_LAST => self.isr.register(set(offset::ISR)),
            offset::TMR..=offset::TMR_LAST => self.tmr.register(set(offset::TMR)),
            offset::IRR..=offset::IRR_LAST => self.irr.register(set(offset::IRR)),
            offset::SVR => self.registers.lock().svr,
            offset::ESR => self.registers.lock().esr as u32,
            offset::ICR => self.registers.lock().icr as u32,
            offset::INITIAL_COUNT => self.registers.lock().initial_count,
            offset::CURRENT_COUNT => {
                let mut r = self.registers.lock();
                let now = self.settle_timer(&mut r);
                r.current_count(now)
            }
            offset::DIVIDE => self.registers.lock().divide,
            _ => {
                let which = Lvt::at(at)?;
                self.registers.lock().lvt(which)
            }
        })
    }

    /// Registers that both modes write alike; whether `at` is one.
    fn common_write(&self, at: u16, value: u32) -> bool {
        match at {
            offset::TPR => self.set_tpr(value as u8),
            offset::EOI => self.end_of_interrupt(),
            offset::SVR => self.change(|r| {
                r.svr = value & SVR_DEFINED;
                if !r.software_enabled() {
                    // Disabling masks every entry, and they stay masked (Intel SDM vol. 3A §11.4.7.2).
                    self.change_timer(r, |r, _| r.lvt.iter_mut().for_each(|v| *v |= Lvt::MASKED));
                }
            }),
            offset::ESR => {
                let mut r = self.registers.lock();
                r.esr = std::mem::take(&mut r.errors);
            }
            offset::INITIAL_COUNT => self.change_timer(&mut self.registers.lock(), |r, now| {
                // Ignored in TSC-deadline mode (Intel SDM vol. 3A §11.5.4.1).
                if r.timer_mode() != Mode::TscDeadline {
                    r.start_count(value, now);
                }
            }),
            offset::DIVIDE => {
                self.change_timer(&mut self.registers.lock(), |r, now| r.set_divide(value, now))
            }
            _ => match Lvt::at(at) {
                Some(which) => self.write_lvt(which, value),
                None => return false,
            },
        }
        true
    }

    fn write_lvt(&self, which: Lvt, value: u32) {
        self.change(|r| {
            let masked = if r.software_enabled() { 0 } else { Lvt::MASKED };
            let new = value & which.writable() | masked;
            if which != Lvt::Timer {
                r.lvt[which as usize] = new;
                return;
            }
            self.change_timer(r, |r, _| {
                let was = r.timer_mode();
                r.lvt[Lvt::Timer as usize] = new;
                if (was == Mode::TscDeadline) != (r.timer_mode() == Mode::TscDeadline) {
                    // A change between the counter and the deadline disarms both (§11.5.4.1).
                    r.stop_timer();
                }
            });
        });
    }

    /// Changes registers that sources or senders look at.
    fn change(&self, f: impl FnOnce(&mut Registers)) {
        let mut r = self.registers.lock();
        f(&mut r);
        self.publish(&r);
    }

    fn read_tsc_deadline(&self) -> u64 {
        let mut r = self.registers.lock();
        self.settle_timer(&mut r);
        r.tsc_deadline
    }

    /// Arbitration priority (Intel SDM vol. 3A §11.6.2.4).
    fn arbitration_priority(&self) -> u8 {
        let (tpr, irr, isr) = (
            self.tpr.load(SeqCst),
            self.irr.highest().unwrap_or(0),
            self.isr.highest().unwrap_or(0),
        );
        if tpr >> 4 >= irr >> 4 && tpr >> 4 > isr >> 4 {
            tpr
        } else {
            (tpr & 0xf0).max(irr & 0xf0).max(isr & 0xf0)
        }
    }

    /// Issues an interprocessor interrupt (Intel SDM vol. 3A §11.6.1). No lock is held.
    fn send_ipi(&self, icr: u32, id: u32) {
        let mode = DeliveryMode::from_bits(icr >> 8);
        let assert = icr & 1 << 14 != 0;
        let level = icr & 1 << 15 != 0;
        match mode {
            // INIT level de-assert only ever set arbitration IDs.
            DeliveryMode::Init if level && !assert => return,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if icr as u8 <= 15 => {
                return self.report(&mut self.registers.lock(), error::SEND_ILLEGAL_VECTOR);
            }
            DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::ExtInt => return,
            _ => {}
        }
        let destination = Destination {
            id,
            logical: icr & 1 << 11 != 0,
        };
        // Trigger mode is ignored but for INIT: interprocessor interrupts are edges.
        let m = Message {
            destination,
            mode,
            vector: icr as u8,
            level: false,
            redirect: false,
        };
        let everybody = Destination {
            id: Message::BROADCAST,
            logical: false,
        };
        match icr >> 18 & 3 {
            1 => {
                if matches!(mode, DeliveryMode::Fixed | DeliveryMode::Nmi) {
                    self.accept(&m);
                }
            }
            shorthand => {
                let Some(bus) = self.bus.upgrade() else { return };
                let all = Message {
                    destination: everybody,
                    ..m
                };
                match shorthand {
                    0 => bus.deliver_here(&m, None),
                    2 => bus.deliver_here(&all, None),
                    _ => bus.deliver_here(&all, Some(self.config.id)),
                };
            }
        }
    }
}

/// The page offset that an x2APIC MSR stands for, if it exists in x2APIC mode.
fn x2apic_offset(index: u32) -> Option<u16> {
    let at = (index - msr::X2APIC_FIRST) as u16 * 16;
    let gone = matches!(at, offset::APR | offset::RRD | offset::DFR | offset::ICR_HIGH);
    (!gone && at <= offset::SELF_IPI).then_some(at)
}
