//! A vCPU's whole state, into the kernel and out of it.

use crate::clock::{read_msr, write_msr};
use crate::error::{failed, refused};
use crate::state::{apic, events, msrs, registers, xsave};
use crate::vcpu::KvmVcpu;
use donjon_engine::{Attention, EngineError};
use donjon_x86::{Activity, CpuState, Msrs, msr};
use kvm_bindings::{kvm_msr_entry, kvm_xcr, kvm_xcrs};

impl KvmVcpu {
    /// The state in the kernel.
    pub(crate) fn state(&self) -> Result<CpuState, EngineError> {
        let fd = self.fd.fd();
        let mut s = CpuState {
            msrs: self.kept,
            ..CpuState::reset()
        };
        // First, because the kernel does what is due with it: a start-up message changes the registers.
        s.activity = match (&self.shared.apics, self.activity) {
            (Some(_), Activity::Active) => {
                events::take_mp_state(fd.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?)
            }
            (_, activity) => activity,
        };
        registers::take_regs(&fd.get_regs().map_err(refused("KVM_GET_REGS"))?, &mut s);
        registers::take_sregs(&self.fd.sregs().map_err(refused("KVM_GET_SREGS2"))?, &mut s);
        registers::take_debug(
            &fd.get_debug_regs().map_err(refused("KVM_GET_DEBUGREGS"))?,
            &mut s,
        );
        let xcrs = fd.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        s.xcr0 = xcrs.xcrs[0].value;
        xsave::take_area(&fd.get_xsave().map_err(refused("KVM_GET_XSAVE"))?, &mut s);
        self.take_msrs(&mut s.msrs)?;
        let e = fd.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?;
        events::take_events(&e, &mut s);
        Ok(s)
    }

    /// Replaces it. `time`: the counters go on from the domain's clock.
    pub(crate) fn set_state(&mut self, s: &CpuState, time: bool) -> Result<(), EngineError> {
        let fd = self.fd.fd();
        self.activity = match (&self.shared.apics, s.activity) {
            (Some(_), Activity::Halted | Activity::WaitForSipi) => Activity::Active,
            (_, activity) => activity,
        };
        self.kept = s.msrs;
        let board = self.shared.apics.as_ref().map(|apics| apics.save(self.index));
        let base = match &board {
            Some(apic) => apic.base,
            // Not the kernel's business, but it wants a possible value.
            None => 0xfee0_0000 | 1 << 11 | ((self.index == 0) as u64) << 8,
        };
        self.fd
            .set_sregs(&registers::sregs(s, base))
            .map_err(refused("KVM_SET_SREGS2"))?;
        if let Some(apic) = &board {
            let was = fd.get_lapic().map_err(refused("KVM_GET_LAPIC"))?;
            fd.set_lapic(&apic::page(apic, &was))
                .map_err(refused("KVM_SET_LAPIC"))?;
        } else {
            self.apic.set_cr8(s.cr8 as u8 & 15);
        }
        fd.set_regs(&registers::regs(s))
            .map_err(refused("KVM_SET_REGS"))?;
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..kvm_xcrs::default()
        };
        xcrs.xcrs[0] = kvm_xcr {
            xcr: 0,
            value: s.xcr0,
            ..kvm_xcr::default()
        };
        fd.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))?;
        self.fd
            .set_xsave(&xsave::area(s, self.shared.model.xcr0_mask()))
            .map_err(refused("KVM_SET_XSAVE"))?;
        if time {
            self.shared.time.start(&self.fd, s.msrs.tsc_adjust)?;
        }
        self.put_msrs(&s.msrs)?;
        if let Some(apic) = &board
            && apic.tsc_deadline != 0
        {
            let at = apic.tsc_deadline.wrapping_add(s.msrs.tsc_adjust).max(1);
            write_msr(&self.fd, msr::IA32_TSC_DEADLINE, at)?;
        }
        fd.set_debug_regs(&registers::debug(s))
            .map_err(refused("KVM_SET_DEBUGREGS"))?;
        let nmi = board.is_some() && self.attention.take(Attention::NMI) != 0;
        fd.set_vcpu_events(&events::events(s, nmi))
            .map_err(refused("KVM_SET_VCPU_EVENTS"))?;
        if board.is_some() {
            fd.set_mp_state(events::mp_state(s.activity))
                .map_err(refused("KVM_SET_MP_STATE"))?;
        }
        Ok(())
    }

    /// The board's local APIC goes on from what the kernel's has come to.
    pub(crate) fn give_apic_back(&self, s: &CpuState) -> Result<(), EngineError> {
        let Some(apics) = &self.shared.apics else {
            return Ok(());
        };
        let fd = self.fd.fd();
        let base = self.fd.sregs().map_err(refused("KVM_GET_SREGS2"))?.apic_base;
        let page = fd.get_lapic().map_err(refused("KVM_GET_LAPIC"))?;
        let deadline = match read_msr(&self.fd, msr::IA32_TSC_DEADLINE)? {
            Some(at @ 1..) => at.wrapping_sub(s.msrs.tsc_adjust).max(1),
            _ => 0,
        };
        let state = apic::take_page(&page, base, deadline, &apics.save(self.index));
        apics.load(self.index, &state).map_err(failed)?;
        let e = fd.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?;
        if e.nmi.pending != 0 {
            self.attention.raise(Attention::NMI);
        }
        Ok(())
    }

    fn put_msrs(&self, m: &Msrs) -> Result<(), EngineError> {
        let list = msrs::list(m);
        let usual = msrs::list(&Msrs::default());
        let mut from = 0;
        while from < list.len() {
            let entries: Vec<_> = list[from..]
                .iter()
                .map(|&(index, data)| entry(index, data))
                .collect();
            let entries = kvm_bindings::Msrs::from_entries(&entries).map_err(|_| failed("too many MSRs"))?;
            let done = self.fd.fd().set_msrs(&entries).map_err(refused("KVM_SET_MSRS"))?;
            from += done;
            if let Some(&(index, data)) = list.get(from) {
                // One that this host does not have, and that the guest has not used, is not missed.
                if (index, data) != usual[from] {
                    return Err(failed(format!(
                        "this host does not take the value {data:#x} for MSR {index:#x}"
                    )));
                }
                from += 1;
            }
        }
        Ok(())
    }

    fn take_msrs(&self, m: &mut Msrs) -> Result<(), EngineError> {
        let list = msrs::list(m);
        let mut from = 0;
        while from < list.len() {
            let entries: Vec<_> = list[from..].iter().map(|&(index, _)| entry(index, 0)).collect();
            let mut entries =
                kvm_bindings::Msrs::from_entries(&entries).map_err(|_| failed("too many MSRs"))?;
            let done = self
                .fd
                .fd()
                .get_msrs(&mut entries)
                .map_err(refused("KVM_GET_MSRS"))?;
            for e in &entries.as_slice()[..done] {
                msrs::take(m, e.index, e.data);
            }
            // The one that stopped it is not there on this host: it keeps its value.
            from += done + 1;
        }
        Ok(())
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    }
}
