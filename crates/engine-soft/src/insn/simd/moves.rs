//! Moves between registers and memory, and between register files.

use super::lanes::{Element, V, high, low};
use super::shape::*;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::bits::rflags;
use iced_x86::Mnemonic::*;

/// MXCSR bits that LDMXCSR takes (SDM vol. 1 §10.2.3).
const MXCSR_DEFINED: u32 = 0xffff;

fn copy<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = reg(cpu, op.b);
    put::<K>(cpu, op.a, low(&v), high(&v));
    Ok(())
}

fn load_whole<const K: u8, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    if K == VEX256 {
        cpu.ymm[(op.a & 15) as usize] = cpu.read_vector::<4>(op.seg, ea, ALIGNED)?;
        return Ok(());
    }
    let [a, b] = cpu.read_vector::<2>(op.seg, ea, ALIGNED)?;
    put::<K>(cpu, op.a, a as V | (b as V) << 64, 0);
    Ok(())
}

fn store_whole<const K: u8, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = reg(cpu, op.b);
    if K == VEX256 {
        return cpu.write_vector::<4>(op.seg, ea, ALIGNED, v);
    }
    cpu.write_vector::<2>(op.seg, ea, ALIGNED, [v[0], v[1]])
}

fn whole_registers(l: &Low) -> Option<Handler> {
    let aligned = match l.i.mnemonic() {
        Movaps | Vmovaps | Movapd | Vmovapd | Movdqa | Vmovdqa => true,
        Movntps | Vmovntps | Movntpd | Vmovntpd | Movntdq | Vmovntdq | Movntdqa | Vmovntdqa => true,
        Movups | Vmovups | Movupd | Vmovupd | Movdqu | Vmovdqu | Lddqu | Vlddqu => false,
        _ => return None,
    };
    Some(match (l.op.mem, l.k, aligned) {
        (Op::NO_MEMORY, ..) => by_encoding!(l, copy),
        (0, SSE, false) => store_whole::<SSE, false>,
        (0, SSE, true) => store_whole::<SSE, true>,
        (0, VEX128, false) => store_whole::<VEX128, false>,
        (0, VEX128, true) => store_whole::<VEX128, true>,
        (0, _, false) => store_whole::<VEX256, false>,
        (0, _, true) => store_whole::<VEX256, true>,
        (_, SSE, false) => load_whole::<SSE, false>,
        (_, SSE, true) => load_whole::<SSE, true>,
        (_, VEX128, false) => load_whole::<VEX128, false>,
        (_, VEX128, true) => load_whole::<VEX128, true>,
        (_, _, false) => load_whole::<VEX256, false>,
        (_, _, true) => load_whole::<VEX256, true>,
    })
}

/// A general register or memory to element 0, the rest zero: MOVD, MOVQ.
fn from_general<T: Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = cpu.get::<T>(op.b);
    put::<K>(cpu, op.a, v.to_u64() as V, 0);
    Ok(())
}

/// Memory to element 0, the rest zero: MOVD, MOVQ, MOVSS, MOVSD.
fn load_element<T: Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = cpu.read::<T>(op.seg, ea)?;
    put::<K>(cpu, op.a, v.to_u64() as V, 0);
    Ok(())
}

/// Element 0 to a general register.
fn to_general<T: Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = T::from_u64(reg(cpu, op.b)[0]);
    cpu.set(op.a, v);
    Ok(())
}

/// Element 0 to memory.
fn store_element<T: Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = T::from_u64(reg(cpu, op.b)[0]);
    cpu.write(op.seg, ea, v)
}

/// MOVQ between vector registers: the rest becomes zero even with the legacy encoding.
fn copy_low<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = reg(cpu, op.b)[0];
    put::<K>(cpu, op.a, v as V, 0);
    Ok(())
}

/// MOVSS, MOVSD between registers: element 0 of the last source, the rest of the first.
fn merge<T: Element, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = T::at(xmm(cpu, op.c), 0).with(xmm(cpu, op.b), 0);
    put::<K>(cpu, op.a, v, 0);
    Ok(())
}

fn store_high<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = reg(cpu, op.b)[1];
    cpu.write(op.seg, ea, v)
}

/// MOVLPS, MOVHPS and their kind: one half from memory, the other from the first source.
fn load_half<const K: u8, const HIGH: bool>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = cpu.read::<u64>(op.seg, ea)?;
    let a = xmm(cpu, op.b);
    put::<K>(cpu, op.a, v.with(a, HIGH as usize), 0);
    Ok(())
}

fn load_half_by_encoding<const HIGH: bool>(l: &mut Low) -> Handler {
    l.three();
    if l.k == SSE {
        load_half::<SSE, HIGH>
    } else {
        load_half::<VEX128, HIGH>
    }
}

fn scalar_moves<T: Element + Word>(l: &mut Low) -> Handler {
    match l.op.mem {
        0 => by_encoding!(l, store_element, T),
        1 => by_encoding!(l, load_element, T),
        _ => {
            l.three();
            by_encoding!(l, merge, T)
        }
    }
}

fn parts(l: &mut Low) -> Option<Handler> {
    let vector = |n| l.i.op_register(n).is_vector_register();
    Some(match l.i.mnemonic() {
        Movd | Vmovd | Movq | Vmovq => {
            let wide = l.i.mnemonic() == Movq || l.i.mnemonic() == Vmovq;
            match (l.op.mem, vector(0), wide) {
                (0, _, false) => by_encoding!(l, store_element, u32),
                (0, _, true) => by_encoding!(l, store_element, u64),
                (1, _, false) => by_encoding!(l, load_element, u32),
                (1, _, true) => by_encoding!(l, load_element, u64),
                (_, true, true) if vector(1) => by_encoding!(l, copy_low),
                (_, true, false) => by_encoding!(l, from_general, u32),
                (_, true, true) => by_encoding!(l, from_general, u64),
                (_, false, false) => by_encoding!(l, to_general, u32),
                (_, false, true) => by_encoding!(l, to_general, u64),
            }
        }
        Movss | Vmovss => scalar_moves::<u32>(l),
        Movsd | Vmovsd => scalar_moves::<u64>(l),
        Movlps | Vmovlps | Movlpd | Vmovlpd if l.is_mem(0) => by_encoding!(l, store_element, u64),
        Movhps | Vmovhps | Movhpd | Vmovhpd if l.is_mem(0) => by_encoding!(l, store_high),
        Movlps | Vmovlps | Movlpd | Vmovlpd => load_half_by_encoding::<false>(l),
        Movhps | Vmovhps | Movhpd | Vmovhpd => load_half_by_encoding::<true>(l),
        Movhlps | Vmovhlps => binary!(l, |a, b| u64::at(b, 1).with(a, 0)),
        Movlhps | Vmovlhps => binary!(l, |a, b| u64::at(b, 0).with(a, 1)),
        _ => return None,
    })
}

/// The sign bits of all elements, element 0 in bit 0.
#[inline(always)]
fn sign_mask<T: Element>(v: V) -> u64 {
    (0..T::N).fold(0, |m, i| {
        m | ((v >> ((i as u32 + 1) * T::BITS - 1)) as u64 & 1) << i
    })
}

/// PMOVMSKB of half a lane: the multiplication gathers bits 0, 8, … in the top byte.
#[inline(always)]
fn byte_signs(q: u64) -> u64 {
    (q >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

fn move_mask<T: Element, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = reg(cpu, op.b);
    let mut mask = sign_mask::<T>(low(&v));
    if K == VEX256 {
        mask |= sign_mask::<T>(high(&v)) << T::N;
    }
    cpu.set_reg(op.a, mask);
    Ok(())
}

fn move_byte_mask<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = reg(cpu, op.b);
    let mut mask = byte_signs(v[0]) | byte_signs(v[1]) << 8;
    if K == VEX256 {
        mask |= byte_signs(v[2]) << 16 | byte_signs(v[3]) << 24;
    }
    cpu.set_reg(op.a, mask);
    Ok(())
}

fn masks(l: &Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Pmovmskb | Vpmovmskb => by_encoding!(l, move_byte_mask),
        Movmskps | Vmovmskps => by_encoding!(l, move_mask, u32),
        Movmskpd | Vmovmskpd => by_encoding!(l, move_mask, u64),
        _ => return None,
    })
}

/// Loads an element for an instruction that takes no part in alignment checking.
pub(super) fn read_element<T: Word>(cpu: &mut Cpu, seg: u8, ea: u64) -> R<T> {
    if cpu.rflags & rflags::AC == 0 {
        return cpu.read(seg, ea);
    }
    let mut bytes = [0; 8];
    cpu.read_bytes(seg, ea, &mut bytes[..T::SIZE])?;
    Ok(T::from_u64(u64::from_le_bytes(bytes)))
}

/// As [`read_element`].
fn write_element<T: Word>(cpu: &mut Cpu, seg: u8, ea: u64, v: T) -> R {
    if cpu.rflags & rflags::AC == 0 {
        return cpu.write(seg, ea, v);
    }
    cpu.write_bytes(seg, ea, &v.to_u64().to_le_bytes()[..T::SIZE])
}

/// Stores the elements whose bit in `mask` is set; all of them or, if one faults, none.
fn store_masked<T: Word>(cpu: &mut Cpu, seg: u8, ea: u64, elements: &[T], mask: u32) -> R {
    let selected = |i: &usize| mask >> i & 1 != 0;
    let address = |i: usize| ea.wrapping_add((i * T::SIZE) as u64);
    for i in (0..elements.len()).filter(selected) {
        cpu.probe_write(seg, address(i), T::SIZE, 1)?;
    }
    for i in (0..elements.len()).filter(selected) {
        write_element(cpu, seg, address(i), elements[i])?;
    }
    Ok(())
}

/// MASKMOVDQU: bytes of operand 1 whose sign bit in operand 2 is set go to DS:rDI.
fn maskmovdqu<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = match op.address_size {
        2 => cpu.reg(7),
        1 => cpu.get::<u32>(7) as u64,
        _ => cpu.get::<u16>(7) as u64,
    };
    let mask = sign_mask::<u8>(xmm(cpu, op.c));
    let bytes = xmm(cpu, op.b).to_le_bytes();
    // All 16 bytes must be writable, whatever the mask; the SDM leaves that open and processors do it.
    cpu.probe_write(op.seg, ea, 16, 8)?;
    store_masked(cpu, op.seg, ea, &bytes, mask as u32)
}

/// VMASKMOVxx, VPMASKMOVx loads: elements whose sign bit in the mask is clear are not accessed and read as
/// zero.
fn load_masked<T: Element + Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let mask = reg(cpu, op.b);
    let signs = sign_mask::<T>(low(&mask)) | sign_mask::<T>(high(&mask)) << T::N;
    let ea = cpu.ea(op);
    let mut out = [0; 2];
    for i in 0..if K == VEX256 { 2 * T::N } else { T::N } {
        if signs >> i & 1 != 0 {
            let element: T = read_element(cpu, op.seg, ea.wrapping_add((i * T::SIZE) as u64))?;
            out[i / T::N] = element.with(out[i / T::N], i % T::N);
        }
    }
    put::<K>(cpu, op.a, out[0], out[1]);
    Ok(())
}

/// VMASKMOVxx, VPMASKMOVx stores: operand 1 is the mask, operand 2 the data.
fn mask_store<T: Element + Word, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let (mask, data) = (reg(cpu, op.b), reg(cpu, op.c));
    let mut signs = sign_mask::<T>(low(&mask));
    if K == VEX256 {
        signs |= sign_mask::<T>(high(&mask)) << T::N;
    }
    let ea = cpu.ea(op);
    let elements: [T; 8] =
        std::array::from_fn(|i| T::at(if i < T::N { low(&data) } else { high(&data) }, i % T::N));
    store_masked(cpu, op.seg, ea, &elements, signs as u32)
}

fn masked(l: &Low) -> Option<Handler> {
    Some(match (l.i.mnemonic(), l.is_mem(0)) {
        (Maskmovdqu | Vmaskmovdqu, _) => by_encoding!(l, maskmovdqu),
        (Vmaskmovps | Vpmaskmovd, false) => by_encoding!(l, load_masked, u32),
        (Vmaskmovpd | Vpmaskmovq, false) => by_encoding!(l, load_masked, u64),
        (Vmaskmovps | Vpmaskmovd, true) => by_encoding!(l, mask_store, u32),
        (Vmaskmovpd | Vpmaskmovq, true) => by_encoding!(l, mask_store, u64),
        _ => return None,
    })
}

fn movq2dq(cpu: &mut Cpu, op: &Op) -> R {
    cpu.sse()?;
    cpu.mmx()?;
    cpu.mmx_enter();
    let v = cpu.mm(op.b);
    put::<SSE>(cpu, op.a, v as V, 0);
    Ok(())
}

fn movdq2q(cpu: &mut Cpu, op: &Op) -> R {
    cpu.sse()?;
    cpu.mmx()?;
    let v = reg(cpu, op.b)[0];
    cpu.mmx_enter();
    cpu.set_mm(op.a, v);
    Ok(())
}

fn ldmxcsr<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v: u32 = cpu.read(op.seg, ea)?;
    if v & !MXCSR_DEFINED != 0 {
        return Err(cpu.gp(0));
    }
    cpu.mxcsr = v;
    Ok(())
}

fn stmxcsr<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let ea = cpu.ea(op);
    let v = cpu.mxcsr;
    cpu.write(op.seg, ea, v)
}

/// VZEROUPPER and VZEROALL reach the registers the mode can name.
fn zero<const ALL: bool>(cpu: &mut Cpu, _: &Op) -> R {
    cpu.avx()?;
    let count = if cpu.is64() { 16 } else { 8 };
    for r in &mut cpu.ymm[..count] {
        *r = if ALL { [0; 4] } else { [r[0], r[1], 0, 0] };
    }
    Ok(())
}

/// The handler of a move.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Movq2dq => movq2dq,
        Movdq2q => movdq2q,
        Ldmxcsr | Vldmxcsr => by_encoding!(l, ldmxcsr),
        Stmxcsr | Vstmxcsr => by_encoding!(l, stmxcsr),
        Vzeroupper => zero::<false>,
        Vzeroall => zero::<true>,
        _ => {
            return whole_registers(l)
                .or_else(|| parts(l))
                .or_else(|| masks(l))
                .or_else(|| masked(l));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_signs() {
        let v = 0x8000_ff7f_0000_0080_8000_0000_0000_0001;
        assert_eq!(sign_mask::<u8>(v), 0b1010_0001_1000_0000);
        assert_eq!(sign_mask::<u32>(v), 0b1010);
        assert_eq!(sign_mask::<u64>(v), 0b11);
        assert_eq!(
            byte_signs(v as u64) | byte_signs((v >> 64) as u64) << 8,
            sign_mask::<u8>(v)
        );
        for i in 0..64 {
            assert_eq!(byte_signs(1 << i), if i % 8 == 7 { 1 << (i / 8) } else { 0 });
        }
    }
}
