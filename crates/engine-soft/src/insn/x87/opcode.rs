//! The operand bits of an x87 opcode, for the opcode register (Intel SDM vol. 1 §8.1.9).

use crate::decode::Op;
use iced_x86::{CodeSize, Instruction, Register};

/// ModRM without its reg field: the stack index, or mod and r/m of the memory operand.
///
/// The decoded form does not tell apart all encodings of an address. Where there are several this is the
/// shortest, except that the size of the displacement is known.
pub fn operand_bits(i: &Instruction, op: &Op) -> u16 {
    if op.mem == Op::NO_MEMORY {
        // One of the two is ST(0).
        return (op.a | op.b) as u16;
    }
    let (mode, rm) = if short_address(i) {
        short_form(i)
    } else {
        long_form(i)
    };
    mode << 6 | rm
}

fn short_address(i: &Instruction) -> bool {
    let register = if i.memory_base() != Register::None {
        i.memory_base()
    } else {
        i.memory_index()
    };
    register.is_gpr16() || register == Register::None && i.memory_displ_size() == 2
}

fn displacement_mode(i: &Instruction) -> u16 {
    match i.memory_displ_size() {
        0 => 0,
        1 => 1,
        _ => 2,
    }
}

/// Intel SDM vol. 2A table 2-1.
fn short_form(i: &Instruction) -> (u16, u16) {
    use Register::{BP, BX, DI, SI};
    let rm = match (i.memory_base(), i.memory_index()) {
        (BX, SI) => 0,
        (BX, DI) => 1,
        (BP, SI) => 2,
        (BP, DI) => 3,
        (SI, _) => 4,
        (DI, _) => 5,
        (BP, _) => 6,
        (BX, _) => 7,
        _ => return (0, 6),
    };
    (displacement_mode(i), rm)
}

/// Intel SDM vol. 2A tables 2-2 and 2-3.
fn long_form(i: &Instruction) -> (u16, u16) {
    const SIB: u16 = 4;
    const NO_BASE: u16 = 5;
    let base = i.memory_base();
    let mode = if base == Register::None {
        0
    } else {
        displacement_mode(i)
    };
    if i.is_ip_rel_memory_operand() {
        return (0, NO_BASE);
    }
    if i.memory_index() != Register::None {
        return (mode, SIB);
    }
    match base {
        // In 64-bit code the form without SIB is RIP-relative.
        Register::None if i.code_size() == CodeSize::Code64 => (0, SIB),
        Register::None => (0, NO_BASE),
        _ => (mode, base.number() as u16 & 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Decoder;

    #[test]
    fn operand_bits_are_those_of_the_encoding() {
        // FLD m32fp and FADD ST(0), ST(5) in the three code sizes.
        let cases: [(u32, &[u8]); 16] = [
            (64, &[0xd9, 0x00]),
            (64, &[0xd9, 0x40, 0]),
            (64, &[0x41, 0xd9, 0x85, 0, 0, 0, 0]),
            (64, &[0xd9, 0x05, 1, 0, 0, 0]),
            (64, &[0x67, 0xd9, 0x05, 1, 0, 0, 0]),
            (64, &[0xd9, 0x04, 0x25, 1, 0, 0, 0]),
            (64, &[0xd9, 0x04, 0x24]),
            (64, &[0x41, 0xd9, 0x44, 0x24, 8]),
            (64, &[0xd9, 0x84, 0xc8, 8, 0, 0, 0]),
            (64, &[0xd8, 0xc5]),
            (32, &[0xd9, 0x05, 1, 0, 0, 0]),
            (32, &[0xd9, 0x04, 0x8d, 1, 0, 0, 0]),
            (32, &[0x67, 0xd9, 0x42, 1]),
            (16, &[0xd9, 0x06, 1, 0]),
            (16, &[0xd9, 0x87, 1, 0]),
            (16, &[0xd9, 0x46, 0]),
        ];
        for (bits, bytes) in cases {
            let i = Decoder::with_ip(bits, bytes, 0, 0).decode();
            let mem = if i.op_count() == 1 { 0 } else { Op::NO_MEMORY };
            let op = Op {
                mem,
                a: 0,
                b: 5,
                ..blank()
            };
            let at = bytes.iter().position(|b| b & 0xf8 == 0xd8).unwrap();
            assert_eq!(
                operand_bits(&i, &op),
                bytes[at + 1] as u16 & 0xc7 & if mem == 0 { 0xc7 } else { 7 }
            );
        }
    }

    fn blank() -> Op {
        Op {
            run: |_, _| Ok(()),
            imm: 0,
            disp: 0,
            len: 0,
            a: 0,
            b: 0,
            c: 0,
            d: 0,
            mem: 0,
            base: 0,
            index: 0,
            scale: 0,
            seg: 0,
            address_size: 0,
            size: 0,
            x: 0,
            bits: 0,
        }
    }
}
