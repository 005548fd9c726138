//! Packed integer arithmetic, logic, comparisons and shifts.

use super::lanes::{Element, V, high, low};
use super::shape::*;
use super::swar;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use iced_x86::Mnemonic::*;

/// Bitwise operations, whatever type the mnemonic gives the operands.
fn logic(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Pxor | Vpxor | Xorps | Vxorps | Xorpd | Vxorpd => binary!(l, |a, b| a ^ b),
        Por | Vpor | Orps | Vorps | Orpd | Vorpd => binary!(l, |a, b| a | b),
        Pand | Vpand | Andps | Vandps | Andpd | Vandpd => binary!(l, |a, b| a & b),
        Pandn | Vpandn | Andnps | Vandnps | Andnpd | Vandnpd => binary!(l, |a, b| !a & b),
        _ => return None,
    })
}

fn arithmetic(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Paddb | Vpaddb => binary!(l, |a, b| swar::add::<u8>(a, b)),
        Paddw | Vpaddw => binary!(l, |a, b| swar::add::<u16>(a, b)),
        Paddd | Vpaddd => binary!(l, |a, b| swar::add::<u32>(a, b)),
        Paddq | Vpaddq => binary!(l, |a, b| u64::zip(a, b, u64::wrapping_add)),
        Paddsb | Vpaddsb => binary!(l, |a, b| swar::add_signed::<u8>(a, b)),
        Paddsw | Vpaddsw => binary!(l, |a, b| swar::add_signed::<u16>(a, b)),
        Paddusb | Vpaddusb => binary!(l, |a, b| swar::add_unsigned::<u8>(a, b)),
        Paddusw | Vpaddusw => binary!(l, |a, b| swar::add_unsigned::<u16>(a, b)),
        Psubb | Vpsubb => binary!(l, |a, b| swar::sub::<u8>(a, b)),
        Psubw | Vpsubw => binary!(l, |a, b| swar::sub::<u16>(a, b)),
        Psubd | Vpsubd => binary!(l, |a, b| swar::sub::<u32>(a, b)),
        Psubq | Vpsubq => binary!(l, |a, b| u64::zip(a, b, u64::wrapping_sub)),
        Psubsb | Vpsubsb => binary!(l, |a, b| swar::sub_signed::<u8>(a, b)),
        Psubsw | Vpsubsw => binary!(l, |a, b| swar::sub_signed::<u16>(a, b)),
        Psubusb | Vpsubusb => binary!(l, |a, b| swar::sub_unsigned::<u8>(a, b)),
        Psubusw | Vpsubusw => binary!(l, |a, b| swar::sub_unsigned::<u16>(a, b)),
        Phaddw | Vphaddw => binary!(l, |a, b| i16::neighbours(a, b, i16::wrapping_add)),
        Phaddd | Vphaddd => binary!(l, |a, b| i32::neighbours(a, b, i32::wrapping_add)),
        Phaddsw | Vphaddsw => binary!(l, |a, b| i16::neighbours(a, b, i16::saturating_add)),
        Phsubw | Vphsubw => binary!(l, |a, b| i16::neighbours(a, b, i16::wrapping_sub)),
        Phsubd | Vphsubd => binary!(l, |a, b| i32::neighbours(a, b, i32::wrapping_sub)),
        Phsubsw | Vphsubsw => binary!(l, |a, b| i16::neighbours(a, b, i16::saturating_sub)),
        Pabsb | Vpabsb => unary!(l, |a| swar::absolute::<u8>(a)),
        Pabsw | Vpabsw => unary!(l, |a| swar::absolute::<u16>(a)),
        Pabsd | Vpabsd => unary!(l, |a| swar::absolute::<u32>(a)),
        Psignb | Vpsignb => binary!(l, |a, b| swar::sign::<u8>(a, b)),
        Psignw | Vpsignw => binary!(l, |a, b| swar::sign::<u16>(a, b)),
        Psignd | Vpsignd => binary!(l, |a, b| swar::sign::<u32>(a, b)),
        Pavgb | Vpavgb => binary!(l, |a, b| swar::average::<u8>(a, b)),
        Pavgw | Vpavgw => binary!(l, |a, b| swar::average::<u16>(a, b)),
        Pmullw | Vpmullw => binary!(l, |a, b| i16::zip(a, b, i16::wrapping_mul)),
        Pmulld | Vpmulld => binary!(l, |a, b| i32::zip(a, b, i32::wrapping_mul)),
        Pmulhw | Vpmulhw => binary!(l, |a, b| i16::zip(a, b, |x, y| ((x as i32 * y as i32) >> 16)
            as i16)),
        Pmulhuw | Vpmulhuw => binary!(l, |a, b| u16::zip(a, b, |x, y| ((x as u32 * y as u32) >> 16)
            as u16)),
        Pmulhrsw | Vpmulhrsw => {
            binary!(l, |a, b| i16::zip(
                a,
                b,
                |x, y| ((((x as i32 * y as i32) >> 14) + 1) >> 1) as i16
            ))
        }
        Pmuludq | Vpmuludq => binary!(l, |a, b| u64::zip(a, b, |x, y| x as u32 as u64 * y as u32 as u64)),
        Pmuldq | Vpmuldq => binary!(l, |a, b| i64::zip(a, b, |x, y| x as i32 as i64 * y as i32 as i64)),
        Pmaddwd | Vpmaddwd => binary!(l, |a, b| multiply_add_words(a, b)),
        Pmaddubsw | Vpmaddubsw => binary!(l, |a, b| multiply_add_bytes(a, b)),
        Psadbw | Vpsadbw => binary!(l, |a, b| sum_of_differences(a, b)),
        Mpsadbw | Vmpsadbw => binary!(l, |a, b, imm, lane| block_differences(a, b, imm >> (3 * lane))),
        Phminposuw | Vphminposuw => unary!(l, |a| minimum_position(a)),
        _ => return None,
    })
}

fn compare(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Pcmpeqb | Vpcmpeqb => binary!(l, |a, b| swar::equal::<u8>(a, b)),
        Pcmpeqw | Vpcmpeqw => binary!(l, |a, b| swar::equal::<u16>(a, b)),
        Pcmpeqd | Vpcmpeqd => binary!(l, |a, b| swar::equal::<u32>(a, b)),
        Pcmpeqq | Vpcmpeqq => binary!(l, |a, b| u64::compare(a, b, u64::eq)),
        Pcmpgtb | Vpcmpgtb => binary!(l, |a, b| swar::greater::<u8>(a, b)),
        Pcmpgtw | Vpcmpgtw => binary!(l, |a, b| swar::greater::<u16>(a, b)),
        Pcmpgtd | Vpcmpgtd => binary!(l, |a, b| swar::greater::<u32>(a, b)),
        Pcmpgtq | Vpcmpgtq => binary!(l, |a, b| i64::compare(a, b, i64::gt)),
        Pminub | Vpminub => binary!(l, |a, b| swar::min_unsigned::<u8>(a, b)),
        Pminuw | Vpminuw => binary!(l, |a, b| swar::min_unsigned::<u16>(a, b)),
        Pminud | Vpminud => binary!(l, |a, b| swar::min_unsigned::<u32>(a, b)),
        Pminsb | Vpminsb => binary!(l, |a, b| swar::min_signed::<u8>(a, b)),
        Pminsw | Vpminsw => binary!(l, |a, b| swar::min_signed::<u16>(a, b)),
        Pminsd | Vpminsd => binary!(l, |a, b| swar::min_signed::<u32>(a, b)),
        Pmaxub | Vpmaxub => binary!(l, |a, b| swar::max_unsigned::<u8>(a, b)),
        Pmaxuw | Vpmaxuw => binary!(l, |a, b| swar::max_unsigned::<u16>(a, b)),
        Pmaxud | Vpmaxud => binary!(l, |a, b| swar::max_unsigned::<u32>(a, b)),
        Pmaxsb | Vpmaxsb => binary!(l, |a, b| swar::max_signed::<u8>(a, b)),
        Pmaxsw | Vpmaxsw => binary!(l, |a, b| swar::max_signed::<u16>(a, b)),
        Pmaxsd | Vpmaxsd => binary!(l, |a, b| swar::max_signed::<u32>(a, b)),
        Ptest | Vptest => ptest!(l, V::MAX),
        Vtestps => ptest!(l, 0x80000000_80000000_80000000_80000000),
        Vtestpd => ptest!(l, 0x80000000_00000000_80000000_00000000),
        _ => return None,
    })
}

/// PMADDWD: pairs of products summed. Only (-32768 * -32768) * 2 wraps.
fn multiply_add_words(a: V, b: V) -> V {
    let product = |i| i16::at(a, i) as i32 * i16::at(b, i) as i32;
    i32::build(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}

/// PMADDUBSW: unsigned bytes of `a` times signed bytes of `b`, pairs summed with saturation.
fn multiply_add_bytes(a: V, b: V) -> V {
    let product = |i| u8::at(a, i) as i16 * i8::at(b, i) as i16;
    i16::build(|i| product(2 * i).saturating_add(product(2 * i + 1)))
}

/// PSADBW.
fn sum_of_differences(a: V, b: V) -> V {
    // One of the two saturates to zero.
    swar::sum_bytes(swar::sub_unsigned::<u8>(a, b) | swar::sub_unsigned::<u8>(b, a))
}

/// MPSADBW: the block of four bytes of `b` that imm\[1:0\] picks against eight places of `a` from imm\[2\].
fn block_differences(a: V, b: V, imm: u8) -> V {
    let (from, block) = ((imm >> 2 & 1) as usize * 4, (imm & 3) as usize * 4);
    let difference = |i, j| u8::at(a, from + i + j).abs_diff(u8::at(b, block + j)) as u16;
    u16::build(|i| (0..4).map(|j| difference(i, j)).sum())
}

/// PHMINPOSUW: the smallest word and, above it, where it is first found.
fn minimum_position(a: V) -> V {
    let (value, index) = (0..8).map(|i| (u16::at(a, i), i)).min().unwrap_or_default();
    value as V | (index as V) << 16
}

/// Which bits PTEST and its kind look at.
trait Bits {
    const MASK: V;
}

/// PTEST, VTESTPS, VTESTPD: ZF if `src1 & src2` is zero, CF if `!src1 & src2` is; the others are cleared.
fn test<B: Bits, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source::<K>(cpu, op)?;
    let a = reg(cpu, op.a);
    let (mut and, mut andn) = (low(&a) & low(&b), !low(&a) & low(&b));
    if K == VEX256 {
        and |= high(&a) & high(&b);
        andn |= !high(&a) & high(&b);
    }
    cpu.flags = Flags::from_bits(((and & B::MASK == 0) as u64) << 6 | (andn & B::MASK == 0) as u64);
    Ok(())
}

macro_rules! ptest {
    ($l:ident, $mask:expr) => {{
        struct B;
        impl Bits for B {
            const MASK: V = $mask;
        }
        $l.two();
        by_encoding!($l, test, B)
    }};
}
use ptest;

/// A shift of all elements by one count.
trait Shift {
    fn f(v: V, count: u64) -> V;
}

/// The count is the low quadword of the last source, an XMM register or 16 bytes of memory even for YMM
/// operands.
fn shift_by_vector<F: Shift, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let count = if K == SSE {
        source::<SSE>(cpu, op)?
    } else {
        source::<VEX128>(cpu, op)?
    }[0];
    let a = reg(cpu, op.b);
    put::<K>(cpu, op.a, F::f(low(&a), count), F::f(high(&a), count));
    Ok(())
}

fn shift_by_immediate<F: Shift, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let a = reg(cpu, op.b);
    let count = op.imm & 0xff;
    put::<K>(cpu, op.a, F::f(low(&a), count), F::f(high(&a), count));
    Ok(())
}

/// Shifts left; counts beyond the element give zero.
fn left<T: Element + std::ops::Shl<u32, Output = T>>(v: V, count: u64) -> V {
    if count >= T::BITS as u64 {
        0
    } else {
        T::map(v, |x| x << count as u32)
    }
}

/// Shifts right; counts beyond the element give zero, or with a signed `T` the sign.
fn right<T: Element + std::ops::Shr<u32, Output = T>>(v: V, count: u64, signed: bool) -> V {
    match count < T::BITS as u64 {
        true => T::map(v, |x| x >> count as u32),
        false if signed => T::map(v, |x| x >> (T::BITS - 1)),
        false => 0,
    }
}

macro_rules! shift {
    ($l:ident, |$v:ident, $count:ident| $body:expr) => {{
        struct F;
        impl Shift for F {
            #[inline(always)]
            fn f($v: V, $count: u64) -> V {
                $body
            }
        }
        // The immediate form of the legacy encoding has one operand less.
        let immediate = $l.i.op_count() == if $l.k == SSE { 2 } else { 3 }
            && $l.i.op_kind($l.i.op_count() - 1) == iced_x86::OpKind::Immediate8;
        $l.three();
        match immediate {
            true => by_encoding!($l, shift_by_immediate, F),
            false => by_encoding!($l, shift_by_vector, F),
        }
    }};
}

fn shift(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Psllw | Vpsllw => shift!(l, |v, n| left::<u16>(v, n)),
        Pslld | Vpslld => shift!(l, |v, n| left::<u32>(v, n)),
        Psllq | Vpsllq => shift!(l, |v, n| left::<u64>(v, n)),
        Psrlw | Vpsrlw => shift!(l, |v, n| right::<u16>(v, n, false)),
        Psrld | Vpsrld => shift!(l, |v, n| right::<u32>(v, n, false)),
        Psrlq | Vpsrlq => shift!(l, |v, n| right::<u64>(v, n, false)),
        Psraw | Vpsraw => shift!(l, |v, n| right::<i16>(v, n, true)),
        Psrad | Vpsrad => shift!(l, |v, n| right::<i32>(v, n, true)),
        Pslldq | Vpslldq => shift!(l, |v, n| if n < 16 { v << (8 * n) } else { 0 }),
        Psrldq | Vpsrldq => shift!(l, |v, n| if n < 16 { v >> (8 * n) } else { 0 }),
        Vpsllvd => binary!(l, |a, b| u32::zip(a, b, |x, n| x.checked_shl(n).unwrap_or(0))),
        Vpsllvq => binary!(l, |a, b| u64::zip(a, b, |x, n| if n < 64 { x << n } else { 0 })),
        Vpsrlvd => binary!(l, |a, b| u32::zip(a, b, |x, n| x.checked_shr(n).unwrap_or(0))),
        Vpsrlvq => binary!(l, |a, b| u64::zip(a, b, |x, n| if n < 64 { x >> n } else { 0 })),
        Vpsravd => binary!(l, |a, b| u32::zip(a, b, |x, n| (x as i32 >> n.min(31)) as u32)),
        _ => return None,
    })
}

/// The handler of a packed integer instruction.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    logic(l)
        .or_else(|| arithmetic(l))
        .or_else(|| compare(l))
        .or_else(|| shift(l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_pair_of_words_wraps() {
        let v = 0x8000_8000;
        assert_eq!(multiply_add_words(v, v), 0x8000_0000);
        assert_eq!(multiply_add_words(0x0002_ffff, 0x0003_0004), 2);
    }

    #[test]
    fn byte_products_saturate() {
        assert_eq!(multiply_add_bytes(0xffff, 0x7f7f), 0x7fff);
        assert_eq!(multiply_add_bytes(0xffff, 0x8080), 0x8000);
        assert_eq!(multiply_add_bytes(0x0102, 0x03fe), 0xffff);
    }

    #[test]
    fn differences() {
        assert_eq!(sum_of_differences(0x00ff, 0xff00), 510);
        assert_eq!(sum_of_differences(V::MAX, 0), 2040 << 64 | 2040);
        // A block that occurs in `a` has difference zero where it does.
        let a = u8::build(|i| (i * i) as u8);
        for imm in 0..8u8 {
            let from = (imm >> 2 & 1) as usize * 4;
            let b = a >> (8 * (from + 3)) << (32 * (imm as u32 & 3));
            assert_eq!(u16::at(block_differences(a, b, imm), 3), 0);
        }
    }

    #[test]
    fn the_first_of_equal_minima() {
        assert_eq!(minimum_position(V::MAX), 0xffff);
        assert_eq!(minimum_position(V::MAX ^ 1 << 80 ^ 1 << 96), 5 << 16 | 0xfffe);
    }

    #[test]
    fn counts_beyond_the_element() {
        let v = V::MAX >> 1;
        assert_eq!(left::<u16>(v, 16), 0);
        assert_eq!(left::<u64>(v, 1 << 32), 0);
        assert_eq!(right::<u32>(v, 32, false), 0);
        assert_eq!(right::<i16>(1 << 127, u64::MAX, true), 0xffff << 112);
        assert_eq!(right::<i32>(v, 4, true), 0x07ffffff_ffffffff_ffffffff_ffffffff);
    }
}
