//! Operands of a decoded instruction in the form handlers use.

use super::Op;
use donjon_x86::Seg;
use iced_x86::{Instruction, OpKind, Register};

/// The number handlers know a register by (see [`Op`]).
pub(crate) fn register_number(r: Register) -> u8 {
    match r {
        Register::None => Op::ZERO,
        Register::AH => Op::HIGH_BYTE,
        Register::CH => Op::HIGH_BYTE + 1,
        Register::DH => Op::HIGH_BYTE + 2,
        Register::BH => Op::HIGH_BYTE + 3,
        Register::RIP | Register::EIP => Op::RIP,
        // Byte registers: AL CL DL BL, the four high ones, then SPL …
        r if r.is_gpr8() && r.number() >= 8 => r.number() as u8 - 4,
        r => r.number() as u8,
    }
}

/// The segment of a memory operand. In 64-bit mode overrides other than FS and GS are ignored, also in
/// deciding between #SS and #GP (Intel SDM vol. 1 §3.3.7.1, AMD APM vol. 1 §4.5.3).
fn segment(i: &Instruction) -> u8 {
    let r = i.memory_segment();
    if i.code_size() == iced_x86::CodeSize::Code64 && !matches!(r, Register::FS | Register::GS) {
        return match i.memory_base() {
            Register::RSP | Register::ESP | Register::RBP | Register::EBP => Seg::Ss as u8,
            _ => Seg::Ds as u8,
        };
    }
    crate::insn::moves::segment_number(r)
}

/// log2 of an operand size in bytes, 8 at most.
pub(crate) fn size_code(bytes: usize) -> u8 {
    match bytes {
        0 | 1 => 0,
        2 => 1,
        4 => 2,
        _ => 3,
    }
}

/// Fills in everything about operands that does not depend on the handler. The instruction was decoded
/// as if at address zero, so that relative displacements count from the instruction itself.
pub(crate) fn fill(i: &Instruction, op: &mut Op) {
    op.len = i.len() as u8;
    op.mem = Op::NO_MEMORY;
    (op.base, op.index) = (Op::ZERO, Op::ZERO);
    let mut slots = [0u8; 5];
    for n in 0..i.op_count() {
        let slot = &mut slots[n as usize];
        match i.op_kind(n) {
            OpKind::Register => *slot = register_number(i.op_register(n)),
            OpKind::Memory => {
                op.mem = n as u8;
                op.base = register_number(i.memory_base());
                op.index = register_number(i.memory_index());
                op.scale = i.memory_index_scale().trailing_zeros() as u8;
                op.seg = segment(i);
                op.disp = i.memory_displacement64();
                op.address_size = address_size(i);
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = i.near_branch_target()
            }
            OpKind::FarBranch16 => {
                op.imm = i.far_branch16() as u64;
                op.disp = i.far_branch_selector() as u64;
            }
            OpKind::FarBranch32 => {
                op.imm = i.far_branch32() as u64;
                op.disp = i.far_branch_selector() as u64;
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => op.imm = i.immediate(n),
            // String operands: segment and address size of the source.
            OpKind::MemorySegSI | OpKind::MemorySegDI => (op.seg, op.address_size) = (segment(i), 0),
            OpKind::MemorySegESI | OpKind::MemorySegEDI => (op.seg, op.address_size) = (segment(i), 1),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI => (op.seg, op.address_size) = (segment(i), 2),
            OpKind::MemoryESDI => op.address_size = 0,
            OpKind::MemoryESEDI => op.address_size = 1,
            OpKind::MemoryESRDI => op.address_size = 2,
        }
    }
    [op.a, op.b, op.c, op.d, _] = slots;
    op.bits = 0;
    if i.has_lock_prefix() {
        op.bits |= Op::LOCK;
    }
    if i.has_rep_prefix() {
        op.bits |= Op::REP;
    }
    if i.has_repne_prefix() {
        op.bits |= Op::REPNE;
    }
}

/// Effective-address size, from the registers or the displacement if there are none.
fn address_size(i: &Instruction) -> u8 {
    let base = i.memory_base();
    if base == Register::RIP {
        return 2;
    }
    if base == Register::EIP {
        return 1;
    }
    let index = i.memory_index();
    let by = if base != Register::None || index.is_xmm() || index.is_ymm() || index.is_zmm() {
        base
    } else {
        index
    };
    match by.size() {
        2 => 0,
        4 => 1,
        8 => 2,
        _ => match i.memory_displ_size() {
            2 => 0,
            4 => 1,
            _ => 2,
        },
    }
}
