//! One vCPU: runs the guest and does for it what the kernel leaves to us.

use crate::error::{failed, refused};
use crate::partition::Shared;
use crate::raw::{self, Listening, RawExit};
use crate::{exits, filter};
use donjon_engine::{Attention, EngineError, Exit, Gp, HardwareExits, LocalApic, Statistics, Vcpu};
use donjon_x86::msr::{IA32_APIC_BASE, IA32_MISC_ENABLE, IA32_TSC_DEADLINE, X2APIC_FIRST, X2APIC_LAST};
use donjon_x86::{Activity, CpuState, Msrs};
use std::sync::Arc;

/// What is done by us, because the kernel has no processor to do it to while it runs.
const STARTS: u32 = Attention::INIT | Attention::SIPI;

/// One vCPU.
pub struct KvmVcpu {
    pub(crate) index: usize,
    pub(crate) fd: raw::Vcpu,
    pub(crate) apic: Arc<dyn LocalApic>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) shared: Arc<Shared>,
    /// What it is doing, as far as the kernel does not know: with its local APIC here, or after a triple fault.
    pub(crate) activity: Activity,
    /// The MSRs that the kernel does not keep.
    pub(crate) kept: Msrs,
    /// The 8259 asks and was not answered yet.
    asked: bool,
    exits: HardwareExits,
}

impl KvmVcpu {
    pub fn new(
        index: usize,
        fd: raw::Vcpu,
        apic: Arc<dyn LocalApic>,
        attention: Arc<Attention>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            index,
            fd,
            apic,
            attention,
            shared,
            activity: Activity::Active,
            kept: Msrs::default(),
            asked: false,
            exits: HardwareExits::default(),
        }
    }

    fn run_until(&mut self, listening: &Listening) -> Result<Exit, EngineError> {
        loop {
            listening.reset();
            let bits = self.attention.bits();
            if self.shared.apics.is_some() {
                self.offer_extint(bits)?;
            } else if let Some(exit) = self.offer_interrupts(bits)? {
                return Ok(exit);
            }
            // Whoever looks at the vCPU next must find no access half done. The kernel finishes it, and returns.
            let stop = bits & (Attention::KICK | STARTS) != 0;
            if stop {
                listening.set();
            }
            let done = self.enter()?;
            match done {
                Done::Again => {}
                Done::Interrupted if stop => {
                    if self.attention.take(Attention::KICK) != 0 {
                        return Ok(Exit::Kicked);
                    }
                    self.start_up()?;
                }
                Done::Interrupted => {}
                Done::Exit(exit) => return Ok(exit),
            }
        }
    }

    /// The 8259's interrupt, which it keeps until it is acknowledged.
    fn offer_extint(&mut self, bits: u32) -> Result<(), EngineError> {
        if bits & Attention::INTERRUPT == 0 && !self.asked {
            return Ok(());
        }
        self.attention.take(Attention::INTERRUPT);
        let Some(apics) = self.shared.apics.clone() else {
            return Ok(());
        };
        self.asked = apics.extint(self.index);
        if self.asked && self.fd.ready_for_interrupt() {
            if let Some(vector) = apics.acknowledge_extint(self.index) {
                self.inject(vector)?;
            }
            self.asked = apics.extint(self.index);
        }
        self.fd.request_window(self.asked);
        Ok(())
    }

    /// Interrupts of a local APIC that is here. `Some` if there is nothing to run.
    fn offer_interrupts(&mut self, bits: u32) -> Result<Option<Exit>, EngineError> {
        let idle = self.activity != Activity::Active;
        if idle && bits & Attention::KICK != 0 {
            self.attention.take(Attention::KICK);
            return Ok(Some(Exit::Kicked));
        }
        if idle && bits & STARTS != 0 {
            self.start_up()?;
        }
        match self.activity {
            Activity::WaitForSipi => return Ok(Some(Exit::Halt { wake: STARTS })),
            Activity::Shutdown => return Ok(Some(Exit::Shutdown)),
            Activity::Active | Activity::Halted => {}
        }
        if self.attention.take(Attention::NMI) != 0 {
            // The kernel keeps one that is blocked.
            self.fd.fd().nmi().map_err(refused("KVM_NMI"))?;
            if !self.nmi_blocked()? {
                self.activity = Activity::Active;
            }
        }
        self.attention.take(Attention::INTERRUPT);
        let mut more = self.apic.pending();
        if more && self.fd.ready_for_interrupt() {
            // It may have nothing after all.
            more = match self.apic.acknowledge() {
                Some(vector) => {
                    self.inject(vector)?;
                    self.activity = Activity::Active;
                    self.apic.pending()
                }
                None => false,
            };
        }
        self.fd.request_window(more);
        if self.activity == Activity::Halted {
            let nmi = if self.nmi_blocked()? { 0 } else { Attention::NMI };
            let interrupt = if self.fd.interrupt_flag() {
                Attention::INTERRUPT
            } else {
                0
            };
            let wake = STARTS | nmi | interrupt;
            return Ok(Some(Exit::Halt { wake }));
        }
        *self.fd.cr8() = self.apic.cr8().into();
        Ok(None)
    }

    fn nmi_blocked(&self) -> Result<bool, EngineError> {
        let events = self.fd.fd().get_vcpu_events();
        Ok(events.map_err(refused("KVM_GET_VCPU_EVENTS"))?.nmi.masked != 0)
    }

    fn inject(&mut self, vector: u8) -> Result<(), EngineError> {
        self.fd.interrupt(vector).map_err(refused("KVM_INTERRUPT"))
    }

    /// INIT and start-up messages that came while the local APIC was, or is, here.
    fn start_up(&mut self) -> Result<(), EngineError> {
        let mut state = self.state()?;
        if self.arrived_messages(&mut state) {
            self.set_state(&state, false)?;
        }
        Ok(())
    }

    /// What INIT and start-up messages make of a state; whether there were any.
    pub(crate) fn arrived_messages(&mut self, state: &mut CpuState) -> bool {
        let init = self.attention.take(Attention::INIT) != 0;
        if init {
            state.init();
            self.apic.init();
            if self.index != 0 {
                state.activity = Activity::WaitForSipi;
            }
        }
        let vector = self.attention.take_sipi();
        // A start-up message to a processor that does not wait for one is dropped.
        let started = vector.filter(|_| state.activity == Activity::WaitForSipi);
        if let Some(vector) = started {
            state.activity = Activity::Active;
            state.segments[1].selector = (vector as u16) << 8;
            state.segments[1].base = (vector as u64) << 12;
            state.rip = 0;
        }
        init || started.is_some()
    }

    /// Runs the guest once.
    fn enter(&mut self) -> Result<Done, EngineError> {
        let here = self.shared.apics.is_none();
        let shared = &self.shared;
        let apic = &self.apic;
        let exit = self.fd.run().map_err(refused("KVM_RUN"))?;
        let mut done = Done::Again;
        *counter(&mut self.exits, &exit) += 1;
        match exit {
            RawExit::PortOut { port, size, data } => exits::port_out(&*shared.io, port, size, data),
            RawExit::PortIn { port, size, data } => exits::port_in(&*shared.io, port, size, data),
            RawExit::MmioWrite { address, data } => match register(here, apic, address) {
                Some(offset) => apic.page_write(offset, exits::number(data) as u32),
                None => exits::mmio_write(shared, address, data),
            },
            RawExit::MmioRead { address, data } => {
                let value = match register(here, apic, address) {
                    // Registers are 32 bits wide at 16-byte strides; a narrower access gets its part.
                    Some(offset) => (apic.page_read(offset & !3) >> (offset % 4 * 8)) as u64,
                    None => shared.io.mmio_read(address, data.len() as u8),
                };
                let len = data.len();
                data.copy_from_slice(&value.to_le_bytes()[..len]);
            }
            RawExit::ReadMsr { index, value, fault } => {
                let adjust = self.kept.tsc_adjust;
                let read = match index {
                    _ if here && is_apic(index) => read_apic(&**apic, index, adjust),
                    _ => filter::read(&shared.model, self.kept.misc_enable, index),
                };
                match read {
                    Ok(v) => *value = v,
                    Err(Gp) => *fault = 1,
                }
            }
            RawExit::WriteMsr { index, value, fault } => {
                let adjust = self.kept.tsc_adjust;
                let written = match index {
                    IA32_MISC_ENABLE => {
                        self.kept.misc_enable = value;
                        Ok(())
                    }
                    _ if here && is_apic(index) => write_apic(&**apic, index, value, adjust),
                    _ => filter::write(index, value),
                };
                *fault = written.is_err().into();
            }
            RawExit::Halt => {
                self.activity = Activity::Halted;
            }
            RawExit::Eoi(vector) => {
                if let Some(apics) = &shared.apics {
                    apics.end_of_interrupt(vector);
                }
            }
            RawExit::Window | RawExit::SetTpr => {}
            RawExit::Interrupted => done = Done::Interrupted,
            RawExit::Shutdown => {
                self.activity = Activity::Shutdown;
                done = Done::Exit(Exit::Shutdown);
            }
            RawExit::FailEntry(reason) => {
                return Err(failed(format!(
                    "the processor refused to enter the guest (hardware reason {reason:#x}): its state is invalid"
                )));
            }
            RawExit::Internal { kind, data } => return Err(exits::internal(kind, &data)),
            RawExit::Other(reason) => {
                return Err(failed(format!(
                    "KVM_RUN returned for an unknown reason, {reason}"
                )));
            }
        }
        if here {
            let cr8 = *self.fd.cr8() as u8;
            if cr8 != self.apic.cr8() {
                self.apic.set_cr8(cr8);
            }
        }
        Ok(done)
    }
}

/// Where an exit is counted.
fn counter<'a>(exits: &'a mut HardwareExits, exit: &RawExit<'_>) -> &'a mut u64 {
    match exit {
        RawExit::PortIn { .. } | RawExit::PortOut { .. } => &mut exits.port,
        RawExit::MmioRead { .. } | RawExit::MmioWrite { .. } => &mut exits.mmio,
        RawExit::ReadMsr { .. } | RawExit::WriteMsr { .. } => &mut exits.msr,
        RawExit::Halt => &mut exits.halt,
        RawExit::Eoi(_) => &mut exits.end_of_interrupt,
        RawExit::Interrupted => &mut exits.interrupted,
        _ => &mut exits.other,
    }
}

/// What to do after the guest has run.
enum Done {
    /// Go on.
    Again,
    /// Look why it was interrupted.
    Interrupted,
    /// Return.
    Exit(Exit),
}

/// The offset of a register of the local APIC, if that is here and `address` is in its page.
fn register(here: bool, apic: &Arc<dyn LocalApic>, address: u64) -> Option<u16> {
    let page = apic.page().filter(|_| here)?;
    (address & !0xfff == page).then_some(address as u16 & 0xfff)
}

/// Whether an MSR is the local APIC's.
fn is_apic(index: u32) -> bool {
    matches!(
        index,
        IA32_APIC_BASE | IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST
    )
}

/// The APIC compares with the counter before adjustment.
fn read_apic(apic: &dyn LocalApic, index: u32, adjust: u64) -> Result<u64, Gp> {
    match (index, apic.read_msr(index)?) {
        (IA32_TSC_DEADLINE, at @ 1..) => Ok(at.wrapping_add(adjust)),
        (_, value) => Ok(value),
    }
}

fn write_apic(apic: &dyn LocalApic, index: u32, value: u64, adjust: u64) -> Result<(), Gp> {
    match (index, value) {
        // A deadline that the adjustment makes zero or negative has passed.
        (IA32_TSC_DEADLINE, 1..) => apic.write_msr(index, value.wrapping_sub(adjust).max(1)),
        _ => apic.write_msr(index, value),
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Exit {
        let listening = self.fd.listen();
        self.attention.set_kick(Some(Box::new(listening.kicker())));
        let exit = self.run_until(&listening);
        self.attention.set_kick(None);
        drop(listening);
        exit.unwrap_or_else(Exit::Error)
    }

    fn save(&self) -> Result<CpuState, EngineError> {
        self.state()
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        let mut state = state.clone();
        if self.shared.apics.is_some() {
            self.arrived_messages(&mut state);
        }
        self.set_state(&state, true)?;
        self.asked = true;
        self.shared.arrive();
        Ok(())
    }

    fn leave(&mut self) -> Result<CpuState, EngineError> {
        self.shared.depart();
        let state = self.state()?;
        self.shared.time.stop(&self.fd, state.msrs.tsc_adjust)?;
        self.give_apic_back(&state)?;
        Ok(state)
    }

    fn instructions(&self) -> u64 {
        0
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            translated: None,
            hardware: Some(self.exits),
            ..Statistics::default()
        }
    }
}
