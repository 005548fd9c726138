//! Picking the handler of a decoded instruction.

use super::operand::size_code;
use super::{Handler, Op};
use crate::cpu::{Cpu, R};
use crate::insn;
use iced_x86::{Instruction, OpKind};

/// An op without operands that raises #UD.
pub fn undefined_op() -> Op {
    Op {
        run: undefined,
        imm: 0,
        disp: 0,
        len: 1,
        a: 0,
        b: 0,
        c: 0,
        d: 0,
        mem: Op::NO_MEMORY,
        base: Op::ZERO,
        index: Op::ZERO,
        scale: 0,
        seg: 0,
        address_size: 0,
        size: 0,
        x: 0,
        bits: 0,
    }
}

/// #UD.
pub fn undefined(cpu: &mut Cpu, _: &Op) -> R {
    Err(cpu.ud())
}

/// #GP(0), for an instruction longer than 15 bytes.
pub fn too_long(cpu: &mut Cpu, _: &Op) -> R {
    Err(cpu.gp(0))
}

/// Size code of the first operand.
fn operand_size(i: &Instruction) -> u8 {
    if i.op_count() == 0 {
        return 0;
    }
    match i.op_kind(0) {
        OpKind::Register => size_code(i.op_register(0).size()),
        _ => size_code(i.memory_size().size()),
    }
}

/// The handler of an instruction, with the op's handler-specific fields filled in; `None` if it does not
/// exist on this processor.
pub fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    op.size = operand_size(i);
    insn::moves::lower(i, op)
        .or_else(|| insn::alu::lower(i, op))
        .or_else(|| insn::branch::lower(i, op))
        .or_else(|| insn::stack::lower(i, op))
        .or_else(|| insn::shift::lower(i, op))
        .or_else(|| insn::bits::lower(i, op))
        .or_else(|| insn::multiply::lower(i, op))
        .or_else(|| insn::exchange::lower(i, op))
        .or_else(|| insn::string::lower(i, op))
        .or_else(|| insn::simd::lower(i, op))
        .or_else(|| insn::x87::lower(i, op))
        .or_else(|| insn::decimal::lower(i, op))
        .or_else(|| insn::system::lower(i, op))
        .or_else(|| insn::control::lower(i, op))
        .or_else(|| insn::msr::lower(i, op))
        .or_else(|| insn::syscall::lower(i, op))
        .or_else(|| insn::segment::lower(i, op))
        .or_else(|| insn::far::lower(i, op))
        .or_else(|| insn::io::lower(i, op))
}
