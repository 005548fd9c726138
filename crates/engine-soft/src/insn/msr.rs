//! RDMSR and WRMSR.

use crate::cpu::{Cpu, R, Stop};
use crate::decode::{Handler, Op};
use donjon_x86::bits::{cr0, efer};
use donjon_x86::cpuid::PHYSICAL_RESERVED;
use donjon_x86::msr::*;
use donjon_x86::paging::canonical;
use donjon_x86::{Seg, Segment, pvclock};
use iced_x86::{Instruction, Mnemonic};

/// Reported by IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;

fn fixed_mtrr(msr: u32) -> Option<usize> {
    match msr {
        IA32_MTRR_FIX64K_00000 => Some(0),
        IA32_MTRR_FIX16K_80000 => Some(1),
        IA32_MTRR_FIX16K_A0000 => Some(2),
        IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => Some((msr - IA32_MTRR_FIX4K_C0000) as usize + 3),
        _ => None,
    }
}

/// Whether every byte is a memory type (Intel SDM vol. 3A table 12-2); PAT knows one more.
fn memory_types(v: u64, pat: bool) -> bool {
    v.to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4 | 5 | 6) || pat && *t == 7)
}

impl Cpu {
    fn read_msr(&mut self, msr: u32) -> R<u64> {
        let m = &self.msrs;
        Ok(match msr {
            IA32_TSC => self.tsc(),
            IA32_TSC_ADJUST => m.tsc_adjust,
            IA32_APIC_BASE | X2APIC_FIRST..=X2APIC_LAST => {
                return self.board.apic.read_msr(msr).map_err(|_| self.gp(0));
            }
            // The APIC compares with the counter before adjustment.
            IA32_TSC_DEADLINE => match self.board.apic.read_msr(msr) {
                Ok(0) => 0,
                Ok(at) => at.wrapping_add(m.tsc_adjust),
                Err(_) => return Err(self.gp(0)),
            },
            IA32_PLATFORM_ID | IA32_MCG_CAP | IA32_DEBUGCTL => 0,
            // Locked, with nothing enabled.
            IA32_FEATURE_CONTROL => 1,
            // Microcode revision, in the upper half.
            IA32_BIOS_SIGN_ID => 1 << 32,
            IA32_ARCH_CAPABILITIES => self.board.model.arch_capabilities(),
            IA32_SPEC_CTRL => m.spec_ctrl,
            IA32_MTRRCAP => MTRR_CAP,
            IA32_MTRR_DEF_TYPE => m.mtrr_def_type,
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => {
                m.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize]
            }
            _ if fixed_mtrr(msr).is_some() => m.mtrr_fixed[fixed_mtrr(msr).expect("just checked")],
            IA32_PAT => m.pat,
            IA32_MCG_STATUS => m.mcg_status,
            IA32_MISC_ENABLE => m.misc_enable,
            IA32_SYSENTER_CS => m.sysenter_cs,
            IA32_SYSENTER_ESP => m.sysenter_esp,
            IA32_SYSENTER_EIP => m.sysenter_eip,
            IA32_EFER => m.efer,
            IA32_STAR => m.star,
            IA32_LSTAR => m.lstar,
            IA32_CSTAR => m.cstar,
            IA32_FMASK => m.fmask,
            IA32_FS_BASE => self.seg[Seg::Fs as usize].base,
            IA32_GS_BASE => self.seg[Seg::Gs as usize].base,
            IA32_KERNEL_GS_BASE => m.kernel_gs_base,
            IA32_TSC_AUX => m.tsc_aux,
            KVM_SYSTEM_TIME_NEW => m.kvm_system_time,
            KVM_WALL_CLOCK_NEW => m.kvm_wall_clock,
            _ => return Err(self.gp(0)),
        })
    }

    fn write_msr(&mut self, msr: u32, v: u64) -> R {
        let needs_canonical = matches!(
            msr,
            IA32_LSTAR
                | IA32_CSTAR
                | IA32_FS_BASE
                | IA32_GS_BASE
                | IA32_KERNEL_GS_BASE
                | IA32_SYSENTER_ESP
                | IA32_SYSENTER_EIP
        );
        if needs_canonical && !canonical(v) {
            return Err(self.gp(0));
        }
        match msr {
            IA32_TSC => self.msrs.tsc_adjust = v.wrapping_sub(self.board.tsc()),
            IA32_TSC_ADJUST => self.msrs.tsc_adjust = v,
            IA32_TSC_DEADLINE => {
                // Zero disarms; a deadline that the adjustment makes zero or negative has passed.
                let at = if v == 0 {
                    0
                } else {
                    v.wrapping_sub(self.msrs.tsc_adjust).max(1)
                };
                return self.board.apic.write_msr(msr, at).map_err(|_| self.gp(0));
            }
            IA32_APIC_BASE | X2APIC_FIRST..=X2APIC_LAST => {
                let done = self.board.apic.write_msr(msr, v);
                if msr == IA32_APIC_BASE {
                    // The register page may have moved.
                    self.flush_tlb();
                }
                return done.map_err(|_| self.gp(0));
            }
            // Loading microcode and prediction barriers do nothing here.
            IA32_BIOS_SIGN_ID | IA32_PRED_CMD => {}
            IA32_SPEC_CTRL if v & !7 == 0 => self.msrs.spec_ctrl = v,
            IA32_MTRR_DEF_TYPE if v & !0xcff == 0 && memory_types(v & 0xff, false) => {
                self.msrs.mtrr_def_type = v
            }
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => {
                let ok = if msr & 1 == 0 {
                    v & 0xf00 == 0 && memory_types(v & 0xff, false)
                } else {
                    v & 0x7ff == 0
                };
                if !ok || v & PHYSICAL_RESERVED != 0 {
                    return Err(self.gp(0));
                }
                self.msrs.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize] = v;
            }
            _ if fixed_mtrr(msr).is_some() && memory_types(v, false) => {
                self.msrs.mtrr_fixed[fixed_mtrr(msr).expect("just checked")] = v;
            }
            IA32_PAT if memory_types(v, true) => self.msrs.pat = v,
            IA32_MCG_STATUS => self.msrs.mcg_status = v,
            IA32_MISC_ENABLE => self.msrs.misc_enable = v,
            IA32_DEBUGCTL if v & !3 == 0 => {}
            IA32_SYSENTER_CS => self.msrs.sysenter_cs = v & 0xffff_ffff,
            IA32_SYSENTER_ESP => self.msrs.sysenter_esp = v,
            IA32_SYSENTER_EIP => self.msrs.sysenter_eip = v,
            IA32_EFER => return self.write_efer(v),
            IA32_STAR => self.msrs.star = v,
            IA32_LSTAR => self.msrs.lstar = v,
            IA32_CSTAR => self.msrs.cstar = v,
            IA32_FMASK if v >> 32 == 0 => self.msrs.fmask = v,
            IA32_FS_BASE | IA32_GS_BASE => {
                let n = if msr == IA32_FS_BASE { Seg::Fs } else { Seg::Gs };
                let s = Segment {
                    base: v,
                    ..self.seg[n as usize]
                };
                self.set_segment(n, s);
            }
            IA32_KERNEL_GS_BASE => self.msrs.kernel_gs_base = v,
            IA32_TSC_AUX if v >> 32 == 0 => self.msrs.tsc_aux = v,
            KVM_SYSTEM_TIME_NEW => {
                self.msrs.kvm_system_time = v;
                self.publish_system_time();
            }
            KVM_WALL_CLOCK_NEW => {
                self.msrs.kvm_wall_clock = v;
                self.publish_wall_clock();
            }
            _ => return Err(self.gp(0)),
        }
        Ok(())
    }

    fn write_efer(&mut self, v: u64) -> R {
        const WRITABLE: u64 = efer::SCE | efer::LME | efer::NXE;
        if v & !(WRITABLE | efer::LMA) != 0 {
            return Err(self.gp(0));
        }
        let old = self.msrs.efer;
        if (v ^ old) & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return Err(self.gp(0));
        }
        self.msrs.efer = v & WRITABLE | old & efer::LMA;
        if (v ^ old) & efer::NXE != 0 {
            self.flush_tlb();
        }
        Ok(())
    }

    /// Fills in the paravirtual clock's record. Time-stamp and system time run at one constant rate, so
    /// once is enough until the domain is moved.
    pub fn publish_system_time(&mut self) {
        let v = self.msrs.kvm_system_time;
        if v & 1 == 0 {
            return;
        }
        let nanoseconds = self.board.nanoseconds();
        let tsc = self
            .board
            .clock
            .tsc_at(nanoseconds)
            .wrapping_add(self.msrs.tsc_adjust);
        let scale = pvclock::Scale::from_hz(self.board.clock.hz());
        let system_time = self.board.clock.system_time_at(nanoseconds);
        let record = pvclock::system_time(2, tsc, system_time, scale);
        // An address outside RAM is the guest's own loss.
        let _ = self.board.ram.write(v & !1, &record);
    }

    fn publish_wall_clock(&mut self) {
        let wall = self.board.clock.wall_at_system_start();
        let record = pvclock::wall_clock(2, wall.as_secs() as u32, wall.subsec_nanos());
        let _ = self.board.ram.write(self.msrs.kvm_wall_clock, &record);
    }
}

fn rdmsr(cpu: &mut Cpu, _: &Op) -> R {
    cpu.privileged()?;
    let n = cpu.get::<u32>(1);
    let v = match cpu.read_msr(n) {
        Ok(v) => v,
        Err(stop) => {
            tracing::debug!(
                msr = format_args!("{n:#x}"),
                rip = cpu.rip(),
                "RDMSR of an unknown register"
            );
            return Err(stop);
        }
    };
    cpu.set(0, v as u32);
    cpu.set(2, (v >> 32) as u32);
    Ok(())
}

fn wrmsr(cpu: &mut Cpu, _: &Op) -> R {
    cpu.privileged()?;
    let n = cpu.get::<u32>(1);
    let v = cpu.regs[0] & 0xffff_ffff | cpu.regs[2] << 32;
    if let Err(stop) = cpu.write_msr(n, v) {
        tracing::debug!(
            msr = format_args!("{n:#x}"),
            value = v,
            rip = cpu.rip(),
            "WRMSR refused"
        );
        return Err(stop);
    }
    Err(Stop::EndBlock)
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let handler: Handler = match i.mnemonic() {
        Mnemonic::Rdmsr => rdmsr,
        Mnemonic::Wrmsr => wrmsr,
        _ => return None,
    };
    op.bits |= Op::ENDS_BLOCK;
    Some(handler)
}
