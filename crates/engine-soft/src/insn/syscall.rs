//! SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS.

use crate::cpu::{Cpu, Fault, R, Stop};
use crate::decode::{Handler, Op};
use donjon_x86::bits::{efer, rflags};
use donjon_x86::paging::canonical;
use donjon_x86::{Seg, Segment, SegmentAttributes, exception};
use iced_x86::{Code, Instruction, Mnemonic};

/// A flat code segment: 64-bit, or 32-bit.
fn flat_code(selector: u64, dpl: u32, long: bool) -> Segment {
    let size = if long { 1 << 13 } else { 1 << 14 };
    let attributes = SegmentAttributes(0x9b | 1 << 15 | size | dpl << 5);
    Segment {
        selector: selector as u16,
        base: 0,
        limit: u32::MAX,
        attributes,
    }
}

fn flat_stack(selector: u64, dpl: u32) -> Segment {
    let attributes = SegmentAttributes(0x93 | 1 << 15 | 1 << 14 | dpl << 5);
    Segment {
        selector: selector as u16,
        base: 0,
        limit: u32::MAX,
        attributes,
    }
}

impl Cpu {
    fn enter_flat(&mut self, cs: Segment, ss: Segment, cpl: u8) {
        self.cpl = cpl;
        self.seg[Seg::Ss as usize] = ss;
        self.set_segment(Seg::Cs, cs);
    }
}

fn syscall(cpu: &mut Cpu, _: &Op) -> R {
    // In compatibility mode Intel processors refuse it.
    if !cpu.is64() || cpu.msrs.efer & efer::SCE == 0 {
        return Err(cpu.ud());
    }
    cpu.regs[1] = cpu.next_rip;
    cpu.regs[11] = cpu.rflags() & !rflags::RF;
    let selector = cpu.msrs.star >> 32 & 0xfffc;
    let (target, mask) = (cpu.msrs.lstar, cpu.msrs.fmask);
    cpu.enter_flat(flat_code(selector, 0, true), flat_stack(selector + 8, 0), 0);
    let kept = cpu.rflags() & !mask & !rflags::RF;
    cpu.set_rflags(kept);
    cpu.next_rip = target;
    // Single-stepping goes by the new flags: with TF in IA32_FMASK there is no trap at the entry point.
    cpu.skip_step = kept & rflags::TF == 0;
    Err(Stop::EndBlock)
}

fn sysret(cpu: &mut Cpu, op: &Op) -> R {
    if !cpu.is64() || cpu.msrs.efer & efer::SCE == 0 {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    let to64 = op.x != 0;
    let target = cpu.regs[1];
    // Checked at CPL 0, before anything changes (Intel SDM vol. 2B, SYSRET).
    if to64 && !canonical(target) {
        return Err(cpu.gp(0));
    }
    let base = cpu.msrs.star >> 48;
    let (cs, rip) = if to64 {
        (base + 16, target)
    } else {
        (base, target & 0xffff_ffff)
    };
    let flags = cpu.regs[11] & 0x3c_7fd7 | rflags::ONE;
    cpu.enter_flat(flat_code(cs | 3, 3, to64), flat_stack((base + 8) | 3, 3), 3);
    let stepping = cpu.rflags & rflags::TF != 0;
    cpu.set_rflags(flags);
    cpu.next_rip = rip;
    if flags & rflags::TF != 0 && !stepping {
        // The trap comes at once, as if the SYSCALL had just been stepped over.
        cpu.set_rip(rip);
        cpu.dr6 |= 1 << 14;
        cpu.fault = Fault {
            vector: exception::DB,
            trap: true,
            ..Fault::default()
        };
        return Err(Stop::Fault);
    }
    Err(Stop::EndBlock)
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> R {
    let m = &cpu.msrs;
    let (selector, rsp, rip) = (m.sysenter_cs & 0xfffc, m.sysenter_esp, m.sysenter_eip);
    if !cpu.protected() || selector == 0 {
        return Err(cpu.gp(0));
    }
    let long = cpu.long_mode();
    let cut = |v: u64| if long { v } else { v & 0xffff_ffff };
    let flags = cpu.rflags() & !(rflags::IF | rflags::VM | rflags::RF);
    cpu.enter_flat(flat_code(selector, 0, long), flat_stack(selector + 8, 0), 0);
    cpu.set_rflags(flags);
    cpu.regs[4] = cut(rsp);
    cpu.next_rip = cut(rip);
    Err(Stop::EndBlock)
}

fn sysexit(cpu: &mut Cpu, op: &Op) -> R {
    let selector = cpu.msrs.sysenter_cs & 0xfffc;
    if !cpu.protected() || selector == 0 || cpu.cpl != 0 {
        return Err(cpu.gp(0));
    }
    let to64 = op.x != 0;
    let (rip, rsp) = (cpu.regs[2], cpu.regs[1]);
    if to64 && !(canonical(rip) && canonical(rsp)) {
        return Err(cpu.gp(0));
    }
    let (cs, cut) = if to64 {
        (selector + 32, u64::MAX)
    } else {
        (selector + 16, 0xffff_ffff)
    };
    cpu.enter_flat(flat_code(cs | 3, 3, to64), flat_stack((cs + 8) | 3, 3), 3);
    cpu.regs[4] = rsp & cut;
    cpu.next_rip = rip & cut;
    Err(Stop::EndBlock)
}

fn swapgs(cpu: &mut Cpu, _: &Op) -> R {
    if !cpu.is64() {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    let gs = cpu.seg[Seg::Gs as usize];
    let base = std::mem::replace(&mut cpu.msrs.kernel_gs_base, gs.base);
    cpu.set_segment(Seg::Gs, Segment { base, ..gs });
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let handler: Handler = match i.mnemonic() {
        Mnemonic::Syscall => syscall,
        Mnemonic::Sysret | Mnemonic::Sysretq => {
            op.x = (i.code() == Code::Sysretq) as u8;
            sysret
        }
        Mnemonic::Sysenter => sysenter,
        Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            op.x = (i.code() == Code::Sysexitq) as u8;
            sysexit
        }
        Mnemonic::Swapgs => return Some(swapgs),
        _ => return None,
    };
    op.bits |= Op::ENDS_BLOCK;
    Some(handler)
}
