//! What is known of registers while a program is made, so that most of its addresses lead somewhere.
//! Being wrong costs nothing but a fault.

use crate::case::Mode;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

const RSP: usize = 4;

/// The registers whose value is known.
#[derive(Clone, Debug)]
pub struct Known {
    values: [Option<u64>; 16],
    mode: Mode,
}

/// The general-purpose registers an instruction writes, one bit each.
pub fn written(i: &Instruction) -> u16 {
    let mut factory = InstructionInfoFactory::new();
    factory
        .info(i)
        .used_registers()
        .iter()
        .filter(|u| {
            !matches!(
                u.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            )
        })
        .filter(|u| u.register().is_gpr())
        .fold(0, |set, u| set | 1 << u.register().full_register().number())
}

impl Known {
    /// All of them are.
    pub fn new(mode: Mode, gpr: &[u64; 16]) -> Self {
        let mut values = gpr.map(Some);
        if mode != Mode::Long {
            values[8..].fill(None);
        }
        Self { values, mode }
    }

    /// One of them.
    pub fn get(&self, register: u8) -> Option<u64> {
        self.values[register as usize & 15]
    }

    /// Takes a value for granted.
    pub fn set(&mut self, register: u8, value: Option<u64>) {
        self.values[register as usize & 15] = value;
    }

    /// Forgets all but these.
    pub fn forget(&mut self, all_but: u16) {
        for (r, v) in self.values.iter_mut().enumerate() {
            if all_but >> r & 1 == 0 {
                *v = None;
            }
        }
    }

    fn mask(&self) -> u64 {
        if self.mode == Mode::Long {
            u64::MAX
        } else {
            0xffff_ffff
        }
    }

    /// The value of a whole register, if an instruction's operand names one.
    fn operand(&self, i: &Instruction, n: u32) -> Option<u64> {
        match i.op_kind(n) {
            OpKind::Register => {
                let r = i.op_register(n);
                let whole = r.is_gpr64() || r.is_gpr32() && self.mode != Mode::Long;
                whole.then(|| self.values[r.number()])?
            }
            OpKind::Immediate8
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(i.immediate(n)),
            _ => None,
        }
    }

    /// An instruction is done.
    pub fn step(&mut self, i: &Instruction) {
        use Mnemonic::*;
        let value = match i.mnemonic() {
            Mov => self
                .operand(i, 1)
                .or(match (i.op1_kind(), i.op0_register().is_gpr32()) {
                    (OpKind::Immediate32, true) => Some(i.immediate32() as u64),
                    _ => None,
                }),
            Lea if i.op0_register().is_gpr64() || self.mode != Mode::Long => {
                i.virtual_address(1, 0, |r: Register, _, _| match r {
                    _ if r.is_segment_register() => Some(0),
                    _ if r.is_gpr() && r.size() >= 4 => self.values[r.number()],
                    _ => None,
                })
            }
            Xor | Sub
                if i.op0_kind() == OpKind::Register
                    && i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register()
                    && i.op0_register().size() >= 4 =>
            {
                Some(0)
            }
            Add => self.sum(i, |a, b| a.wrapping_add(b)),
            Sub => self.sum(i, |a, b| a.wrapping_sub(b)),
            Inc => self.operand(i, 0).map(|v| v.wrapping_add(1)),
            Dec => self.operand(i, 0).map(|v| v.wrapping_sub(1)),
            _ => None,
        };
        let stack = self.values[RSP].filter(|_| i.is_stack_instruction());
        let set = written(i);
        for (r, v) in self.values.iter_mut().enumerate() {
            if set >> r & 1 != 0 {
                *v = None;
            }
        }
        let to = i.op0_register();
        if i.op_count() > 0 && i.op0_kind() == OpKind::Register && to.is_gpr() && to.size() >= 4 {
            self.values[to.number()] = value.map(|v| v & self.mask());
        }
        if let Some(rsp) = stack
            && !(i.mnemonic() == Pop && to == Register::RSP)
        {
            self.values[RSP] = Some(rsp.wrapping_add(i.stack_pointer_increment() as i64 as u64));
        }
    }

    fn sum(&self, i: &Instruction, f: fn(u64, u64) -> u64) -> Option<u64> {
        Some(f(self.operand(i, 0)?, self.operand(i, 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn values_are_followed() {
        let mut k = Known::new(Mode::Long, &std::array::from_fn(|r| r as u64 * 16));
        let mut step = |bytes: &[u8]| {
            k.step(&Decoder::new(64, bytes, DecoderOptions::NONE).decode());
            (k.get(0), k.get(3), k.get(4))
        };
        // LEA RAX, [RBX + 8]; PUSH RAX; ADD RBX, -1; MOV EAX, 5; MOV AL, 1.
        assert_eq!(step(&[0x48, 0x8d, 0x43, 0x08]).0, Some(56));
        assert_eq!(step(&[0x50]).2, Some(56));
        assert_eq!(step(&[0x48, 0x83, 0xc3, 0xff]).1, Some(47));
        assert_eq!(step(&[0xb8, 5, 0, 0, 0]).0, Some(5));
        assert_eq!(step(&[0xb0, 1]).0, None);
    }
}
