//! Which host register holds which guest register.
//!
//! Translated code has two registers to itself, [`T`] and [`W`], and RSP points to the frame. That leaves
//! thirteen for sixteen guest registers; R13, R14 and R15, which compilers hand out last, stay in the frame.
//! RAX must be free for LAHF, which is the cheap way to keep the status flags.

use super::asm::host;
use super::asm::{Mem, Rm};
use super::frame::offset;

/// Scratch register: table index, flags, values.
pub const T: u8 = host::RAX;
/// Holds a host address while the page it is in is known.
pub const W: u8 = host::R15;

const IN_FRAME: Option<u8> = None;

/// The host register of each guest register.
pub const HOST: [Option<u8>; 16] = [
    Some(host::R13),
    Some(host::RCX),
    Some(host::RDX),
    Some(host::RBX),
    Some(host::R14),
    Some(host::RBP),
    Some(host::RSI),
    Some(host::RDI),
    Some(host::R8),
    Some(9),
    Some(10),
    Some(host::R11),
    Some(host::R12),
    IN_FRAME,
    IN_FRAME,
    IN_FRAME,
];

/// Guest registers in the frame, and where.
pub const SPILLED: [(u8, i32); 3] = [
    (13, offset::SPILLED),
    (14, offset::SPILLED + 8),
    (15, offset::SPILLED + 16),
];

/// A guest register as an operand.
pub fn operand(guest: u8) -> Rm {
    match HOST[guest as usize] {
        Some(host) => Rm::Reg(host),
        None => Rm::Mem(slot(guest)),
    }
}

/// The frame's slot of a guest register that has no host register.
pub fn slot(guest: u8) -> Mem {
    Mem::at(host::RSP, offset::SPILLED + (guest as i32 - 13) * 8)
}
