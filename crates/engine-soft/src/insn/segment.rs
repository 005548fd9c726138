//! Segment-register loads, descriptor-table registers and descriptor inspection.

use super::moves::segment_number;
use super::sized;
use crate::cpu::{Cpu, R, Stop, is_null};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::bits::cr4;
use donjon_x86::descriptor::{Descriptor, kind};
use donjon_x86::exception;
use donjon_x86::paging::canonical;
use donjon_x86::{DescriptorTable, Seg};
use iced_x86::{Code, Instruction, Mnemonic};

/// The segment register of that number.
fn seg(n: u8) -> Seg {
    [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs][n as usize % 6]
}

/// Loads a segment register and ends the block: what follows may be decoded or checked differently.
pub(crate) fn load(cpu: &mut Cpu, n: u8, selector: u16) -> R {
    if n == Seg::Cs as u8 {
        return Err(cpu.ud());
    }
    cpu.load_segment(seg(n), selector)?;
    if n == Seg::Ss as u8 {
        // Interrupts and debug traps wait until the stack pointer is loaded too.
        cpu.shadow = true;
        cpu.skip_step = true;
    }
    Err(Stop::EndBlock)
}

/// LDS, LES, LFS, LGS, LSS.
fn load_far<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let ea = cpu.ea(op);
    let offset = cpu.read::<T>(op.seg, ea)?;
    let selector = cpu.read::<u16>(op.seg, cpu.ea_plus(op, T::SIZE as u64))?;
    let result = load(cpu, op.x, selector);
    if result != Err(Stop::Fault) {
        cpu.set(op.a, offset);
        // Unlike MOV and POP, LSS brings the stack pointer along and needs no shadow.
        if op.x == Seg::Ss as u8 {
            (cpu.shadow, cpu.skip_step) = (false, false);
        }
    }
    result
}

impl Cpu {
    /// #GP(0) unless CPL is 0.
    pub fn privileged(&mut self) -> R {
        if self.cpl != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// #GP(0) for the instructions user-mode instruction prevention covers.
    pub fn not_prevented(&mut self) -> R {
        if self.cpl > 0 && self.cr4 & cr4::UMIP != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// #UD in real mode, for instructions of protected mode.
    fn needs_protected(&mut self) -> R {
        if !self.protected() {
            return Err(self.ud());
        }
        Ok(())
    }
}

/// LGDT and LIDT; bases have 24, 32 or 64 bits.
fn load_table(cpu: &mut Cpu, op: &Op) -> R {
    cpu.privileged()?;
    let ea = cpu.ea(op);
    let limit = cpu.read::<u16>(op.seg, ea)?;
    let ea = cpu.ea_plus(op, 2);
    let base = match op.size {
        3 => cpu.read::<u64>(op.seg, ea)?,
        2 => cpu.read::<u32>(op.seg, ea)? as u64,
        _ => cpu.read::<u32>(op.seg, ea)? as u64 & 0xff_ffff,
    };
    if cpu.long_mode() && !canonical(base) {
        return Err(cpu.gp(0));
    }
    let table = DescriptorTable { base, limit };
    if op.x == 0 {
        cpu.gdtr = table;
    } else {
        cpu.idtr = table;
    }
    Ok(())
}

fn store_table(cpu: &mut Cpu, op: &Op) -> R {
    cpu.not_prevented()?;
    let t = if op.x == 0 { cpu.gdtr } else { cpu.idtr };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&t.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&t.base.to_le_bytes());
    let n = if op.size == 3 { 10 } else { 6 };
    cpu.write_bytes(op.seg, cpu.ea(op), &bytes[..n])
}

fn lldt(cpu: &mut Cpu, op: &Op) -> R {
    cpu.needs_protected()?;
    cpu.privileged()?;
    let v = cpu.operand::<u16>(op, 0, op.a)?;
    cpu.load_ldt(v)
}

fn ltr(cpu: &mut Cpu, op: &Op) -> R {
    cpu.needs_protected()?;
    cpu.privileged()?;
    let v = cpu.operand::<u16>(op, 0, op.a)?;
    cpu.load_task_register(v)
}

/// SLDT and STR.
fn store_selector<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.needs_protected()?;
    cpu.not_prevented()?;
    let v = if op.x == 0 {
        cpu.ldtr.selector
    } else {
        cpu.tr.selector
    };
    if op.is_mem(0) {
        return cpu.write(op.seg, cpu.ea(op), v);
    }
    cpu.set(op.a, T::from_u64(v as u64));
    Ok(())
}

/// The descriptor a selector names, if the current privilege may see it (LAR, LSL, VERR, VERW).
fn visible(cpu: &mut Cpu, selector: u16) -> R<Option<Descriptor>> {
    if is_null(selector) {
        return Ok(None);
    }
    let l = match cpu.read_descriptor(selector, exception::GP) {
        Ok(l) => l,
        // Outside the table is an answer, not a fault; a page fault on the way is a fault.
        Err(Stop::Fault) if cpu.fault.vector == exception::GP => return Ok(None),
        Err(e) => return Err(e),
    };
    let a = l.descriptor.attributes();
    let rpl = selector as u8 & 3;
    let seen = a.conforming() || a.dpl() >= cpu.cpl.max(rpl);
    Ok(seen.then_some(l.descriptor))
}

/// The descriptor LAR or LSL tells of: code, data, or a system descriptor of a type it knows. Gates have
/// access rights but no limit.
fn inspected(cpu: &mut Cpu, op: &Op, gates: bool) -> R<Option<Descriptor>> {
    cpu.needs_protected()?;
    let v = cpu.operand::<u16>(op, 1, op.b)?;
    let long = cpu.long_mode();
    let found = visible(cpu, v)?.filter(|d| {
        let a = d.attributes();
        a.is_code_or_data()
            || match a.kind() {
                kind::LDT | kind::TSS_AVAILABLE | kind::TSS_BUSY => true,
                kind::TSS16_AVAILABLE | kind::TSS16_BUSY => !long,
                kind::CALL_GATE => gates,
                kind::CALL_GATE16 | kind::TASK_GATE => gates && !long,
                _ => false,
            }
    });
    cpu.flags.set_zf(found.is_some());
    Ok(found)
}

fn lar<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    if let Some(d) = inspected(cpu, op, true)? {
        cpu.set(op.a, T::from_u64(d.0 >> 32 & 0x00ff_ff00));
    }
    Ok(())
}

fn lsl<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    if let Some(d) = inspected(cpu, op, false)? {
        cpu.set(op.a, T::from_u64(d.limit() as u64));
    }
    Ok(())
}

fn verify(cpu: &mut Cpu, op: &Op) -> R {
    cpu.needs_protected()?;
    let v = cpu.operand::<u16>(op, 0, op.a)?;
    let found = visible(cpu, v)?;
    let ok = found.is_some_and(|d| {
        let a = d.attributes();
        a.is_code_or_data() && if op.x == 0 { a.readable() } else { a.writable() }
    });
    cpu.flags.set_zf(ok);
    Ok(())
}

fn arpl(cpu: &mut Cpu, op: &Op) -> R {
    cpu.needs_protected()?;
    let source = cpu.get::<u16>(op.b) & 3;
    let old = cpu.operand::<u16>(op, 0, op.a)?;
    let lower = old & 3 < source;
    if lower {
        cpu.set_operand(op, 0, op.a, old & !3 | source)?;
    }
    cpu.flags.set_zf(lower);
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let table_size = |i: &Instruction| match i.code() {
        Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 3,
        Code::Lgdt_m1632 | Code::Lidt_m1632 | Code::Sgdt_m1632 | Code::Sidt_m1632 => 2,
        _ => 1,
    };
    Some(match i.mnemonic() {
        Lds | Les | Lfs | Lgs | Lss => {
            op.x = segment_number(match i.mnemonic() {
                Lds => iced_x86::Register::DS,
                Les => iced_x86::Register::ES,
                Lfs => iced_x86::Register::FS,
                Lgs => iced_x86::Register::GS,
                _ => iced_x86::Register::SS,
            });
            op.bits |= Op::ENDS_BLOCK;
            sized!(op.size, load_far)
        }
        Lgdt | Lidt => {
            (op.size, op.x) = (table_size(i), (i.mnemonic() == Lidt) as u8);
            load_table
        }
        Sgdt | Sidt => {
            (op.size, op.x) = (table_size(i), (i.mnemonic() == Sidt) as u8);
            store_table
        }
        Lldt => lldt,
        Ltr => ltr,
        Sldt | Str => {
            op.x = (i.mnemonic() == Str) as u8;
            sized!(op.size, store_selector)
        }
        Lar => sized!(op.size, lar),
        Lsl => sized!(op.size, lsl),
        Verr | Verw => {
            op.x = (i.mnemonic() == Verw) as u8;
            verify
        }
        Arpl => arpl,
        _ => return None,
    })
}
