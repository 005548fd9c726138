//! The whole state out and in.

use super::{Cpu, Flags};
use donjon_engine::EngineError;
use donjon_x86::CpuState;
use donjon_x86::bits::{cr0, cr4, efer, rflags};
use donjon_x86::paging::canonical;

impl Cpu {
    /// The architectural state.
    pub fn save(&self) -> CpuState {
        CpuState {
            gpr: self.regs[..16].try_into().expect("sixteen registers"),
            rip: self.rip(),
            rflags: self.rflags(),
            segments: self.seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self.board.apic.cr8() as u64,
            dr: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            xcr0: self.xcr0,
            fpu: self.fpu,
            mxcsr: self.mxcsr,
            ymm: self.ymm,
            msrs: self.msrs,
            pdpte: self.pdpte,
            activity: self.activity,
            interrupt_shadow: self.shadow,
            nmi_blocked: self.nmi_blocked,
            pending: self.pending,
        }
    }

    /// Takes over a state after checking that a processor can be in it.
    pub fn load(&mut self, s: &CpuState) -> Result<(), EngineError> {
        let invalid = |what: &str| Err(EngineError::InvalidState(what.into()));
        let long = s.msrs.efer & efer::LMA != 0;
        if long && (s.cr0 & cr0::PG == 0 || s.cr4 & cr4::PAE == 0 || s.msrs.efer & efer::LME == 0) {
            return invalid("EFER.LMA without CR0.PG, CR4.PAE and EFER.LME");
        }
        if s.cr0 & cr0::PG != 0 && s.cr0 & cr0::PE == 0 {
            return invalid("CR0.PG without CR0.PE");
        }
        if s.xcr0 & 1 == 0 || s.xcr0 & !self.board.model.xcr0_mask() != 0 {
            return invalid("XCR0 has components the CPU model lacks");
        }
        if s.mxcsr & 0xffff_0000 != 0 {
            return invalid("MXCSR has reserved bits set");
        }
        let tables = [s.gdtr.base, s.idtr.base];
        if long && (!canonical(s.rip) || tables.iter().any(|b| !canonical(*b))) {
            return invalid("RIP, GDTR or IDTR is not canonical");
        }
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&s.gpr);
        self.set_rip(s.rip);
        self.flags = Flags::from_bits(s.rflags);
        self.rflags = s.rflags & !rflags::STATUS | rflags::ONE;
        self.seg = s.segments;
        self.cpl = if s.cr0 & cr0::PE == 0 {
            0
        } else {
            s.segments[2].attributes.dpl()
        };
        self.ldtr = s.ldtr;
        self.tr = s.tr;
        self.gdtr = s.gdtr;
        self.idtr = s.idtr;
        self.cr0 = s.cr0;
        self.cr2 = s.cr2;
        self.cr3 = s.cr3;
        self.cr4 = s.cr4;
        self.board.apic.set_cr8(s.cr8 as u8 & 15);
        self.dr = s.dr;
        self.dr6 = s.dr6;
        self.dr7 = s.dr7;
        self.xcr0 = s.xcr0;
        self.fpu = s.fpu;
        self.mxcsr = s.mxcsr;
        self.ymm = s.ymm;
        self.msrs = s.msrs;
        self.pdpte = s.pdpte;
        self.activity = s.activity;
        self.shadow = s.interrupt_shadow;
        self.nmi_blocked = s.nmi_blocked;
        self.pending = s.pending;
        self.debug_hits = 0;
        self.flush_tlb();
        self.mode_changed();
        // Who ran this processor before may have had another clock.
        self.publish_system_time();
        Ok(())
    }
}
