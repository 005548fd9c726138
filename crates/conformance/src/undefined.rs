//! What the manual leaves undefined, and so is not compared.
//!
//! Every entry cites the section that says so; where none does, everything is compared. Section names are
//! those of Intel SDM vol. 2 ("Flags Affected", "FPU Flags Affected") unless said otherwise. Entries marked
//! *vendor* are defined by each manufacturer, differently.

mod faults;
pub(crate) mod fpu;

use crate::case::{Case, Mode};
use crate::outcome::{End, Outcome};
use donjon_x86::bits::rflags::{AF, CF, OF, PF, RF, SF, STATUS, ZF};
use donjon_x86::exception;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// How far apart two results of an approximation may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Tolerance {
    /// None: bit for bit.
    Exact,
    /// Binary32 lanes of this vector register, by relative error.
    Vector {
        /// Register number.
        register: usize,
        /// Relative error.
        relative: f64,
    },
    /// x87 registers that changed, by units in the last place.
    X87 {
        /// Units.
        units: u64,
    },
}

/// What not to compare.
#[derive(Clone, PartialEq, Debug)]
pub struct Undefined {
    /// Flags.
    pub rflags: u64,
    /// Bits of each general-purpose register.
    pub gpr: [u64; 16],
    /// Whole vector registers, one bit each.
    pub ymm: u16,
    /// Bits of the x87 status word.
    pub status: u16,
    /// Bits of MXCSR.
    pub mxcsr: u32,
    /// Stretches of memory, by linear address and length.
    pub memory: Vec<(u64, usize)>,
    /// The whole scratch area.
    pub all_memory: bool,
    /// RIP.
    pub rip: bool,
    /// CR2: several accesses of one instruction are in an order of the processor's own.
    pub cr2: bool,
    /// Vectors whose conditions all hold: which of them is raised is up to the processor.
    pub faults: Vec<u8>,
    /// Approximate results.
    pub tolerance: Tolerance,
}

impl Undefined {
    /// Nothing.
    pub const NONE: Self = Self {
        rflags: 0,
        gpr: [0; 16],
        ymm: 0,
        status: 0,
        mxcsr: 0,
        memory: Vec::new(),
        all_memory: false,
        rip: false,
        cr2: false,
        faults: Vec::new(),
        tolerance: Tolerance::Exact,
    };
}

/// The instruction of a case.
pub fn decode(case: &Case) -> Instruction {
    Decoder::with_ip(
        case.mode.bits(),
        case.instruction(),
        case.before.rip,
        DecoderOptions::NONE,
    )
    .decode()
}

/// A general-purpose register's number and the bits of it that `register` names.
fn gpr(register: Register) -> Option<(usize, u64)> {
    if !register.is_gpr() {
        return None;
    }
    let number = register.full_register().number();
    Some(match register.size() {
        1 if matches!(
            register,
            Register::AH | Register::CH | Register::DH | Register::BH
        ) =>
        {
            (number, 0xff00)
        }
        n => (number, u64::MAX >> (64 - 8 * n)),
    })
}

/// The value of a register operand before the instruction.
fn value(case: &Case, register: Register) -> u64 {
    gpr(register).map_or(0, |(n, mask)| {
        (case.before.gpr[n] & mask) >> mask.trailing_zeros()
    })
}

/// The linear address of an offset.
pub(crate) fn linear(case: &Case, segment: Register, offset: u64) -> u64 {
    let r = &case.before;
    if case.mode != Mode::Long {
        let base = crate::generate::segment_base(r.selectors[segment.number()]);
        return offset.wrapping_add(base) & 0xffff_ffff;
    }
    offset.wrapping_add(match segment {
        Register::FS => r.fs_base,
        Register::GS => r.gs_base,
        _ => 0,
    })
}

/// Where the memory operand lies.
pub(crate) fn memory_address(case: &Case, i: &Instruction) -> Option<u64> {
    Some(linear(case, i.memory_segment(), memory_offset(case, i)?))
}

/// The memory operand's offset in its segment. For a bit string it is that of the accessed word.
pub(crate) fn memory_offset(case: &Case, i: &Instruction) -> Option<u64> {
    let operand = i.op_kinds().position(|k| k == OpKind::Memory)?;
    operand_offset(case, i, operand)
}

/// The offset of memory operand `operand`, named by the encoding or implied.
pub(crate) fn operand_offset(case: &Case, i: &Instruction, operand: usize) -> Option<u64> {
    let r = &case.before;
    let offset = i.virtual_address(operand as u32, 0, |register, _, _| {
        Some(if register.is_segment_register() {
            0
        } else if let Some((n, mask)) = gpr(register) {
            r.gpr[n] & mask
        } else {
            return None;
        })
    })?;
    use Mnemonic::*;
    let string = matches!(i.mnemonic(), Bt | Btc | Btr | Bts) && i.op1_kind() == OpKind::Register;
    if !string {
        return Some(offset);
    }
    let size = i.memory_size().size() as u32;
    let sign = 64 - 8 * size;
    let bit = (value(case, i.op1_register()) << sign) as i64 >> sign;
    let word = bit >> (8 * size).trailing_zeros();
    let address_bits = match i.memory_base() {
        Register::None => i.memory_index(),
        base => base,
    };
    let mask = match address_bits.size() {
        0 => u64::MAX >> (64 - case.mode.bits()),
        n => u64::MAX >> (64 - 8 * n),
    };
    Some(offset.wrapping_add((word * size as i64) as u64) & mask)
}

/// Bits of operand 0.
fn operand_bits(i: &Instruction) -> u32 {
    match i.op0_kind() {
        OpKind::Register => i.op0_register().size() as u32 * 8,
        _ => i.memory_size().size() as u32 * 8,
    }
}

fn is_shift(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        i.mnemonic(),
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
    )
}

/// The shift count of a shift or rotate, masked as the processor does.
fn count(case: &Case, i: &Instruction) -> u32 {
    if !is_shift(i) {
        return 0;
    }
    let raw = match i.op_kind(i.op_count() - 1) {
        OpKind::Immediate8 => i.immediate8() as u64,
        OpKind::Register => value(case, Register::CL),
        _ => 1,
    };
    (raw & if operand_bits(i) == 64 { 63 } else { 31 }) as u32
}

/// What is not compared after `case`, given what the processor did.
pub fn undefined(case: &Case, native: &Outcome) -> Undefined {
    use Mnemonic::*;
    let i = decode(case);
    let mut u = Undefined::NONE;
    if i.is_invalid() {
        return u;
    }
    fpu::undefined(case, &i, native, &mut u);
    // vol. 3B §17.3.1.1: a trap between the iterations of a repeated string instruction pushes RF set; AMD's
    // processors push it clear.
    if matches!(
        native.end,
        End::Exception {
            vector: exception::DB,
            ..
        }
    ) && native.after.rip == case.before.rip
    {
        u.rflags |= RF;
    }
    if let End::Exception { .. } = native.end
        && native.after.rip == case.before.rip
    {
        fault(&i, &mut u);
        u.faults = faults::possible(case, &i, native);
    }
    match i.mnemonic() {
        // PUSH: of a segment register, all of the operand is written with zeros above the selector, or only
        // its low 16 bits.
        Push if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() => {
            let size = -i.stack_pointer_increment();
            if size > 2 {
                u.memory
                    .push((stack_top(native, case.mode) + 2, size as usize - 2));
            }
        }
        // vol. 1 §3.4.1.1: upper halves of registers are not preserved from 64-bit to compatibility mode.
        Jmp | Call | Retf | Iret | Iretd | Iretq if case.mode == Mode::Long && is_far(&i) => {
            u.gpr[..8].fill(!0xffff_ffff);
        }
        // Not the manual but hypervisors: see `forms::named`.
        Int1 => u.rip = true,
        // SHLD, SHRD.
        Shld | Shrd if count(case, &i) > operand_bits(&i) => destination(case, &i, &mut u),
        // BSWAP: "when a 16-bit register is referenced, the result is undefined".
        Bswap if i.op0_register().size() == 2 => destination(case, &i, &mut u),
        // RDRAND, RDSEED: random, and may fail.
        Rdrand | Rdseed => destination(case, &i, &mut u),
        // RDTSC, RDTSCP, CPUID, XGETBV, RDPID: the guest's own; their high halves are zero.
        Rdtsc => low_halves(&mut u, &[0, 2]),
        Rdtscp => low_halves(&mut u, &[0, 1, 2]),
        Cpuid => low_halves(&mut u, &[0, 1, 2, 3]),
        Xgetbv => low_halves(&mut u, &[0, 2]),
        Rdpid => destination(case, &i, &mut u),
        // RCPPS, RSQRTPS: |relative error| ≤ 1.5 · 2^-12, of each.
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss => {
            let register = i.op0_register().number();
            u.tolerance = Tolerance::Vector {
                register,
                relative: 3.0 / 4096.0,
            };
        }
        _ => {}
    }
    u.rflags |= flags(&i, count(case, &i));
    u
}

/// The flags that an instruction leaves undefined; `n` is its shift count, if it has one.
pub(crate) fn flags(i: &Instruction, n: u32) -> u64 {
    use Mnemonic::*;
    match i.mnemonic() {
        // AND, OR, XOR, TEST.
        And | Or | Xor | Test => AF,
        // ANDN, BLSI, BLSMSK, BLSR, BZHI.
        Andn | Blsi | Blsmsk | Blsr | Bzhi => AF | PF,
        // BEXTR.
        Bextr => AF | SF | PF,
        // MUL, IMUL.
        Mul | Imul => SF | ZF | AF | PF,
        // DIV, IDIV.
        Div | Idiv => STATUS,
        // SAL/SAR/SHL/SHR.
        Shl | Sal | Shr | Sar if n != 0 => {
            let carry = n >= operand_bits(i) && i.mnemonic() != Sar;
            AF | if n != 1 { OF } else { 0 } | if carry { CF } else { 0 }
        }
        // RCL/RCR/ROL/ROR.
        Rol | Ror | Rcl | Rcr if !matches!(n, 0 | 1) => OF,
        // SHLD, SHRD.
        Shld | Shrd if n > operand_bits(i) => STATUS,
        Shld | Shrd if n != 0 => AF | if n != 1 { OF } else { 0 },
        // BSF, BSR. With a zero source the destination is "undefined" in older manuals; both vendors leave
        // it as it was (AMD APM vol. 3, BSF), and so must an engine.
        Bsf | Bsr => CF | OF | SF | AF | PF,
        // BT, BTC, BTR, BTS.
        Bt | Btc | Btr | Bts => OF | SF | AF | PF,
        // LZCNT, TZCNT.
        Lzcnt | Tzcnt => OF | SF | PF | AF,
        // AAA, AAS.
        Aaa | Aas => OF | SF | ZF | PF,
        // AAD, AAM.
        Aad | Aam => OF | AF | CF,
        // DAA, DAS.
        Daa | Das => OF,
        // RDRAND, RDSEED: whether they fail is random.
        Rdrand | Rdseed => CF,
        _ => 0,
    }
}

/// The shift counts an instruction may have, as far as they differ in what they leave undefined; none if it
/// does not shift.
pub(crate) fn counts(i: &Instruction) -> Vec<u32> {
    if !is_shift(i) {
        return Vec::new();
    }
    let bits = operand_bits(i);
    let mask = if bits == 64 { 63 } else { 31 };
    match i.op_kind(i.op_count() - 1) {
        OpKind::Immediate8 => vec![i.immediate8() as u32 & mask],
        OpKind::Register => [0, 1, 2, bits, bits + 1]
            .into_iter()
            .filter(|n| *n <= mask)
            .collect(),
        _ => vec![1],
    }
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far()
        || i.is_jmp_far_indirect()
        || i.is_call_far()
        || i.is_call_far_indirect()
        || !matches!(i.mnemonic(), Mnemonic::Jmp | Mnemonic::Call)
}

/// The linear address of the top of the stack afterwards.
fn stack_top(native: &Outcome, mode: Mode) -> u64 {
    use crate::layout::selector::{DATA16, WINDOW_BASE};
    let (rsp, ss) = (native.after.gpr[4], native.after.selectors[2]);
    if mode != Mode::Long && ss == DATA16 {
        WINDOW_BASE + (rsp & 0xffff)
    } else {
        rsp
    }
}

/// The destination operand.
fn destination(case: &Case, i: &Instruction, u: &mut Undefined) {
    match i.op0_kind() {
        OpKind::Register => {
            if let Some((n, mask)) = gpr(i.op0_register()) {
                u.gpr[n] = mask;
            }
        }
        OpKind::Memory => {
            if let Some(at) = memory_address(case, i) {
                u.memory.push((at, i.memory_size().size()));
            }
        }
        _ => {}
    }
}

fn low_halves(u: &mut Undefined, registers: &[usize]) {
    registers.iter().for_each(|&r| u.gpr[r] = 0xffff_ffff);
}

/// What an instruction that faults may have done already.
fn fault(i: &Instruction, u: &mut Undefined) {
    use Mnemonic::*;
    match i.mnemonic() {
        // VGATHER…, VPGATHER…: elements before the faulting one are complete, later ones may be; the mask
        // says which.
        Vgatherdpd | Vgatherdps | Vgatherqpd | Vgatherqps | Vpgatherdd | Vpgatherdq | Vpgatherqd
        | Vpgatherqq => {
            u.ymm = 1 << i.op0_register().number() | 1 << i.op2_register().number();
        }
        // vol. 1 §13.5 and vol. 2, FXSAVE, FNSAVE: which parts are written before a fault in a later part is
        // not specified. The same goes for stores of several words: vol. 3A §9.1.1.
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 | Fxsave | Fxsave64 | Fnsave
        | Fnstenv | Pusha | Pushad | Enter | Call => {
            u.all_memory = true;
            u.cr2 = true;
        }
        Fldenv | Frstor | Fxrstor | Fxrstor64 | Xrstor | Xrstor64 | Popa | Popad | Retf | Iret | Iretd
        | Iretq => {
            u.cr2 = true;
            if matches!(i.mnemonic(), Popa | Popad) {
                // POPA: whether registers popped before the faulting one are written is not specified.
                u.gpr = [u64::MAX; 16];
                u.gpr[4] = 0;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regs::Regs;

    fn case(bytes: &[u8], rcx: u64) -> Case {
        let mut before = Regs {
            rip: crate::layout::CODE,
            ..Regs::default()
        };
        before.gpr[1] = rcx;
        Case {
            index: 0,
            code: iced_x86::Code::INVALID,
            mode: Mode::Long,
            before,
            length: bytes.len(),
            program: vec![crate::case::CodeBytes::new(crate::layout::CODE, bytes)],
            patches: vec![],
        }
    }

    fn flags(bytes: &[u8], rcx: u64) -> u64 {
        let c = case(bytes, rcx);
        let done = Outcome {
            end: End::Completed,
            after: Regs::default(),
            memory: vec![],
        };
        undefined(&c, &done).rflags
    }

    #[test]
    fn shifts_depend_on_the_count() {
        // SHL EAX, CL and SHL AX, CL.
        assert_eq!(flags(&[0xd3, 0xe0], 0), 0);
        assert_eq!(flags(&[0xd3, 0xe0], 32), 0, "the count is masked");
        assert_eq!(flags(&[0xd3, 0xe0], 1), AF);
        assert_eq!(flags(&[0xd3, 0xe0], 5), AF | OF);
        assert_eq!(flags(&[0x66, 0xd3, 0xe0], 16), AF | OF | CF);
        assert_eq!(flags(&[0x66, 0xd3, 0xf8], 16), AF | OF, "SAR defines CF");
        assert_eq!(flags(&[0xd1, 0xe0], 9), AF, "SHL EAX, 1");
        assert_eq!(flags(&[0xc1, 0xc0, 0x03], 0), OF, "ROL EAX, 3");
    }

    #[test]
    fn little_is_undefined() {
        assert_eq!(flags(&[0x01, 0xc8], 0), 0, "ADD");
        assert_eq!(flags(&[0x21, 0xc8], 0), AF, "AND");
        assert_eq!(flags(&[0xf7, 0xe1], 0), SF | ZF | AF | PF, "MUL");
        assert_eq!(flags(&[0xf3, 0x0f, 0xb8, 0xc1], 0), 0, "POPCNT");
        assert_eq!(flags(&[0x0f, 0xb1, 0xc8], 0), 0, "CMPXCHG");
    }

    #[test]
    fn a_double_shift_beyond_the_size_leaves_its_destination_undefined() {
        // SHLD AX, CX, 20.
        let c = case(&[0x66, 0x0f, 0xa4, 0xc8, 20], 0);
        let done = Outcome {
            end: End::Completed,
            after: Regs::default(),
            memory: vec![],
        };
        let u = undefined(&c, &done);
        assert_eq!((u.rflags, u.gpr[0]), (STATUS, 0xffff));
    }
}
