//! Which instructions are translated, and in what way.

use crate::translate::asm::Map;
use crate::translate::encoding::Encoding;
use crate::translate::frame::Mode;
use crate::translate::registers::HOST;
use crate::translate::unit::Insn;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic};

/// What an instruction does with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// ModRM.reg extends the opcode.
    Digit,
    Read,
    Write,
    Update,
}

/// The operands of an instruction with ModRM and general registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub reg: Role,
    pub rm: Role,
    pub reg_byte: bool,
    pub rm_byte: bool,
}

/// Where a vector instruction has a general register, if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum General {
    None,
    RegWrite,
    RmRead,
    RmWrite,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// General registers and memory, through ModRM.
    Plain(Shape),
    /// ALU operation or TEST (8) of the accumulator and an immediate; whether on bytes.
    Accumulator(u8, bool),
    /// MUL, IMUL, DIV, IDIV of the accumulator.
    Multiply,
    CompareExchange,
    CompareExchangeWide,
    /// MOV of an immediate to a register.
    Immediate,
    ExchangeAccumulator,
    ByteSwap,
    /// CBW, CWDE, CDQE.
    ExtendAccumulator,
    /// CWD, CDQ, CQO.
    SignOfAccumulator,
    /// CMC, CLC, STC.
    Carry,
    Lahf,
    Sahf,
    Lea,
    Nop,
    /// PAUSE and fences: as they are.
    Verbatim,
    /// VEX-encoded, on general registers.
    Bmi,
    Vector(General),
    /// x87, on the guest's own registers.
    X87,
    PushRegister,
    PushImmediate,
    PushMemory,
    PopRegister,
    PushFlags,
    Leave,
    Jcc,
    Jmp,
    Call,
    JmpIndirect,
    CallIndirect,
    Ret,
    Cli,
    Sti,
    Stac,
    Clac,
    Cld,
    Std,
    Swapgs,
    /// The interpreter's, called from translated code; control goes on behind it.
    Step,
    /// The same for what may go anywhere.
    StepBranch,
}

const fn shape(reg: Role, rm: Role) -> Shape {
    Shape {
        reg,
        rm,
        reg_byte: false,
        rm_byte: false,
    }
}

const fn bytes(s: Shape) -> Shape {
    Shape {
        reg_byte: true,
        rm_byte: true,
        ..s
    }
}

/// How an instruction is translated for a privilege.
pub fn family(i: &Instruction, e: &Encoding, mode: Mode) -> Family {
    use Family::*;
    match native(i, e) {
        // Privileged: the interpreter raises the fault.
        Some(Cli | Sti | Stac | Clac | Swapgs) if mode == Mode::User => Step,
        Some(family) => family,
        None if i.flow_control() == FlowControl::Next => Step,
        None => StepBranch,
    }
}

/// Whether a byte register is AH, CH, DH or BH, or one that is in the frame.
fn stands_in(e: &Encoding, n: u8, byte: bool) -> bool {
    HOST[n as usize].is_none() || byte && !e.prefix.rex && (4..8).contains(&n)
}

/// How an instruction is translated to host instructions, if it is.
fn native(i: &Instruction, e: &Encoding) -> Option<Family> {
    if e.vex.is_some() {
        return vex(i, e);
    }
    match e.map {
        Map::One => one(i, e),
        Map::Two => two(i, e),
        Map::T38 => t38(e),
        Map::T3A => t3a(e),
    }
}

fn one(i: &Instruction, e: &Encoding) -> Option<Family> {
    use Family::*;
    use Role::*;
    let sized = |byte: bool, s: Shape| if byte { bytes(s) } else { s };
    let byte = e.opcode & 1 == 0;
    Some(match e.opcode {
        0x00..=0x3f => {
            let compare = e.opcode >> 3 == 7;
            let changed = if compare { Read } else { Update };
            match e.opcode & 7 {
                0 | 1 => Plain(sized(byte, shape(Read, changed))),
                2 | 3 => Plain(sized(byte, shape(changed, Read))),
                4 | 5 => Accumulator(e.opcode >> 3, byte),
                _ => return None,
            }
        }
        _ if e.prefix.data16
            && matches!(e.opcode, 0x50..=0x5f | 0x68 | 0x6a | 0x9c | 0xc2 | 0xc3 | 0xc9 | 0xe8..=0xeb | 0x70..=0x7f) =>
        {
            return None;
        }
        0x50..=0x57 => PushRegister,
        0x58..=0x5f if e.rm != 4 => PopRegister,
        0x63 => Plain(shape(Write, Read)),
        0x68 | 0x6a => PushImmediate,
        0x69 | 0x6b => Plain(shape(Write, Read)),
        0x70..=0x7f => Jcc,
        0x80 | 0x81 | 0x83 => Plain(sized(
            e.opcode == 0x80,
            shape(Digit, if e.reg & 7 == 7 { Read } else { Update }),
        )),
        0x84 | 0x85 => Plain(sized(byte, shape(Read, Read))),
        0x86 | 0x87 => Plain(sized(byte, shape(Update, Update))),
        0x88 | 0x89 => Plain(sized(byte, shape(Read, Write))),
        0x8a | 0x8b => Plain(sized(byte, shape(Write, Read))),
        0x8d => {
            crate::translate::unit::effective_address(i, 0)?;
            Lea
        }
        0x90 if e.prefix.rep == 0xf3 => Verbatim,
        0x90 if e.rm == 0 => Nop,
        0x90..=0x97 => ExchangeAccumulator,
        0x98 => ExtendAccumulator,
        0x99 => SignOfAccumulator,
        0x9c => PushFlags,
        0x9e => Sahf,
        0x9f => Lahf,
        0xa8 | 0xa9 => Accumulator(8, byte),
        0xb0..=0xb7 if !e.prefix.rex && e.rm >= 4 => return None,
        0xb0..=0xbf => Immediate,
        0xc0 | 0xc1 | 0xd0..=0xd3 => Plain(sized(byte, shape(Digit, Update))),
        0xc2 | 0xc3 => Ret,
        0xc6 | 0xc7 if e.reg & 7 == 0 => Plain(sized(byte, shape(Digit, Write))),
        0xc9 => Leave,
        0xd8..=0xdf | 0x9b => return x87(e).then_some(X87),
        0xe8 => Call,
        0xe9 | 0xeb => Jmp,
        0xf5 | 0xf8 | 0xf9 => Carry,
        0xf6 | 0xf7 => match e.reg & 7 {
            0 | 1 => Plain(sized(byte, shape(Digit, Read))),
            2 | 3 => Plain(sized(byte, shape(Digit, Update))),
            _ if byte && e.direct && !e.prefix.rex && e.rm >= 4 => return None,
            _ => Multiply,
        },
        0xfa => Cli,
        0xfb => Sti,
        0xfc => Cld,
        0xfd => Std,
        0xfe => Plain(bytes(shape(Digit, Update))),
        0xff => match e.reg & 7 {
            0 | 1 => Plain(shape(Digit, Update)),
            _ if e.prefix.data16 => return None,
            2 => CallIndirect,
            4 => JmpIndirect,
            6 if e.direct => return None,
            6 => PushMemory,
            _ => return None,
        },
        _ => return None,
    })
}

/// Whether an x87 instruction runs as it is. Not those that unmask exceptions or tell where instructions
/// were, and not the approximations and decimal conversions, which are the interpreter's own.
fn x87(e: &Encoding) -> bool {
    let second = 0xc0 | (e.reg & 7) << 3 | e.rm & 7;
    match (e.opcode, e.direct) {
        (0x9b | 0xd8 | 0xdc | 0xde, _) | (0xda, false) => true,
        (0xd9, false) => matches!(e.reg & 7, 0 | 2 | 3 | 7),
        (0xdb, false) => matches!(e.reg & 7, 0..=3 | 5 | 7),
        (0xdd, false) => matches!(e.reg & 7, 0..=3 | 7),
        (0xdf, false) => matches!(e.reg & 7, 0..=3 | 5 | 7),
        (0xd9, true) => matches!(
            second,
            0xc0..=0xd0 | 0xe0 | 0xe1 | 0xe4 | 0xe5 | 0xe8..=0xee | 0xf4..=0xf8 | 0xfa | 0xfc | 0xfd
        ),
        (0xda, true) => matches!(second, 0xc0..=0xdf | 0xe9),
        (0xdb, true) => matches!(second, 0xc0..=0xdf | 0xe2 | 0xe3 | 0xe8..=0xf7),
        (0xdd, true) => matches!(second, 0xc0..=0xc7 | 0xd0..=0xef),
        (_, true) => matches!(second, 0xe0 | 0xe8..=0xf7),
        _ => false,
    }
}

fn two(i: &Instruction, e: &Encoding) -> Option<Family> {
    use Family::*;
    use Role::*;
    let prefix = |allowed: &[u8]| {
        let p = match (e.prefix.rep, e.prefix.data16) {
            (0, false) => 0,
            (0, true) => 0x66,
            (rep, _) => rep,
        };
        allowed.contains(&p)
    };
    let vector = |allowed: &[u8], g: General| prefix(allowed).then_some(Vector(g));
    Some(match e.opcode {
        0x01 if i.mnemonic() == Mnemonic::Swapgs => Swapgs,
        0x01 if i.mnemonic() == Mnemonic::Stac => Stac,
        0x01 if i.mnemonic() == Mnemonic::Clac => Clac,
        0x0d | 0x18..=0x1f => {
            let hint = matches!(
                i.mnemonic(),
                Mnemonic::Nop
                    | Mnemonic::Endbr64
                    | Mnemonic::Reservednop
                    | Mnemonic::Prefetchnta
                    | Mnemonic::Prefetcht0
                    | Mnemonic::Prefetcht1
                    | Mnemonic::Prefetcht2
                    | Mnemonic::Prefetchw
                    | Mnemonic::Prefetch
            );
            return hint.then_some(Nop);
        }
        0x10..=0x17 | 0x51 | 0x54..=0x5f | 0x28 | 0x29 | 0x2e | 0x2f | 0xc2 | 0xc6 => Vector(General::None),
        0x2b => return vector(&[0, 0x66], General::None),
        0x2a => return vector(&[0xf2, 0xf3], General::RmRead),
        0x2c | 0x2d => return vector(&[0xf2, 0xf3], General::RegWrite),
        0x40..=0x4f => Plain(shape(Update, Read)),
        0x50 => return vector(&[0, 0x66], General::RegWrite),
        0x60..=0x6d | 0x71..=0x76 => return vector(&[0x66], General::None),
        0x6e => return vector(&[0x66], General::RmRead),
        0x6f => return vector(&[0x66, 0xf3], General::None),
        0x70 => return vector(&[0x66, 0xf2, 0xf3], General::None),
        0x7c | 0x7d | 0xd0 => return vector(&[0x66, 0xf2], General::None),
        0x7e if e.prefix.rep == 0xf3 => Vector(General::None),
        0x7e => return vector(&[0x66], General::RmWrite),
        0x7f => return vector(&[0x66, 0xf3], General::None),
        0x80..=0x8f if e.prefix.data16 => return None,
        0x80..=0x8f => Jcc,
        0x90..=0x9f => Plain(Shape {
            rm_byte: true,
            ..shape(Digit, Write)
        }),
        0xa3 | 0xab | 0xb3 | 0xbb if !e.direct => return None,
        0xa3 => Plain(shape(Read, Read)),
        0xab | 0xb3 | 0xbb => Plain(shape(Read, Update)),
        0xa4 | 0xa5 | 0xac | 0xad => Plain(shape(Read, Update)),
        0xae if e.direct && e.reg & 7 >= 5 && prefix(&[0]) => Verbatim,
        0xaf => Plain(shape(Update, Read)),
        0xb0 | 0xb1 => {
            let byte = e.opcode == 0xb0;
            let rm = stands_in(e, e.rm, byte);
            // RAX is taken, and W as well if there is an address or something else that stands in.
            let short = stands_in(e, e.reg, byte) && (!e.direct || rm);
            if short || e.direct && rm && HOST[e.rm as usize].is_some() {
                return None;
            }
            CompareExchange
        }
        0xb6 | 0xbe => Plain(Shape {
            rm_byte: true,
            ..shape(Write, Read)
        }),
        0xb7 | 0xbf => Plain(shape(Write, Read)),
        0xb8 if e.prefix.rep == 0xf3 => Plain(shape(Write, Read)),
        0xba if e.reg & 7 == 4 => Plain(shape(Digit, Read)),
        0xba if e.reg & 7 > 4 => Plain(shape(Digit, Update)),
        0xbc | 0xbd => Plain(shape(Update, Read)),
        0xc0 => Plain(bytes(shape(Update, Update))),
        0xc1 => Plain(shape(Update, Update)),
        0xc3 => Plain(shape(Read, Write)),
        0xc4 => return vector(&[0x66], General::RmRead),
        0xc5 => return vector(&[0x66], General::RegWrite),
        0xc7 if e.reg & 7 == 1 && !e.direct => CompareExchangeWide,
        0xc8..=0xcf if e.prefix.data16 => return None,
        0xc8..=0xcf => ByteSwap,
        0xd6 => return vector(&[0x66], General::None),
        0xd7 => return vector(&[0x66], General::RegWrite),
        0xe6 => return vector(&[0x66, 0xf2, 0xf3], General::None),
        0xf0 => return vector(&[0xf2], General::None),
        0xf7 | 0xff => return None,
        0xd1..=0xfe => return vector(&[0x66], General::None),
        _ => return None,
    })
}

fn t38(e: &Encoding) -> Option<Family> {
    use Family::*;
    use Role::*;
    let data16 = e.prefix.data16 && e.prefix.rep == 0;
    Some(match e.opcode {
        0x00..=0x41 | 0xdb..=0xdf if data16 => Vector(General::None),
        0xf0 if e.prefix.rep == 0xf2 => Plain(Shape {
            rm_byte: true,
            ..shape(Update, Read)
        }),
        0xf1 if e.prefix.rep == 0xf2 => Plain(shape(Update, Read)),
        0xf0 => Plain(shape(Write, Read)),
        0xf1 => Plain(shape(Read, Write)),
        0xf6 if data16 || e.prefix.rep == 0xf3 => Plain(shape(Update, Read)),
        _ => return None,
    })
}

fn t3a(e: &Encoding) -> Option<Family> {
    if !e.prefix.data16 || e.prefix.rep != 0 {
        return None;
    }
    Some(Family::Vector(match e.opcode {
        0x14..=0x17 => General::RmWrite,
        0x20 | 0x22 => General::RmRead,
        0x08..=0x0f | 0x21 | 0x40..=0x42 | 0x44 | 0x60..=0x63 | 0xdf => General::None,
        _ => return None,
    }))
}

fn vex(i: &Instruction, e: &Encoding) -> Option<Family> {
    use Family::*;
    let pp = e.vex.map_or(0, |v| v.pp);
    if i.memory_index().is_vector_register() {
        return None;
    }
    Some(match (e.map, e.opcode) {
        // MULX to two registers in the frame is one scratch register short.
        (Map::T38, 0xf6)
            if HOST[e.reg as usize].is_none() && e.vex.is_some_and(|v| HOST[v.v as usize].is_none()) =>
        {
            return None;
        }
        (Map::T38, 0xf2 | 0xf3 | 0xf5..=0xf7) | (Map::T3A, 0xf0) => Bmi,
        // Approximations are the interpreter's own; MXCSR is not in the host's register for long.
        (Map::Two, 0x52 | 0x53 | 0xae | 0xf7) => return None,
        // Masked moves touch only what their mask selects, if anything.
        (Map::T38, 0x2c..=0x2f | 0x8c | 0x8e) => return None,
        (Map::Two, 0x2a) => Vector(General::RmRead),
        (Map::Two, 0x2c | 0x2d | 0x50 | 0xc5 | 0xd7) => Vector(General::RegWrite),
        (Map::Two, 0x6e | 0xc4) => Vector(General::RmRead),
        (Map::Two, 0x7e) if pp == 1 => Vector(General::RmWrite),
        (Map::T3A, 0x14..=0x17) => Vector(General::RmWrite),
        (Map::T3A, 0x20 | 0x22) => Vector(General::RmRead),
        _ => Vector(General::None),
    })
}

/// Whether a memory operand only names an address to think about.
pub fn is_hint(e: &Encoding) -> bool {
    e.is_legacy(2) && matches!(e.opcode, 0x0d | 0x18..=0x1f)
}

/// Displacement from the stack register (RBP for LEAVE) of an implicit access of eight bytes, and whether
/// it is a store.
pub fn stack_access(i: &Instruction) -> Option<(i64, bool)> {
    match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Pushfq | Mnemonic::Call => Some((-8, true)),
        Mnemonic::Pop | Mnemonic::Ret | Mnemonic::Leave => Some((0, false)),
        _ => None,
    }
}

/// What an instruction's memory operand must be aligned to, in bytes, or #GP is raised (Intel SDM vol. 1
/// §10.2.1, vol. 2A table 2-21).
pub fn alignment(i: &Insn) -> Option<u32> {
    use Mnemonic::*;
    let size = i.accesses.first()?.size as u32;
    match i.i.mnemonic() {
        Cmpxchg16b => Some(16),
        Vmovaps | Vmovapd | Vmovdqa | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa => Some(size),
        Movups | Movupd | Movdqu | Lddqu | Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm => None,
        _ => (matches!(i.family, Family::Vector(_)) && i.encoding.vex.is_none() && size == 16).then_some(16),
    }
}

/// Whether an SSE instruction changes or depends on nothing but 128-bit registers: if not the unit needs
/// AVX to be allowed.
pub fn needs_avx(e: &Encoding) -> bool {
    e.vex.is_some()
}

/// Whether the instruction uses the accumulator without saying so: PCMPESTRI, PCMPESTRM.
pub fn reads_accumulator(i: &Instruction) -> bool {
    matches!(
        i.code(),
        Code::Pcmpestri_xmm_xmmm128_imm8
            | Code::Pcmpestri64_xmm_xmmm128_imm8
            | Code::Pcmpestrm_xmm_xmmm128_imm8
            | Code::Pcmpestrm64_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestri_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestri64_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestrm_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestrm64_xmm_xmmm128_imm8
    )
}
