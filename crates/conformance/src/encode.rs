//! Machine code for a form: prefixes, REX or VEX, opcode, ModRM, SIB, displacement, immediate
//! (Intel SDM vol. 2A ch. 2), with every choice the encoding leaves open made by the caller.

use crate::case::Mode;
use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, MandatoryPrefix, OpCodeInfo, OpCodeOperandKind as Kind,
    OpCodeTableKind,
};

/// A few bytes without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bytes {
    buf: [u8; 24],
    len: usize,
}

impl Bytes {
    /// Appends one. Beyond the buffer bytes are counted but dropped; such code is too long to run anyway.
    pub fn push(&mut self, b: u8) {
        if let Some(slot) = self.buf.get_mut(self.len) {
            *slot = b;
        }
        self.len = (self.len + 1).min(self.buf.len());
    }

    /// Appends several.
    pub fn extend(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.push(b));
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl std::ops::DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buf[..self.len]
    }
}

/// A memory operand, encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address {
    /// ModRM.mod, 0-2.
    pub mode: u8,
    /// ModRM.rm, without REX.B.
    pub rm: u8,
    /// SIB byte.
    pub sib: Option<u8>,
    /// REX.X.
    pub x: bool,
    /// REX.B.
    pub b: bool,
    /// Displacement.
    pub displacement: i32,
    /// Its size in bytes: 0, 1, 2 or 4.
    pub displacement_size: usize,
}

/// The ModRM.rm operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    /// A register.
    Register(u8),
    /// Memory.
    Memory(Address),
}

/// Everything an encoding leaves open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The ModRM.reg operand.
    pub reg: u8,
    /// The ModRM.rm operand.
    pub rm: Rm,
    /// The VEX.vvvv operand; 0 if there is none (it is encoded inverted).
    pub vvvv: u8,
    /// The register in the opcode byte.
    pub opcode_register: u8,
    /// Immediate, branch displacement or absolute address.
    pub immediate: Bytes,
    /// Prefixes besides those the form needs: segment overrides, LOCK, REP, address size, redundant ones.
    pub prefixes: Bytes,
    /// REX bits to set although nothing needs them (0x40 alone: an empty REX).
    pub rex: u8,
    /// Three-byte VEX although two bytes would do.
    pub long_vex: bool,
    /// VEX.W where it is ignored.
    pub w: bool,
    /// VEX.L where it is ignored.
    pub l: bool,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            reg: 0,
            rm: Rm::Register(0),
            vvvv: 0,
            opcode_register: 0,
            immediate: Bytes::default(),
            prefixes: Bytes::default(),
            rex: 0,
            long_vex: false,
            w: false,
            l: false,
        }
    }
}

/// Machine code, and where its displacement lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// The instruction.
    pub bytes: Bytes,
    /// Offset of the memory operand's displacement.
    pub displacement_at: usize,
}

/// Bytes of the immediate that operand kind `kind` takes (address size `address_bytes`).
pub fn immediate_size(kind: Kind, address_bytes: usize) -> usize {
    match kind {
        Kind::imm8 | Kind::imm8sex16 | Kind::imm8sex32 | Kind::imm8sex64 => 1,
        Kind::br16_1 | Kind::br32_1 | Kind::br64_1 => 1,
        Kind::xmm_is4 | Kind::ymm_is4 => 1,
        Kind::imm16 | Kind::br16_2 => 2,
        Kind::imm32 | Kind::imm32sex64 | Kind::br32_4 | Kind::br64_4 | Kind::farbr2_2 => 4,
        Kind::farbr4_2 => 6,
        Kind::imm64 => 8,
        Kind::mem_offs => address_bytes,
        _ => 0,
    }
}

/// Whether the operand is in ModRM.rm and can be memory.
pub fn can_be_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::mem
            | Kind::mem_vsib32x
            | Kind::mem_vsib64x
            | Kind::mem_vsib32y
            | Kind::mem_vsib64y
            | Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
    )
}

/// Whether the operand is in ModRM.rm and can be a register.
pub fn can_be_register(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
            | Kind::r16_rm
            | Kind::r32_rm
            | Kind::r64_rm
            | Kind::mm_rm
            | Kind::xmm_rm
            | Kind::ymm_rm
    )
}

/// Whether the operand is memory with a vector of indexes.
pub fn is_vsib(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::mem_vsib32x | Kind::mem_vsib64x | Kind::mem_vsib32y | Kind::mem_vsib64y
    )
}

/// Whether the operand is in ModRM.reg.
pub fn is_reg(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r8_reg
            | Kind::r16_reg
            | Kind::r32_reg
            | Kind::r64_reg
            | Kind::seg_reg
            | Kind::mm_reg
            | Kind::xmm_reg
            | Kind::ymm_reg
            | Kind::cr_reg
            | Kind::dr_reg
            | Kind::tr_reg
    )
}

/// Whether the operand is in VEX.vvvv.
pub fn is_vvvv(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r32_vvvv | Kind::r64_vvvv | Kind::xmm_vvvv | Kind::ymm_vvvv
    )
}

/// Whether the operand is in the opcode byte.
pub fn is_opcode_register(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::r8_opcode | Kind::r16_opcode | Kind::r32_opcode | Kind::r64_opcode | Kind::sti_opcode
    )
}

/// The size of addresses a form has if no prefix changes it.
pub fn address_size(op: &OpCodeInfo, mode: Mode) -> u32 {
    match op.address_size() {
        0 => mode.bits(),
        n => n,
    }
}

/// Encodes a form.
pub fn encode(op: &OpCodeInfo, mode: Mode, choice: &Choice) -> Encoded {
    let kinds = op.op_kinds();
    let mut out = Bytes::default();
    let (rm_b, rm_x) = match choice.rm {
        Rm::Register(r) => (r >= 8, false),
        Rm::Memory(a) => (a.b, a.x),
    };
    let mut prefix = |b| out.push(b);
    choice.prefixes.iter().for_each(|&b| prefix(b));
    if op.address_size() != 0 && op.address_size() != mode.bits() {
        prefix(0x67);
    }
    let last = op.op_code_len() - 1;
    let mut opcode = op.op_code();
    let mut opcode_b = false;
    if kinds.iter().any(|&k| is_opcode_register(k)) {
        opcode += (choice.opcode_register & 7) as u32;
        opcode_b = choice.opcode_register >= 8;
    }
    let opcode_bytes: Bytes = {
        let mut b = Bytes::default();
        (0..=last).rev().for_each(|i| b.push((opcode >> (8 * i)) as u8));
        b
    };
    if op.encoding() == EncodingKind::VEX {
        let map = match op.table() {
            OpCodeTableKind::T0F => 1,
            OpCodeTableKind::T0F38 => 2,
            _ => 3,
        };
        let pp = match op.mandatory_prefix() {
            MandatoryPrefix::P66 => 1,
            MandatoryPrefix::PF3 => 2,
            MandatoryPrefix::PF2 => 3,
            _ => 0,
        };
        // Where only 32-bit modes ignore W (VPEXTRD, VPINSRD) that is Intel's doing; AMD raises #UD.
        let w = if op.is_wig() { choice.w } else { op.w() == 1 };
        let l = if op.is_lig() { choice.l } else { op.l() == 1 };
        let inverted = |bit: bool, at: u32| (!bit as u8) << at;
        let low = (!choice.vvvv & 15) << 3 | (l as u8) << 2 | pp;
        let r = inverted(choice.reg >= 8, 7);
        if map == 1 && !w && !rm_x && !rm_b && !choice.long_vex {
            out.extend(&[0xc5, r | low]);
        } else {
            out.extend(&[
                0xc4,
                r | inverted(rm_x, 6) | inverted(rm_b, 5) | map,
                (w as u8) << 7 | low,
            ]);
        }
    } else {
        let default = if mode == Mode::Compat16 { 16 } else { 32 };
        if op.operand_size() != 0 && op.operand_size() != 64 && op.operand_size() != default {
            out.push(0x66);
        }
        match op.mandatory_prefix() {
            MandatoryPrefix::P66 => out.push(0x66),
            MandatoryPrefix::PF3 => out.push(0xf3),
            MandatoryPrefix::PF2 => out.push(0xf2),
            _ => {}
        }
        let w = op.operand_size() == 64 && !op.default_op_size64();
        let bits =
            (w as u8) << 3 | ((choice.reg >= 8) as u8) << 2 | (rm_x as u8) << 1 | (rm_b | opcode_b) as u8;
        let rex = choice.rex | if bits != 0 { 0x40 | bits } else { 0 };
        if rex != 0 {
            out.push(rex | 0x40);
        }
        match op.table() {
            OpCodeTableKind::T0F => out.extend(&[0x0f]),
            OpCodeTableKind::T0F38 => out.extend(&[0x0f, 0x38]),
            OpCodeTableKind::T0F3A => out.extend(&[0x0f, 0x3a]),
            _ => {}
        }
    }
    out.extend(&opcode_bytes);
    let modrm = op.is_group()
        || op.is_rm_group()
        || kinds
            .iter()
            .any(|&k| is_reg(k) || can_be_memory(k) || can_be_register(k));
    let mut displacement_at = 0;
    if modrm {
        let reg = if op.is_group() {
            op.group_index() as u8
        } else {
            choice.reg & 7
        };
        match choice.rm {
            Rm::Register(r) => {
                let rm = if op.is_rm_group() {
                    op.rm_group_index() as u8
                } else {
                    r & 7
                };
                out.push(0xc0 | reg << 3 | rm);
            }
            Rm::Memory(a) => {
                out.push(a.mode << 6 | reg << 3 | a.rm);
                a.sib.iter().for_each(|&s| out.push(s));
                displacement_at = out.len;
                out.extend(&a.displacement.to_le_bytes()[..a.displacement_size]);
            }
        }
    }
    out.extend(&choice.immediate);
    Encoded {
        bytes: out,
        displacement_at,
    }
}

/// A plain choice for a form: low registers, and the simplest memory operand where memory is required.
fn plain(op: &OpCodeInfo, mode: Mode) -> Choice {
    let mut choice = Choice {
        reg: 2,
        opcode_register: 1,
        ..Choice::default()
    };
    let mut size = 0;
    for &kind in op.op_kinds() {
        if is_vsib(kind) {
            // Base RBX, index 1.
            choice.rm = Rm::Memory(Address {
                rm: 4,
                sib: Some(0o13),
                ..Address::default()
            });
            choice.vvvv = 5;
            if mode == Mode::Compat16 {
                choice.prefixes.push(0x67);
            }
        } else if can_be_register(kind) {
            choice.rm = Rm::Register(3);
        } else if can_be_memory(kind) {
            choice.rm = Rm::Memory(Address {
                rm: 3,
                ..Address::default()
            });
        }
        if is_vvvv(kind) {
            choice.vvvv = 5;
        }
        if kind == Kind::seg_reg {
            choice.reg = 3;
        }
        if matches!(kind, Kind::cr_reg | Kind::dr_reg) {
            choice.reg = 0;
        }
        size += immediate_size(kind, address_size(op, mode) as usize / 8);
    }
    (0..size).for_each(|_| choice.immediate.push(0));
    choice
}

/// Whether the plain encoding of a form is decoded as that form.
pub fn decodes_as_itself(code: Code, mode: Mode) -> bool {
    let op = code.op_code();
    let bytes = encode(op, mode, &plain(op, mode)).bytes;
    let decoded = Decoder::new(mode.bits(), &bytes, DecoderOptions::NONE).decode();
    decoded.code() == code && decoded.len() == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Code, choice: &Choice, expected: &[u8]) {
        let op = code.op_code();
        assert_eq!(&*encode(op, Mode::Long, choice).bytes, expected, "{code:?}");
    }

    #[test]
    fn known_encodings() {
        check(
            Code::Add_rm32_r32,
            &Choice {
                reg: 1,
                rm: Rm::Register(0),
                ..Choice::default()
            },
            &[0x01, 0xc8],
        );
        check(
            Code::Add_rm64_r64,
            &Choice {
                reg: 9,
                ..Choice::default()
            },
            &[0x4c, 0x01, 0xc8],
        );
        check(
            Code::Push_r64,
            &Choice {
                opcode_register: 15,
                ..Choice::default()
            },
            &[0x41, 0x57],
        );
        check(Code::Fsin, &Choice::default(), &[0xd9, 0xfe]);
        let at = Address {
            mode: 1,
            rm: 4,
            sib: Some(0x24),
            displacement: 8,
            displacement_size: 1,
            ..Address::default()
        };
        let choice = Choice {
            reg: 1,
            rm: Rm::Memory(at),
            vvvv: 2,
            ..Choice::default()
        };
        check(
            Code::VEX_Vaddps_xmm_xmm_xmmm128,
            &choice,
            &[0xc5, 0xe8, 0x58, 0x4c, 0x24, 0x08],
        );
        check(
            Code::VEX_Vaddps_xmm_xmm_xmmm128,
            &Choice {
                long_vex: true,
                w: true,
                ..choice
            },
            &[0xc4, 0xe1, 0xe8, 0x58, 0x4c, 0x24, 0x08],
        );
    }

    #[test]
    fn the_encoder_reaches_every_form_that_has_bytes_of_its_own() {
        for mode in Mode::ALL {
            for code in Code::values() {
                let op = code.op_code();
                let here = match mode {
                    Mode::Long => op.mode64(),
                    Mode::Compat32 => op.mode32(),
                    Mode::Compat16 => op.mode16(),
                };
                let kind = op.encoding();
                let ours = matches!(kind, EncodingKind::Legacy | EncodingKind::VEX)
                    && op.is_instruction()
                    && !op.fwait()
                    && op.decoder_option() == 0
                    && crate::forms::is_model_feature(code);
                if here && ours && !decodes_as_itself(code, mode) {
                    // With an operand-size prefix near branches stay 64-bit (Intel SDM vol. 2A §2.2.1.7); only
                    // AMD has 16-bit ones. UD0 has a ModRM byte.
                    let branch = mode == Mode::Long && op.operand_size() == 16 && is_near_branch(code);
                    assert!(branch || code == Code::Ud0, "{code:?} in {mode:?}");
                }
            }
        }
    }

    fn is_near_branch(code: Code) -> bool {
        use iced_x86::FlowControl::*;
        matches!(
            code.flow_control(),
            UnconditionalBranch | IndirectBranch | ConditionalBranch | Return | Call | IndirectCall
        )
    }
}
