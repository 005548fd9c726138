//! IN and OUT, and the permission to use a port (Intel SDM vol. 1 §19.5).

use super::sized;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Cpu {
    /// #GP(0) unless the privilege level or the task's I/O permission map allows the port.
    pub fn check_port(&mut self, port: u16, size: u16) -> R {
        if !self.protected() || self.cpl <= self.iopl() {
            return Ok(());
        }
        let wide = self.tr.attributes.kind() & 8 != 0;
        if !wide || self.tr.limit < 103 {
            return Err(self.gp(0));
        }
        let map: u16 = self.read_system(self.tr.base.wrapping_add(102))?;
        let first = map as u32 + (port >> 3) as u32;
        if first + 1 > self.tr.limit {
            return Err(self.gp(0));
        }
        let bits: u16 = self.read_system(self.tr.base.wrapping_add(first as u64))?;
        if bits >> (port & 7) & ((1 << size) - 1) != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }
}

/// The port an IN or OUT names, once it is known to be allowed.
fn port<T: Word>(cpu: &mut Cpu, op: &Op) -> R<u16> {
    let port = if op.x != 0 {
        cpu.get::<u16>(2)
    } else {
        op.imm as u8 as u16
    };
    cpu.check_port(port, T::SIZE as u16)?;
    cpu.note_port(port, T::SIZE as u16);
    Ok(port)
}

fn input<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let port = port::<T>(cpu, op)?;
    let v = cpu.board.io.port_in(port, T::SIZE as u8);
    cpu.set(0, T::from_u64(v as u64));
    Ok(())
}

fn output<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let port = port::<T>(cpu, op)?;
    let v = cpu.get::<T>(0).to_u64() as u32;
    cpu.board.io.port_out(port, T::SIZE as u8, v);
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let (port, value) = match i.mnemonic() {
        Mnemonic::In => (1, 0),
        Mnemonic::Out => (0, 1),
        _ => return None,
    };
    op.x = (i.op_kind(port) == OpKind::Register) as u8;
    let size = crate::decode::size_code(i.op_register(value).size());
    // The device may have asked for attention (a reset, an interrupt): look before going on.
    op.bits |= Op::ENDS_BLOCK;
    Some(if i.mnemonic() == Mnemonic::In {
        sized!(size, input)
    } else {
        sized!(size, output)
    })
}
