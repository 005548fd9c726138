//! MMX and its SSE to SSSE3 additions: 64-bit vectors in the significands of the x87 registers
//! (Intel SDM vol. 1 chapter 9).

use super::area::{check_alignment, probe};
use super::lanes64::{
    bytes, dwords, horizontal_dwords, horizontal_words, join_bytes, join_dwords, join_words, saturate_i8,
    saturate_u8, sbytes, sdwords, swords, words,
};
use super::stack::{self, status};
use crate::cpu::{Cpu, Kind, R};
use crate::decode::{Handler, Op};
use donjon_x86::Gpr;
use iced_x86::{Code, Instruction, OpKind};

/// The tag of a register MMX has written: its exponent of all ones makes it special.
const SPECIAL: u16 = 2;

impl Cpu {
    /// The transition to MMX operation: TOP is 0 and no register is empty (Intel SDM vol. 3A §12.2).
    #[inline(always)]
    pub(crate) fn mmx_enter(&mut self) {
        let f = &mut self.fpu;
        f.status &= !status::TOP;
        if f.tag & f.tag >> 1 & 0x5555 != 0 {
            stack::retag(f, 0);
        }
    }

    /// An MMX register.
    #[inline(always)]
    pub(crate) fn mm(&self, n: u8) -> u64 {
        self.fpu.significand[n as usize & 7]
    }

    /// Sets an MMX register.
    #[inline(always)]
    pub(crate) fn set_mm(&mut self, n: u8, v: u64) {
        let n = n as usize & 7;
        let f = &mut self.fpu;
        f.significand[n] = v;
        f.sign_exponent[n] = 0xffff;
        f.tag = f.tag & !(3 << (2 * n)) | SPECIAL << (2 * n);
    }

    /// A source in an MMX register or 64 bits of memory.
    #[inline(always)]
    fn mm_or_memory(&mut self, op: &Op, operand: u8, register: u8) -> R<u64> {
        if op.is_mem(operand) {
            self.read::<u64>(op.seg, self.ea(op))
        } else {
            Ok(self.mm(register))
        }
    }
}

/// An instruction that replaces its first operand by a function of it and the second.
#[inline(always)]
fn binary(cpu: &mut Cpu, op: &Op, f: impl Fn(u64, u64) -> u64) -> R {
    cpu.mmx()?;
    let b = cpu.mm_or_memory(op, 1, op.b)?;
    cpu.mmx_enter();
    let v = f(cpu.mm(op.a), b);
    cpu.set_mm(op.a, v);
    Ok(())
}

/// The same with a second operand of 32 bits in memory: PUNPCKLBW and its like.
#[inline(always)]
fn binary_low(cpu: &mut Cpu, op: &Op, f: impl Fn(u64, u64) -> u64) -> R {
    cpu.mmx()?;
    let b = if op.is_mem(1) {
        cpu.read::<u32>(op.seg, cpu.ea(op))? as u64
    } else {
        cpu.mm(op.b)
    };
    cpu.mmx_enter();
    let v = f(cpu.mm(op.a), b);
    cpu.set_mm(op.a, v);
    Ok(())
}

/// A shift, by an immediate or by a whole 64-bit operand.
#[inline(always)]
fn shift<const IMMEDIATE: bool>(cpu: &mut Cpu, op: &Op, f: impl Fn(u64, u64) -> u64) -> R {
    if !IMMEDIATE {
        return binary(cpu, op, f);
    }
    cpu.mmx()?;
    cpu.mmx_enter();
    let v = f(cpu.mm(op.a), op.imm & 0xff);
    cpu.set_mm(op.a, v);
    Ok(())
}

/// A logical shift in lanes of `bits`: zero from the width on.
#[inline(always)]
fn logical(bits: u32, count: u64, shift: impl Fn(u32) -> u64) -> u64 {
    if count < bits as u64 {
        shift(count as u32)
    } else {
        0
    }
}

/// The count of an arithmetic shift: from the width on all bits are copies of the sign.
#[inline(always)]
fn arithmetic(bits: u32, count: u64) -> u32 {
    count.min(bits as u64 - 1) as u32
}

/// EMMS: all registers are empty.
fn empty(cpu: &mut Cpu, _: &Op) -> R {
    cpu.mmx()?;
    cpu.fpu.status &= !status::TOP;
    cpu.fpu.tag = 0xffff;
    Ok(())
}

/// MOVD and MOVQ from a general register or memory.
fn load<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    let v = match (op.is_mem(1), WIDE) {
        (true, true) => cpu.read::<u64>(op.seg, cpu.ea(op))?,
        (true, false) => cpu.read::<u32>(op.seg, cpu.ea(op))? as u64,
        (false, true) => cpu.get::<u64>(op.b),
        (false, false) => cpu.get::<u32>(op.b) as u64,
    };
    cpu.mmx_enter();
    cpu.set_mm(op.a, v);
    Ok(())
}

/// MOVD and MOVQ to a general register or memory.
fn store<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    let v = cpu.mm(op.b);
    match (op.is_mem(0), WIDE) {
        (true, true) => cpu.write::<u64>(op.seg, cpu.ea(op), v)?,
        (true, false) => cpu.write::<u32>(op.seg, cpu.ea(op), v as u32)?,
        (false, true) => cpu.set::<u64>(op.a, v),
        (false, false) => cpu.set::<u32>(op.a, v as u32),
    }
    cpu.mmx_enter();
    Ok(())
}

/// MOVQ between MMX registers, from memory to one, and MOVNTQ's and its own store.
fn move_quad(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    if op.is_mem(0) {
        cpu.write::<u64>(op.seg, cpu.ea(op), cpu.mm(op.b))?;
        cpu.mmx_enter();
        return Ok(());
    }
    let v = cpu.mm_or_memory(op, 1, op.b)?;
    cpu.mmx_enter();
    cpu.set_mm(op.a, v);
    Ok(())
}

/// PSHUFW.
fn shuffle_words(cpu: &mut Cpu, op: &Op) -> R {
    binary(cpu, op, |_, b| {
        join_words(|i| (b >> (16 * (op.imm >> (2 * i) & 3))) as u16)
    })
}

/// PALIGNR: bytes from the pair of operands, from byte `imm` on.
fn align_right(cpu: &mut Cpu, op: &Op) -> R {
    let by = (op.imm & 0xff) as u32 * 8;
    binary(cpu, op, |a, b| {
        ((a as u128) << 64 | b as u128).checked_shr(by).unwrap_or(0) as u64
    })
}

/// PINSRW.
fn insert_word(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    let v = if op.is_mem(1) {
        cpu.read::<u16>(op.seg, cpu.ea(op))?
    } else {
        cpu.get::<u16>(op.b)
    };
    cpu.mmx_enter();
    let at = 16 * (op.imm & 3);
    let v = cpu.mm(op.a) & !(0xffff << at) | (v as u64) << at;
    cpu.set_mm(op.a, v);
    Ok(())
}

/// PEXTRW.
fn extract_word(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    cpu.mmx_enter();
    let v = cpu.mm(op.b) >> (16 * (op.imm & 3)) & 0xffff;
    cpu.set_reg(op.a, v);
    Ok(())
}

/// PMOVMSKB.
fn sign_mask(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    cpu.mmx_enter();
    // Gathers bit 7 of every byte in the top byte of the product.
    let v = (cpu.mm(op.b) >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    cpu.set_reg(op.a, v);
    Ok(())
}

/// MASKMOVQ: stores the bytes whose mask byte has its top bit set, to DS:rDI. All eight must be
/// writable whatever the mask, and the transition to MMX operation is over before that is looked at.
fn store_masked(cpu: &mut Cpu, op: &Op) -> R {
    cpu.mmx()?;
    cpu.mmx_enter();
    let (bytes, mask) = (cpu.mm(op.b), cpu.mm(op.c));
    let width = [u16::MAX as u64, u32::MAX as u64, u64::MAX][op.address_size as usize % 3];
    let rdi = cpu.reg(Gpr::Rdi as u8);
    let linear = cpu.linear(op.seg, rdi & width, 8, Kind::Write)?;
    check_alignment(cpu, linear, 8)?;
    probe(cpu, op.seg, linear, 8, Kind::Write)?;
    for i in (0..8).filter(|i| mask >> (8 * i + 7) & 1 != 0) {
        cpu.write::<u8>(op.seg, rdi.wrapping_add(i) & width, (bytes >> (8 * i)) as u8)?;
    }
    Ok(())
}

fn average_u8(a: u8, b: u8) -> u8 {
    ((a as u16 + b as u16 + 1) >> 1) as u8
}

fn average_u16(a: u16, b: u16) -> u16 {
    ((a as u32 + b as u32 + 1) >> 1) as u16
}

/// Products of words, added in pairs.
fn multiply_add(a: u64, b: u64) -> u64 {
    let product = |i: usize| (a >> (16 * i)) as i16 as i32 * (b >> (16 * i)) as i16 as i32;
    join_dwords(|i| product(2 * i).wrapping_add(product(2 * i + 1)) as u32)
}

/// Products of unsigned by signed bytes, added in pairs with saturation.
fn multiply_add_bytes(a: u64, b: u64) -> u64 {
    let product = |i: usize| (a >> (8 * i)) as u8 as i32 * (b >> (8 * i)) as i8 as i32;
    join_words(|i| (product(2 * i) + product(2 * i + 1)).clamp(i16::MIN as i32, i16::MAX as i32) as u16)
}

/// Sum of the differences of unsigned bytes.
fn sum_differences(a: u64, b: u64) -> u64 {
    a.to_le_bytes()
        .iter()
        .zip(b.to_le_bytes())
        .map(|(x, y)| x.abs_diff(y) as u64)
        .sum()
}

fn shuffle_bytes(a: u64, b: u64) -> u64 {
    join_bytes(|i| {
        let select = (b >> (8 * i)) as u8;
        if select >> 7 != 0 {
            0
        } else {
            (a >> (8 * (select & 7))) as u8
        }
    })
}

/// PSIGNB and its like: the sign of `b` applied to `a`.
macro_rules! signed {
    () => {
        |a, b| match b.signum() {
            0 => 0,
            1 => a,
            _ => a.wrapping_neg(),
        }
    };
}

/// Pack with saturation: the lanes of `a`, then those of `b`.
fn pack_words(a: u64, b: u64, saturate: impl Fn(i16) -> u8) -> u64 {
    join_bytes(|i| saturate((if i < 4 { a } else { b } >> (16 * (i % 4))) as i16))
}

fn pack_dwords(a: u64, b: u64) -> u64 {
    join_words(|i| {
        let v = (if i < 2 { a } else { b } >> (32 * (i % 2))) as i32;
        v.clamp(i16::MIN as i32, i16::MAX as i32) as u16
    })
}

/// Interleaves the low halves; with the operands shifted right, the high ones.
fn interleave_bytes(a: u64, b: u64) -> u64 {
    join_bytes(|i| (if i % 2 == 0 { a } else { b } >> (8 * (i / 2))) as u8)
}

fn interleave_words(a: u64, b: u64) -> u64 {
    join_words(|i| (if i % 2 == 0 { a } else { b } >> (16 * (i / 2))) as u16)
}

fn interleave_dwords(a: u64, b: u64) -> u64 {
    a & 0xffff_ffff | b << 32
}

/// Multiply, round and scale: bits 30-15 of the product, rounded at bit 14.
fn multiply_rounded(a: i16, b: i16) -> i16 {
    ((((a as i32 * b as i32) >> 14) + 1) >> 1) as i16
}

fn ones(b: bool) -> u64 {
    if b { u64::MAX } else { 0 }
}

/// The handler of an MMX instruction.
pub fn lower(i: &Instruction) -> Option<Handler> {
    use Code::*;
    macro_rules! two {
        ($f:expr) => {
            |cpu, op| binary(cpu, op, $f)
        };
    }
    macro_rules! low {
        ($f:expr) => {
            |cpu, op| binary_low(cpu, op, $f)
        };
    }
    macro_rules! shift {
        ($f:expr) => {
            if i.op_kind(1) == OpKind::Immediate8 {
                |cpu, op| shift::<true>(cpu, op, $f)
            } else {
                |cpu, op| shift::<false>(cpu, op, $f)
            }
        };
    }
    Some(match i.code() {
        Emms => empty,
        Movd_mm_rm32 => load::<false>,
        Movq_mm_rm64 => load::<true>,
        Movd_rm32_mm => store::<false>,
        Movq_rm64_mm => store::<true>,
        Movq_mm_mmm64 | Movq_mmm64_mm | Movntq_m64_mm => move_quad,
        Maskmovq_rDI_mm_mm => store_masked,
        Pinsrw_mm_r32m16_imm8 | Pinsrw_mm_r64m16_imm8 => insert_word,
        Pextrw_r32_mm_imm8 | Pextrw_r64_mm_imm8 => extract_word,
        Pmovmskb_r32_mm | Pmovmskb_r64_mm => sign_mask,
        Pshufw_mm_mmm64_imm8 => shuffle_words,
        Palignr_mm_mmm64_imm8 => align_right,

        Paddb_mm_mmm64 => two!(|a, b| bytes(a, b, u8::wrapping_add)),
        Paddw_mm_mmm64 => two!(|a, b| words(a, b, u16::wrapping_add)),
        Paddd_mm_mmm64 => two!(|a, b| dwords(a, b, u32::wrapping_add)),
        Paddq_mm_mmm64 => two!(u64::wrapping_add),
        Paddsb_mm_mmm64 => two!(|a, b| sbytes(a, b, i8::saturating_add)),
        Paddsw_mm_mmm64 => two!(|a, b| swords(a, b, i16::saturating_add)),
        Paddusb_mm_mmm64 => two!(|a, b| bytes(a, b, u8::saturating_add)),
        Paddusw_mm_mmm64 => two!(|a, b| words(a, b, u16::saturating_add)),
        Psubb_mm_mmm64 => two!(|a, b| bytes(a, b, u8::wrapping_sub)),
        Psubw_mm_mmm64 => two!(|a, b| words(a, b, u16::wrapping_sub)),
        Psubd_mm_mmm64 => two!(|a, b| dwords(a, b, u32::wrapping_sub)),
        Psubq_mm_mmm64 => two!(u64::wrapping_sub),
        Psubsb_mm_mmm64 => two!(|a, b| sbytes(a, b, i8::saturating_sub)),
        Psubsw_mm_mmm64 => two!(|a, b| swords(a, b, i16::saturating_sub)),
        Psubusb_mm_mmm64 => two!(|a, b| bytes(a, b, u8::saturating_sub)),
        Psubusw_mm_mmm64 => two!(|a, b| words(a, b, u16::saturating_sub)),

        Pmullw_mm_mmm64 => two!(|a, b| words(a, b, u16::wrapping_mul)),
        Pmulhw_mm_mmm64 => two!(|a, b| swords(a, b, |x, y| ((x as i32 * y as i32) >> 16) as i16)),
        Pmulhuw_mm_mmm64 => two!(|a, b| words(a, b, |x, y| ((x as u32 * y as u32) >> 16) as u16)),
        Pmulhrsw_mm_mmm64 => two!(|a, b| swords(a, b, multiply_rounded)),
        Pmuludq_mm_mmm64 => two!(|a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
        Pmaddwd_mm_mmm64 => two!(multiply_add),
        Pmaddubsw_mm_mmm64 => two!(multiply_add_bytes),
        Psadbw_mm_mmm64 => two!(sum_differences),
        Pavgb_mm_mmm64 => two!(|a, b| bytes(a, b, average_u8)),
        Pavgw_mm_mmm64 => two!(|a, b| words(a, b, average_u16)),
        Pminub_mm_mmm64 => two!(|a, b| bytes(a, b, u8::min)),
        Pmaxub_mm_mmm64 => two!(|a, b| bytes(a, b, u8::max)),
        Pminsw_mm_mmm64 => two!(|a, b| swords(a, b, i16::min)),
        Pmaxsw_mm_mmm64 => two!(|a, b| swords(a, b, i16::max)),
        Pabsb_mm_mmm64 => two!(|_, b| sbytes(b, b, |x, _| x.wrapping_abs())),
        Pabsw_mm_mmm64 => two!(|_, b| swords(b, b, |x, _| x.wrapping_abs())),
        Pabsd_mm_mmm64 => two!(|_, b| sdwords(b, b, |x, _| x.wrapping_abs())),
        Psignb_mm_mmm64 => two!(|a, b| sbytes(a, b, signed!())),
        Psignw_mm_mmm64 => two!(|a, b| swords(a, b, signed!())),
        Psignd_mm_mmm64 => two!(|a, b| sdwords(a, b, signed!())),

        Phaddw_mm_mmm64 => two!(|a, b| horizontal_words(a, b, i16::wrapping_add)),
        Phaddsw_mm_mmm64 => two!(|a, b| horizontal_words(a, b, i16::saturating_add)),
        Phaddd_mm_mmm64 => two!(|a, b| horizontal_dwords(a, b, i32::wrapping_add)),
        Phsubw_mm_mmm64 => two!(|a, b| horizontal_words(a, b, i16::wrapping_sub)),
        Phsubsw_mm_mmm64 => two!(|a, b| horizontal_words(a, b, i16::saturating_sub)),
        Phsubd_mm_mmm64 => two!(|a, b| horizontal_dwords(a, b, i32::wrapping_sub)),

        Pand_mm_mmm64 => two!(|a, b| a & b),
        Pandn_mm_mmm64 => two!(|a, b| !a & b),
        Por_mm_mmm64 => two!(|a, b| a | b),
        Pxor_mm_mmm64 => two!(|a, b| a ^ b),
        Pcmpeqb_mm_mmm64 => two!(|a, b| bytes(a, b, |x, y| ones(x == y) as u8)),
        Pcmpeqw_mm_mmm64 => two!(|a, b| words(a, b, |x, y| ones(x == y) as u16)),
        Pcmpeqd_mm_mmm64 => two!(|a, b| dwords(a, b, |x, y| ones(x == y) as u32)),
        Pcmpgtb_mm_mmm64 => two!(|a, b| sbytes(a, b, |x, y| ones(x > y) as i8)),
        Pcmpgtw_mm_mmm64 => two!(|a, b| swords(a, b, |x, y| ones(x > y) as i16)),
        Pcmpgtd_mm_mmm64 => two!(|a, b| sdwords(a, b, |x, y| ones(x > y) as i32)),

        Pshufb_mm_mmm64 => two!(shuffle_bytes),
        Packsswb_mm_mmm64 => two!(|a, b| pack_words(a, b, saturate_i8)),
        Packuswb_mm_mmm64 => two!(|a, b| pack_words(a, b, saturate_u8)),
        Packssdw_mm_mmm64 => two!(pack_dwords),
        Punpcklbw_mm_mmm32 => low!(interleave_bytes),
        Punpcklwd_mm_mmm32 => low!(interleave_words),
        Punpckldq_mm_mmm32 => low!(interleave_dwords),
        Punpckhbw_mm_mmm64 => two!(|a, b| interleave_bytes(a >> 32, b >> 32)),
        Punpckhwd_mm_mmm64 => two!(|a, b| interleave_words(a >> 32, b >> 32)),
        Punpckhdq_mm_mmm64 => two!(|a, b| interleave_dwords(a >> 32, b >> 32)),

        Psllw_mm_mmm64 | Psllw_mm_imm8 => shift!(|a, n| logical(16, n, |n| words(a, a, |x, _| x << n))),
        Pslld_mm_mmm64 | Pslld_mm_imm8 => shift!(|a, n| logical(32, n, |n| dwords(a, a, |x, _| x << n))),
        Psllq_mm_mmm64 | Psllq_mm_imm8 => shift!(|a, n| logical(64, n, |n| a << n)),
        Psrlw_mm_mmm64 | Psrlw_mm_imm8 => shift!(|a, n| logical(16, n, |n| words(a, a, |x, _| x >> n))),
        Psrld_mm_mmm64 | Psrld_mm_imm8 => shift!(|a, n| logical(32, n, |n| dwords(a, a, |x, _| x >> n))),
        Psrlq_mm_mmm64 | Psrlq_mm_imm8 => shift!(|a, n| logical(64, n, |n| a >> n)),
        Psraw_mm_mmm64 | Psraw_mm_imm8 => shift!(|a, n| swords(a, a, |x, _| x >> arithmetic(16, n))),
        Psrad_mm_mmm64 | Psrad_mm_imm8 => shift!(|a, n| sdwords(a, a, |x, _| x >> arithmetic(32, n))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0x8000_7fff_0001_ff80;
    const B: u64 = 0x7fff_8000_ffff_0180;

    #[test]
    fn packs_and_interleaves() {
        assert_eq!(pack_words(A, B, saturate_i8), 0x7f80_ff7f_807f_0180);
        assert_eq!(pack_words(A, B, saturate_u8), 0xff00_00ff_00ff_0100);
        assert_eq!(
            pack_dwords(0x0001_0000_ffff_fffe, 0x8000_0000_0000_7fff),
            0x8000_7fff_7fff_fffe
        );
        assert_eq!(interleave_bytes(0x0403_0201, 0x1413_1211), 0x1404_1303_1202_1101);
        assert_eq!(interleave_words(0x0002_0001, 0x0012_0011), 0x0012_0002_0011_0001);
    }

    #[test]
    fn products() {
        assert_eq!(multiply_rounded(i16::MIN, i16::MIN), i16::MIN);
        assert_eq!(multiply_rounded(0x4000, 0x4000), 0x2000);
        assert_eq!(
            multiply_add(0x8000_8000_0002_0003, 0x8000_8000_0004_0005),
            0x8000_0000_0000_0017
        );
        assert_eq!(multiply_add_bytes(0xffff, 0x7f7f), 0x7fff);
        assert_eq!(multiply_add_bytes(0xffff, 0x8080), 0x8000);
        assert_eq!(sum_differences(0x00ff_0000_0000_0001, 0xff00_0000_0000_0003), 512);
    }

    #[test]
    fn shuffles_and_shifts() {
        assert_eq!(
            shuffle_bytes(0x0706_0504_0302_0100, 0x8001_0203_0405_060f),
            0x0001_0203_0405_0607
        );
        assert_eq!(
            logical(16, 15, |n| words(A, A, |x, _| x << n)),
            0x0000_8000_8000_0000
        );
        assert_eq!(logical(16, 16, |n| words(A, A, |x, _| x << n)), 0);
        assert_eq!(
            swords(A, A, |x, _| x >> arithmetic(16, u64::MAX)),
            0xffff_0000_0000_ffff
        );
    }
}
