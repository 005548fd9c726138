//! Several faults at once.
//!
//! Stack-segment, general-protection, page, alignment and floating-point faults of one instruction are in
//! one priority class, within which the order is up to the processor (Intel SDM vol. 3A table 6-2, lowest
//! class and its note). So when the memory operand meets the conditions of two, either will do.

use super::{linear, memory_offset, operand_offset};
use crate::case::{Case, Mode};
use crate::layout::*;
use crate::outcome::Outcome;
use crate::regs::XSAVE_SIZE;
use donjon_x86::bits::rflags;
use donjon_x86::exception::{AC, GP, NP, PF, SS};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

fn canonical(a: u64) -> bool {
    (a << 16) as i64 >> 16 == a as i64
}

/// Whether a program may read and write all of it.
fn writable(first: u64, last: u64) -> bool {
    let within = |start: u64, size: u64| first >= start && last < start + size && first <= last;
    within(CODE, CODE_SIZE) || within(SCRATCH, SCRATCH_SIZE)
}

/// The vectors whose conditions hold for the instruction's memory operands.
pub fn possible(case: &Case, i: &Instruction, native: &Outcome) -> Vec<u8> {
    // A repeated string instruction faults at the element its registers have got to.
    let mut at_fault = case.clone();
    at_fault.before.gpr = native.after.gpr;
    let mut vectors: Vec<u8> = (0..i.op_count())
        .filter(|&n| is_memory(i.op_kind(n)))
        .flat_map(|n| operand(&at_fault, i, n))
        .collect();
    if i.is_stack_instruction() {
        stack(case, &mut vectors);
        if matches!(
            i.mnemonic(),
            Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq
        ) {
            // How much of an outer stack's pointer is read before the selector is looked at.
            vectors.extend([GP, SS, NP, PF, AC]);
        }
        if i.mnemonic() == Mnemonic::Call {
            // The target's own checks come before or after the push.
            vectors.push(GP);
        }
    }
    let narrow = case.before.selectors[2] == selector::DATA16;
    let top = case.before.gpr[4] | if narrow { 0xffff_0000 } else { 0 };
    if i.is_vsib() {
        // Which of several bad elements is found first.
        vectors.extend([GP, SS, PF]);
    }
    let low = case.before.gpr[4] as u32 & if narrow { 0xffff } else { u32::MAX };
    if i.is_stack_instruction() && case.mode != Mode::Long && (top as u32 > 0xffff_ff00 || low < 0x100) {
        // Its several words wrap around the stack's end.
        vectors.extend([SS, PF]);
    }
    vectors
}

/// The conditions the top of the stack meets.
fn stack(case: &Case, vectors: &mut Vec<u8>) {
    let rsp = case.before.gpr[4];
    let top = match case.mode {
        Mode::Long => rsp,
        _ if case.before.selectors[2] == selector::DATA16 => selector::WINDOW_BASE + (rsp & 0xffff),
        _ => rsp & 0xffff_ffff,
    };
    let (first, last) = (top.wrapping_sub(8), top.wrapping_add(7));
    if case.mode == Mode::Long && (!canonical(first) || !canonical(last)) {
        vectors.push(SS);
    }
    if !writable(first, last) && canonical(top) {
        vectors.push(PF);
    }
    if case.before.rflags & rflags::AC != 0 && !top.is_multiple_of(8) {
        vectors.push(AC);
    }
}

fn is_masked(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq | Maskmovq | Maskmovdqu | Vmaskmovdqu
    )
}

fn is_memory(k: OpKind) -> bool {
    use OpKind::*;
    matches!(
        k,
        Memory
            | MemorySegSI
            | MemorySegESI
            | MemorySegRSI
            | MemorySegDI
            | MemorySegEDI
            | MemorySegRDI
            | MemoryESDI
            | MemoryESEDI
            | MemoryESRDI
    )
}

/// The vectors whose conditions hold for one memory operand.
fn operand(case: &Case, i: &Instruction, n: u32) -> Vec<u8> {
    let Some(offset) = (if i.op_kind(n) == OpKind::Memory {
        memory_offset(case, i)
    } else {
        operand_offset(case, i, n as usize)
    }) else {
        return Vec::new();
    };
    let segment = match i.op_kind(n) {
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => Register::ES,
        _ => i.memory_segment(),
    };
    let at = linear(case, segment, offset);
    let size = match i.memory_size() {
        MemorySize::Xsave | MemorySize::Xsave64 => XSAVE_SIZE as u64,
        m => m.size().max(1) as u64,
    };
    // Of what the instruction may ask for; if it does not, nothing expects the fault.
    let align = match size {
        32 => 32,
        n if n == XSAVE_SIZE as u64 => 64,
        _ => 16,
    };
    let (last, last_offset) = (at.wrapping_add(size - 1), offset.wrapping_add(size - 1));
    let stack = matches!(i.memory_base().full_register(), Register::RSP | Register::RBP);
    let mut vectors = Vec::new();
    // Segmentation comes before paging and alignment for the first byte.
    let begins_beyond = match case.mode {
        // An operand of which only some elements count may begin anywhere.
        _ if is_masked(i.mnemonic()) => false,
        Mode::Long => !canonical(at),
        _ => offset > crate::generate::segment_limit(case.before.selectors[segment.number()]) as u64,
    };
    let beyond = match case.mode {
        // AMD's processors refuse an access that faults for another reason when the sum of base register,
        // index and displacement is not canonical or wraps around, although with the segment base it is.
        Mode::Long => !canonical(at) || !canonical(last) || !canonical(offset) || at < offset,
        _ => {
            let limit = crate::generate::segment_limit(case.before.selectors[segment.number()]) as u64;
            offset > limit || last_offset > limit
        }
    };
    if beyond {
        let on_stack = match case.mode {
            // Other overrides are ignored.
            Mode::Long => stack && !matches!(segment, Register::FS | Register::GS),
            _ => segment == Register::SS,
        };
        vectors.push(if on_stack { SS } else { GP });
    }
    if size >= 16 && !at.is_multiple_of(align) {
        vectors.push(GP);
    }
    if !begins_beyond && !writable(at, last) {
        vectors.push(PF);
    }
    if !begins_beyond && case.before.rflags & rflags::AC != 0 && !at.is_multiple_of(size.min(8)) {
        vectors.push(AC);
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::End;
    use crate::undefined::decode;

    /// The possible faults of a store with RAX as address.
    fn of(bytes: &[u8], rax: u64) -> Vec<u8> {
        let case = Case::of_bytes(Mode::Long, bytes, |r| r.gpr[0] = rax);
        let done = Outcome {
            end: End::Completed,
            after: case.before.clone(),
            memory: vec![],
        };
        possible(&case, &decode(&case), &done)
    }

    #[test]
    fn one_condition_is_one_fault() {
        // MOV [RAX], AL; MOV [RAX], RAX; MOVAPS [RAX], XMM0.
        let (byte, word, vector): (&[u8], &[u8], &[u8]) =
            (&[0x88, 0x00], &[0x48, 0x89, 0x00], &[0x0f, 0x29, 0x00]);
        assert_eq!(of(byte, SCRATCH), []);
        assert_eq!(of(byte, SCRATCH_END), [PF]);
        assert_eq!(of(byte, 1 << 62), [GP]);
        assert_eq!(of(word, SCRATCH_END - 4), [PF]);
        assert_eq!(of(vector, SCRATCH + 8), [GP]);
        assert_eq!(of(vector, READ_ONLY), [PF]);
    }

    #[test]
    fn two_conditions_are_two() {
        assert_eq!(of(&[0x0f, 0x29, 0x00], SCRATCH_END + 8), [GP, PF]);
        assert_eq!(of(&[0x48, 0x89, 0x00], 0x7fff_ffff_fffc), [GP, PF]);
    }
}
