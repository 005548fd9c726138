//! Control and debug registers, translations, XCR0.

use crate::cpu::{CodeSize, Cpu, R, Stop};
use crate::decode::{Handler, Op};
use donjon_x86::bits::{cr0, cr4, efer, rflags, xcr0};
use donjon_x86::cpuid::PHYSICAL_RESERVED;
use donjon_x86::paging::canonical;
use donjon_x86::{Seg, exception};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

impl Cpu {
    /// Writes CR0 with everything that follows from it (Intel SDM vol. 3A §2.5, §9.8.5).
    pub fn write_cr0(&mut self, v: u64) -> R {
        let v = v & cr0::ALL | cr0::ET;
        let old = self.cr0;
        if v & cr0::PG != 0 && v & cr0::PE == 0 || v & cr0::NW != 0 && v & cr0::CD == 0 {
            return Err(self.gp(0));
        }
        let (on, off) = (v & !old, old & !v);
        if on & cr0::PG != 0 {
            if self.msrs.efer & efer::LME != 0 {
                let cs = self.seg[Seg::Cs as usize].attributes;
                let narrow_task = self.tr.attributes.kind() & 8 == 0;
                if self.cr4 & cr4::PAE == 0 || cs.long() || narrow_task {
                    return Err(self.gp(0));
                }
                self.msrs.efer |= efer::LMA;
            } else if self.cr4 & cr4::PAE != 0 {
                let cr3 = self.cr3;
                self.load_pdptes(cr3)?;
            }
        }
        if off & cr0::PG != 0 {
            // Paging goes off from compatibility mode only; with PCIDs on, not at all.
            if self.code == CodeSize::Bits64 || self.cr4 & cr4::PCIDE != 0 {
                return Err(self.gp(0));
            }
            self.msrs.efer &= !efer::LMA;
        }
        self.cr0 = v;
        if (on | off) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlb();
        }
        self.mode_changed();
        Ok(())
    }

    /// Writes CR4.
    pub fn write_cr4(&mut self, v: u64) -> R {
        const ALLOWED: u64 = cr4::TSD
            | cr4::DE
            | cr4::PSE
            | cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::PCE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::UMIP
            | cr4::FSGSBASE
            | cr4::PCIDE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP;
        let old = self.cr4;
        let (on, off) = (v & !old, old & !v);
        let bad = v & !ALLOWED != 0
            || off & cr4::PAE != 0 && self.long_mode()
            || on & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3 & 0xfff != 0);
        if bad {
            return Err(self.gp(0));
        }
        let pae = on & cr4::PAE != 0 || (on | off) & (cr4::PGE | cr4::PSE | cr4::SMEP) != 0;
        if pae && v & cr4::PAE != 0 && self.cr0 & cr0::PG != 0 && !self.long_mode() {
            let cr3 = self.cr3;
            self.load_pdptes(cr3)?;
        }
        self.cr4 = v;
        if (on | off) & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::PCIDE) != 0 {
            self.flush_tlb();
        }
        self.mode_changed();
        Ok(())
    }

    fn write_cr3(&mut self, v: u64) -> R {
        let long = self.long_mode();
        let keep = v >> 63 != 0 && self.cr4 & cr4::PCIDE != 0;
        let v = if self.cr4 & cr4::PCIDE != 0 {
            v & !(1 << 63)
        } else {
            v
        };
        if long && v & PHYSICAL_RESERVED != 0 {
            return Err(self.gp(0));
        }
        if !long && self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 {
            self.load_pdptes(v)?;
        }
        self.switch_cr3(v, keep);
        Ok(())
    }
}

fn mov_from_cr(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let v = match op.b {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.board.apic.cr8() as u64,
        _ => return Err(cpu.ud()),
    };
    let v = if cpu.is64() { v } else { v & 0xffff_ffff };
    cpu.set_reg(op.a, v);
    Ok(())
}

fn mov_to_cr(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let v = if cpu.is64() {
        cpu.reg(op.b)
    } else {
        cpu.reg(op.b) & 0xffff_ffff
    };
    match op.a {
        0 if v >> 32 != 0 => return Err(cpu.gp(0)),
        0 => cpu.write_cr0(v)?,
        2 => cpu.cr2 = v,
        3 => cpu.write_cr3(v)?,
        4 => cpu.write_cr4(v)?,
        8 if v > 15 => return Err(cpu.gp(0)),
        8 => cpu.board.apic.set_cr8(v as u8),
        _ => return Err(cpu.ud()),
    }
    serialize();
    Err(Stop::EndBlock)
}

/// Debug-register accesses: DR4 and DR5 are DR6 and DR7 without CR4.DE (Intel SDM vol. 3B §18.2.2).
fn debug_register(cpu: &mut Cpu, n: u8) -> R<u8> {
    let n = match n {
        4 | 5 if cpu.cr4 & cr4::DE != 0 => return Err(cpu.ud()),
        4 | 5 => n + 2,
        n if n > 7 => return Err(cpu.ud()),
        n => n,
    };
    cpu.privileged()?;
    if cpu.dr7 & 1 << 13 != 0 {
        // General detect: the access itself is a debug exception, and unlike an instruction breakpoint
        // one that pushes RF set (Intel SDM vol. 3B §18.3.1.1).
        cpu.dr6 |= 1 << 13;
        cpu.dr7 &= !(1 << 13);
        cpu.rflags |= rflags::RF;
        return Err(cpu.raise(exception::DB));
    }
    Ok(n)
}

fn mov_from_dr(cpu: &mut Cpu, op: &Op) -> R {
    let v = match debug_register(cpu, op.b)? {
        6 => cpu.dr6,
        7 => cpu.dr7,
        n => cpu.dr[n as usize],
    };
    let v = if cpu.is64() { v } else { v & 0xffff_ffff };
    cpu.set_reg(op.a, v);
    Ok(())
}

fn mov_to_dr(cpu: &mut Cpu, op: &Op) -> R {
    let n = debug_register(cpu, op.a)?;
    let v = if cpu.is64() {
        cpu.reg(op.b)
    } else {
        cpu.reg(op.b) & 0xffff_ffff
    };
    if n >= 6 && v >> 32 != 0 {
        return Err(cpu.gp(0));
    }
    match n {
        6 => cpu.dr6 = v & 0xe00f | 0xffff_0ff0,
        7 => cpu.dr7 = v & 0xffff_23ff | 0x400,
        n => cpu.dr[n as usize] = v,
    }
    // Watched pages must leave the fast path.
    cpu.access_mode_changed();
    Err(Stop::EndBlock)
}

fn clts(cpu: &mut Cpu, _: &Op) -> R {
    cpu.privileged()?;
    cpu.cr0 &= !cr0::TS;
    Ok(())
}

fn lmsw(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let v = cpu.operand::<u16>(op, 0, op.a)? as u64;
    // PE can be set but not cleared.
    let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let new = cpu.cr0 & !(low & !cr0::PE) | v & low;
    cpu.write_cr0(new)?;
    Err(Stop::EndBlock)
}

fn smsw(cpu: &mut Cpu, op: &Op) -> R {
    cpu.not_prevented()?;
    if op.is_mem(0) {
        return cpu.write(op.seg, cpu.ea(op), cpu.cr0 as u16);
    }
    let v = cpu.cr0;
    match op.size {
        1 => cpu.set(op.a, v as u16),
        2 => cpu.set(op.a, v as u32),
        _ => cpu.set(op.a, v),
    }
    Ok(())
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let linear = cpu.seg_base[(op.seg & 7) as usize].wrapping_add(cpu.ea(op));
    let linear = if cpu.is64() { linear } else { linear & 0xffff_ffff };
    cpu.flush_tlb_page(linear);
    serialize();
    Err(Stop::EndBlock)
}

/// What the processor stored is visible to the others before it goes on (Intel SDM vol. 3A §8.3).
pub(crate) fn serialize() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// INVPCID (Intel SDM vol. 2A).
fn invpcid(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let kind = if cpu.is64() {
        cpu.reg(op.a)
    } else {
        cpu.reg(op.a) & 0xffff_ffff
    };
    let [low, linear] = cpu.read_vector::<2>(op.seg, cpu.ea(op), false)?;
    let pcid = low as u16 & 0xfff;
    let enabled = cpu.cr4 & cr4::PCIDE != 0;
    let reserved = low & !0xfff != 0;
    match kind {
        _ if reserved || kind < 2 && pcid != 0 && !enabled => return Err(cpu.gp(0)),
        0 if !canonical(linear) => return Err(cpu.gp(0)),
        0 if pcid == cpu.pcid() => cpu.flush_tlb_page(linear),
        // One page of another address space: dropping all of that space's is allowed and simpler.
        0 | 1 => cpu.flush_tlb_pcid(pcid),
        2 => cpu.flush_tlb(),
        3 => cpu.flush_tlb_nonglobal(),
        _ => return Err(cpu.gp(0)),
    }
    Err(Stop::EndBlock)
}

fn xgetbv(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    let v = match cpu.get::<u32>(1) {
        0 => cpu.xcr0,
        // Components in use: all enabled ones are taken to be.
        1 => cpu.xcr0,
        _ => return Err(cpu.gp(0)),
    };
    cpu.set(0, v as u32);
    cpu.set(2, (v >> 32) as u32);
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    let v = cpu.regs[0] & 0xffff_ffff | cpu.regs[2] << 32;
    let bad = cpu.get::<u32>(1) != 0
        || v & xcr0::X87 == 0
        || v & !cpu.board.model.xcr0_mask() != 0
        || v & (xcr0::AVX | xcr0::SSE) == xcr0::AVX;
    if cpu.cpl != 0 || bad {
        return Err(cpu.gp(0));
    }
    cpu.xcr0 = v;
    Err(Stop::EndBlock)
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    // CR1, CR5-CR7 and CR9-CR15 do not exist, whatever the privilege.
    let control = |r: Register| r.is_cr() && matches!(r.number(), 0 | 2 | 3 | 4 | 8);
    let exists = |n| !i.op_register(n).is_cr() || control(i.op_register(n));
    if i.mnemonic() == Mov && !(exists(0) && exists(1)) {
        return None;
    }
    let handler: Handler = match i.mnemonic() {
        Mov if i.op_kind(0) == OpKind::Register && i.op_register(0).is_cr() => mov_to_cr,
        Mov if i.op_kind(1) == OpKind::Register && i.op_register(1).is_cr() => mov_from_cr,
        Mov if i.op_kind(0) == OpKind::Register && i.op_register(0).is_dr() => mov_to_dr,
        Mov if i.op_kind(1) == OpKind::Register && i.op_register(1).is_dr() => mov_from_dr,
        Clts => clts,
        Lmsw => lmsw,
        Smsw => smsw,
        Invlpg => invlpg,
        Invpcid => invpcid,
        Xgetbv => xgetbv,
        Xsetbv => xsetbv,
        _ => return None,
    };
    op.bits |= Op::ENDS_BLOCK;
    Some(handler)
}
