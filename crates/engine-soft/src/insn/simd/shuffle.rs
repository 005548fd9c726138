//! Instructions that move elements about: unpack, pack, shuffle, blend, permute, broadcast, insert, extract,
//! extend.

use super::lanes::{Element, V, Y, high, low, pair};
use super::shape::*;
use super::swar;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use crate::float::Env;
use donjon_memory::Word;
use iced_x86::Mnemonic::*;

/// PUNPCKLxx: elements of the low halves alternate.
#[inline(always)]
fn unpack_low<T: Element>(a: V, b: V) -> V {
    swar::spread::<T>(a) | swar::spread::<T>(b) << T::BITS
}

/// PUNPCKHxx: elements of the high halves alternate.
#[inline(always)]
fn unpack_high<T: Element>(a: V, b: V) -> V {
    unpack_low::<T>(a >> 64, b >> 64)
}

/// PACKxx: all elements of `a`, then all of `b`, clamped to a range of the type half as wide, `T`.
#[inline(always)]
fn pack<S: Element, T: Element>(a: V, b: V, min: S, max: S) -> V {
    let clamp = |v| swar::max_signed::<S>(swar::min_signed::<S>(v, max.splat()), min.splat());
    swar::gather::<T>(clamp(a)) | swar::gather::<T>(clamp(b)) << 64
}

/// The element number in bits `2 i + 1 : 2 i` of an immediate.
#[inline(always)]
fn selector(imm: u8, i: usize) -> usize {
    (imm >> (2 * i) & 3) as usize
}

/// PSHUFB: a set top bit selects zero.
#[inline(always)]
fn shuffle_bytes(a: V, b: V) -> V {
    let bytes = a.to_le_bytes();
    V::from_le_bytes(
        b.to_le_bytes()
            .map(|s| if s & 0x80 != 0 { 0 } else { bytes[s as usize & 15] }),
    )
}

/// PALIGNR: 16 bytes of `a:b` from byte `imm`.
#[inline(always)]
fn align_right(a: V, b: V, imm: u8) -> V {
    match imm as u32 {
        0 => b,
        n @ 1..=15 => b >> (8 * n) | a << (128 - 8 * n),
        n @ 16..=31 => a >> (8 * (n - 16)),
        _ => 0,
    }
}

/// Elements of `b` where the mask bit is set.
#[inline(always)]
fn blend<T: Element>(a: V, b: V, mask: u8) -> V {
    T::build(|i| T::at(if mask >> i & 1 != 0 { b } else { a }, i))
}

/// INSERTPS: element imm\[7:6\] of `b` becomes element imm\[5:4\]; those in imm\[3:0\] become zero.
#[inline(always)]
fn insert_single(a: V, element: u32, imm: u8) -> V {
    let v = element.with(a, selector(imm, 2));
    u32::build(|i| if imm >> i & 1 != 0 { 0 } else { u32::at(v, i) })
}

fn lanewise_moves(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Punpcklbw | Vpunpcklbw => binary!(l, |a, b| unpack_low::<u8>(a, b)),
        Punpcklwd | Vpunpcklwd => binary!(l, |a, b| unpack_low::<u16>(a, b)),
        Punpckldq | Vpunpckldq | Unpcklps | Vunpcklps => binary!(l, |a, b| unpack_low::<u32>(a, b)),
        Punpcklqdq | Vpunpcklqdq | Unpcklpd | Vunpcklpd => binary!(l, |a, b| unpack_low::<u64>(a, b)),
        Punpckhbw | Vpunpckhbw => binary!(l, |a, b| unpack_high::<u8>(a, b)),
        Punpckhwd | Vpunpckhwd => binary!(l, |a, b| unpack_high::<u16>(a, b)),
        Punpckhdq | Vpunpckhdq | Unpckhps | Vunpckhps => binary!(l, |a, b| unpack_high::<u32>(a, b)),
        Punpckhqdq | Vpunpckhqdq | Unpckhpd | Vunpckhpd => binary!(l, |a, b| unpack_high::<u64>(a, b)),
        Packsswb | Vpacksswb => binary!(l, |a, b| pack::<i16, i8>(a, b, -128, 127)),
        Packssdw | Vpackssdw => binary!(l, |a, b| pack::<i32, i16>(a, b, -32768, 32767)),
        Packuswb | Vpackuswb => binary!(l, |a, b| pack::<i16, u8>(a, b, 0, 255)),
        Packusdw | Vpackusdw => binary!(l, |a, b| pack::<i32, u16>(a, b, 0, 65535)),
        Pshufb | Vpshufb => binary!(l, |a, b| shuffle_bytes(a, b)),
        Palignr | Vpalignr => binary!(l, |a, b, imm| align_right(a, b, imm)),
        Pshufd | Vpshufd => unary!(l, |a, imm| u32::build(|i| u32::at(a, selector(imm, i)))),
        Pshuflw | Vpshuflw => {
            unary!(l, |a, imm| u16::build(|i| u16::at(
                a,
                if i < 4 { selector(imm, i) } else { i }
            )))
        }
        Pshufhw | Vpshufhw => {
            unary!(l, |a, imm| u16::build(|i| u16::at(
                a,
                if i < 4 { i } else { 4 + selector(imm, i - 4) }
            )))
        }
        Shufps | Vshufps => {
            binary!(l, |a, b, imm| u32::build(|i| u32::at(
                if i < 2 { a } else { b },
                selector(imm, i)
            )))
        }
        Shufpd | Vshufpd => binary!(l, |a, b, imm, lane| {
            let imm = imm >> (2 * lane);
            u64::at(a, imm as usize & 1) as V | (u64::at(b, imm as usize >> 1 & 1) as V) << 64
        }),
        Vpermilps if l.i.op_kind(2) == iced_x86::OpKind::Immediate8 => {
            unary!(l, |a, imm| u32::build(|i| u32::at(a, selector(imm, i))))
        }
        Vpermilpd if l.i.op_kind(2) == iced_x86::OpKind::Immediate8 => {
            unary!(l, |a, imm, lane| u64::build(|i| u64::at(
                a,
                (imm >> (2 * lane + i) & 1) as usize
            )))
        }
        Vpermilps => binary!(l, |a, b| u32::map(b, |s| u32::at(a, s as usize & 3))),
        Vpermilpd => binary!(l, |a, b| u64::map(b, |s| u64::at(a, s as usize >> 1 & 1))),
        Pblendw | Vpblendw => binary!(l, |a, b, imm| blend::<u16>(a, b, imm)),
        Blendps | Vblendps | Vpblendd => binary!(l, |a, b, imm, lane| blend::<u32>(a, b, imm >> (4 * lane))),
        Blendpd | Vblendpd => binary!(l, |a, b, imm, lane| blend::<u64>(a, b, imm >> (2 * lane))),
        Movsldup | Vmovsldup => unary!(l, |a| u32::build(|i| u32::at(a, i & !1))),
        Movshdup | Vmovshdup => unary!(l, |a| u32::build(|i| u32::at(a, i | 1))),
        Vmovddup if l.k == VEX256 => unary!(l, |a| u64::at(a, 0).splat()),
        _ => return None,
    })
}

/// BLENDVxx: the sign bits of a mask register select elements of the last source.
fn blend_variable<T: Element, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source::<K>(cpu, op)?;
    let (a, m) = (reg(cpu, op.b), reg(cpu, op.d));
    let lane = |a: V, b: V, m: V| swar::select(swar::mask::<T>(m), b, a);
    let lo = lane(low(&a), low(&b), low(&m));
    let hi = if K == VEX256 {
        lane(high(&a), high(&b), high(&m))
    } else {
        0
    };
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

fn blends(l: &mut Low) -> Option<Handler> {
    macro_rules! variable {
        ($t:ty) => {{
            l.three();
            if l.k == SSE {
                // XMM0 is implied.
                l.op.d = 0;
            }
            by_encoding!(l, blend_variable, $t)
        }};
    }
    Some(match l.i.mnemonic() {
        Pblendvb | Vpblendvb => variable!(u8),
        Blendvps | Vblendvps => variable!(u32),
        Blendvpd | Vblendvpd => variable!(u64),
        _ => return None,
    })
}

/// Element `i` of a register's eight doublewords.
#[inline(always)]
fn doubleword(y: &Y, i: usize) -> u32 {
    (y[i >> 1 & 3] >> (32 * (i & 1))) as u32
}

/// One lane of VPERM2F128: imm\[1:0\] selects it, imm\[3\] makes it zero.
#[inline(always)]
fn select_lane(a: &Y, b: &Y, imm: u8) -> V {
    match imm & 0b1011 {
        0 => low(a),
        1 => high(a),
        2 => low(b),
        3 => high(b),
        _ => 0,
    }
}

fn across_lanes(l: &mut Low) -> Option<Handler> {
    let handler = match l.i.mnemonic() {
        // The indices are the first source, the data the last.
        Vpermd | Vpermps => wide!(|a, b, _| std::array::from_fn(|i| {
            let pick = |n| doubleword(&b, doubleword(&a, n) as usize & 7) as u64;
            pick(2 * i) | pick(2 * i + 1) << 32
        })),
        Vpermq | Vpermpd => {
            l.two();
            wide!(|_, b, imm| std::array::from_fn(|i| b[selector(imm, i)]))
        }
        Vperm2f128 | Vperm2i128 => {
            wide!(|a, b, imm| pair(select_lane(&a, &b, imm), select_lane(&a, &b, imm >> 4)))
        }
        Vinsertf128 | Vinserti128 => insert_lane,
        Vextractf128 | Vextracti128 => extract_lane,
        _ => return None,
    };
    Some(handler)
}

fn insert_lane(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let v = source_part(cpu, op, 16)?;
    let a = reg(cpu, op.b);
    let (lo, hi) = if op.imm & 1 == 0 {
        (v, high(&a))
    } else {
        (low(&a), v)
    };
    put::<VEX256>(cpu, op.a, lo, hi);
    Ok(())
}

fn extract_lane(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let a = reg(cpu, op.b);
    let v = if op.imm & 1 == 0 { low(&a) } else { high(&a) };
    if op.is_mem(0) {
        let ea = cpu.ea(op);
        return cpu.write_vector(op.seg, ea, false, [v as u64, (v >> 64) as u64]);
    }
    put::<VEX128>(cpu, op.a, v, 0);
    Ok(())
}

/// VBROADCASTSx, VPBROADCASTx, and MOVDDUP of 128 bits.
fn broadcast<T: Element + Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = source_scalar::<T>(cpu, op)?.splat();
    put::<K>(cpu, op.a, v, v);
    Ok(())
}

fn broadcast_lane(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let v = source_part(cpu, op, 16)?;
    put::<VEX256>(cpu, op.a, v, v);
    Ok(())
}

fn broadcasts(l: &mut Low) -> Option<Handler> {
    macro_rules! of {
        ($t:ty) => {{
            l.two();
            by_encoding!(l, broadcast, $t)
        }};
    }
    Some(match l.i.mnemonic() {
        Vpbroadcastb => of!(u8),
        Vpbroadcastw => of!(u16),
        Vpbroadcastd | Vbroadcastss => of!(u32),
        Vpbroadcastq | Vbroadcastsd | Movddup | Vmovddup => of!(u64),
        Vbroadcastf128 | Vbroadcasti128 => {
            l.two();
            broadcast_lane
        }
        _ => return None,
    })
}

fn extensions(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Pmovsxbw | Vpmovsxbw => convert!(l, widen, i8 => i16, |_, x| x as i16),
        Pmovsxbd | Vpmovsxbd => convert!(l, widen, i8 => i32, |_, x| x as i32),
        Pmovsxbq | Vpmovsxbq => convert!(l, widen, i8 => i64, |_, x| x as i64),
        Pmovsxwd | Vpmovsxwd => convert!(l, widen, i16 => i32, |_, x| x as i32),
        Pmovsxwq | Vpmovsxwq => convert!(l, widen, i16 => i64, |_, x| x as i64),
        Pmovsxdq | Vpmovsxdq => convert!(l, widen, i32 => i64, |_, x| x as i64),
        Pmovzxbw | Vpmovzxbw => convert!(l, widen, u8 => u16, |_, x| x as u16),
        Pmovzxbd | Vpmovzxbd => convert!(l, widen, u8 => u32, |_, x| x as u32),
        Pmovzxbq | Vpmovzxbq => convert!(l, widen, u8 => u64, |_, x| x as u64),
        Pmovzxwd | Vpmovzxwd => convert!(l, widen, u16 => u32, |_, x| x as u32),
        Pmovzxwq | Vpmovzxwq => convert!(l, widen, u16 => u64, |_, x| x as u64),
        Pmovzxdq | Vpmovzxdq => convert!(l, widen, u32 => u64, |_, x| x as u64),
        _ => return None,
    })
}

/// PEXTRx and EXTRACTPS: to memory, or zero-extended to a general register.
fn extract<T: Element + Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let element = T::at(xmm(cpu, op.b), op.imm as usize);
    if op.is_mem(0) {
        let ea = cpu.ea(op);
        return cpu.write(op.seg, ea, element);
    }
    cpu.set_reg(op.a, element.to_u64());
    Ok(())
}

/// PINSRx.
fn insert<T: Element + Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let element: T = if op.mem == Op::NO_MEMORY {
        T::from_u64(cpu.reg(op.c))
    } else {
        let ea = cpu.ea(op);
        cpu.read(op.seg, ea)?
    };
    put::<K>(cpu, op.a, element.with(xmm(cpu, op.b), op.imm as usize), 0);
    Ok(())
}

/// INSERTPS; a memory source is the element itself.
fn insertps<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let element = if op.mem == Op::NO_MEMORY {
        u32::at(xmm(cpu, op.c), selector(op.imm as u8, 3))
    } else {
        source_scalar(cpu, op)?
    };
    put::<K>(cpu, op.a, insert_single(xmm(cpu, op.b), element, op.imm as u8), 0);
    Ok(())
}

fn elements(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Pextrb | Vpextrb => by_encoding!(l, extract, u8),
        Pextrw | Vpextrw => by_encoding!(l, extract, u16),
        Pextrd | Vpextrd | Extractps | Vextractps => by_encoding!(l, extract, u32),
        Pextrq | Vpextrq => by_encoding!(l, extract, u64),
        mnemonic => {
            let handler = match mnemonic {
                Pinsrb | Vpinsrb => by_encoding!(l, insert, u8),
                Pinsrw | Vpinsrw => by_encoding!(l, insert, u16),
                Pinsrd | Vpinsrd => by_encoding!(l, insert, u32),
                Pinsrq | Vpinsrq => by_encoding!(l, insert, u64),
                Insertps | Vinsertps => by_encoding!(l, insertps),
                _ => return None,
            };
            l.three();
            handler
        }
    })
}

/// The handler of an instruction that rearranges elements.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    lanewise_moves(l)
        .or_else(|| blends(l))
        .or_else(|| across_lanes(l))
        .or_else(|| broadcasts(l))
        .or_else(|| extensions(l))
        .or_else(|| elements(l))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: V = 0x0f0e0d0c_0b0a0908_07060504_03020100;
    const B: V = 0x1f1e1d1c_1b1a1918_17161514_13121110;

    #[test]
    fn unpacking() {
        assert_eq!(unpack_low::<u8>(A, B), 0x1707_1606_1505_1404_1303_1202_1101_1000);
        assert_eq!(unpack_high::<u16>(A, B), 0x1f1e0f0e_1d1c0d0c_1b1a0b0a_19180908);
        assert_eq!(unpack_high::<u64>(A, B), B >> 64 << 64 | A >> 64);
    }

    #[test]
    fn packing_saturates() {
        let v = 0x8000_7fff_0100_00ff_0080_007f_ffff_0001;
        assert_eq!(pack::<i16, i8>(v, 0, -128, 127), 0x807f7f7f_7f7fff01);
        assert_eq!(pack::<i16, u8>(0, v, 0, 255), 0x00ffffff_807f0001 << 64);
    }

    #[test]
    fn aligning_runs_through_both_operands() {
        for imm in 0..=40u8 {
            let r = align_right(B, A, imm).to_le_bytes();
            for (i, byte) in r.into_iter().enumerate() {
                let n = i + imm as usize;
                assert_eq!(byte as usize, if n < 32 { n } else { 0 });
            }
        }
    }

    #[test]
    fn byte_shuffle() {
        assert_eq!(
            shuffle_bytes(B, 0x80ff0f1f_00000000_0102030c_7f8f0e0d),
            0x00001f1f_10101010_1112131c_1f001e1d
        );
    }

    #[test]
    fn inserting_a_single() {
        assert_eq!(
            insert_single(A, 0xffff_ffff, 0b0010_1001),
            0x0f0e0d0c_ffffffff_07060504_03020100 & !(0xffff_ffff << 96 | 0xffff_ffff)
        );
    }

    #[test]
    fn lanes_selected_by_immediate() {
        let (a, b) = (pair(1, 2), pair(3, 4));
        let all: Vec<V> = (0..16).map(|imm| select_lane(&a, &b, imm)).collect();
        assert_eq!(all, [1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
