//! FXSAVE and FXRSTOR, and the legacy region they share with the XSAVE family
//! (Intel SDM vol. 1 §10.5 and §13.4.1).

use super::area::{check_alignment, probe_last, store_part};
use super::environment::load_control;
use super::stack::{self, EMPTY};
use crate::cpu::{Cpu, Kind, R};
use crate::decode::Op;
use crate::float::x87::F80;
use donjon_x86::bits::{cr0, cr4};
use donjon_x86::{Fpu, exception};
use std::ops::Range;

/// Bytes of the legacy region.
pub const LEGACY: usize = 512;
/// Its parts: MXCSR and its mask, x87 registers, XMM registers.
pub const MXCSR: usize = 24;
const ST: usize = 32;
pub const XMM: usize = 160;
/// The bytes of x87 control and pointers, and those of its registers.
pub const X87_HEAD: Range<usize> = 0..MXCSR;
pub const X87_REGISTERS: Range<usize> = ST..XMM;
/// The bytes of MXCSR and its mask.
pub const MXCSR_BYTES: Range<usize> = MXCSR..ST;
/// The MXCSR bits there are; stored as MXCSR_MASK (Intel SDM vol. 1 §11.6.6).
pub const MXCSR_MASK: u32 = 0xffff;

fn put<const N: usize>(area: &mut [u8], at: usize, bytes: [u8; N]) {
    area[at..at + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| area[at + i])
}

/// Vector registers the mode can reach, and so these instructions move.
pub fn vectors(cpu: &Cpu) -> usize {
    if cpu.is64() { 16 } else { 8 }
}

/// One bit a register, set if it is not empty.
pub fn abridged_tags(f: &Fpu) -> u8 {
    (0..8).fold(0, |bits, n| bits | ((f.tag >> (2 * n) & 3 != EMPTY) as u8) << n)
}

/// A tag word to an abridged one, with the registers that are not empty as valid.
pub fn tags(abridged: u8) -> u16 {
    (0..8).fold(0, |tags, n| {
        tags | if abridged >> n & 1 == 0 {
            EMPTY << (2 * n)
        } else {
            0
        }
    })
}

/// Stores x87 state: bytes 0-23 and 32-159. `wide` is REX.W.
pub fn put_x87(f: &Fpu, area: &mut [u8], wide: bool) {
    put(area, 0, f.control.to_le_bytes());
    put(area, 2, f.status.to_le_bytes());
    put(area, 4, [abridged_tags(f), 0]);
    put(area, 6, f.opcode.to_le_bytes());
    if wide {
        put(area, 8, f.instruction.to_le_bytes());
        put(area, 16, f.data.to_le_bytes());
    } else {
        let pointer = |offset: u64, selector: u16| (selector as u64) << 32 | offset as u32 as u64;
        put(
            area,
            8,
            pointer(f.instruction, f.instruction_selector).to_le_bytes(),
        );
        put(area, 16, pointer(f.data, f.data_selector).to_le_bytes());
    }
    for i in 0..8 {
        let at = ST + i as usize * 16;
        put(area, at, stack::get(f, i).to_bytes());
        put(area, at + 10, [0; 6]);
    }
}

/// Loads x87 state.
pub fn take_x87(f: &mut Fpu, area: &[u8], wide: bool) {
    load_control(f, u16::from_le_bytes(take(area, 0)));
    f.status = u16::from_le_bytes(take(area, 2));
    f.opcode = u16::from_le_bytes(take(area, 6)) & 0x7ff;
    let (code, data) = (
        u64::from_le_bytes(take(area, 8)),
        u64::from_le_bytes(take(area, 16)),
    );
    if wide {
        (f.instruction, f.instruction_selector) = (code, 0);
        (f.data, f.data_selector) = (data, 0);
    } else {
        (f.instruction, f.instruction_selector) = (code as u32 as u64, (code >> 32) as u16);
        (f.data, f.data_selector) = (data as u32 as u64, (data >> 32) as u16);
    }
    for i in 0..8 {
        stack::set(f, i, F80::from_bytes(take(area, ST + i as usize * 16)));
    }
    stack::retag(f, tags(area[4]));
    stack::summarise(f);
}

/// Stores MXCSR and its mask.
pub fn put_mxcsr(cpu: &Cpu, area: &mut [u8]) {
    put(area, MXCSR, cpu.mxcsr.to_le_bytes());
    put(area, MXCSR + 4, MXCSR_MASK.to_le_bytes());
}

/// MXCSR as stored; #GP(0) if it has reserved bits.
pub fn checked_mxcsr(cpu: &mut Cpu, area: &[u8]) -> R<u32> {
    let v = u32::from_le_bytes(take(area, MXCSR));
    if v & !MXCSR_MASK != 0 {
        return Err(cpu.gp(0));
    }
    Ok(v)
}

/// Stores half of each vector register: the lower (`half` 0) or the upper (2).
pub fn put_vectors(cpu: &Cpu, area: &mut [u8], at: usize, half: usize) {
    for (n, r) in cpu.ymm.iter().take(vectors(cpu)).enumerate() {
        put(area, at + n * 16, r[half].to_le_bytes());
        put(area, at + n * 16 + 8, r[half + 1].to_le_bytes());
    }
}

/// Loads half of each vector register; zeroes it without an `area`.
pub fn take_vectors(cpu: &mut Cpu, area: Option<&[u8]>, at: usize, half: usize) {
    let count = vectors(cpu);
    for (n, r) in cpu.ymm.iter_mut().take(count).enumerate() {
        let quad = |from: usize| area.map_or(0, |a| u64::from_le_bytes(take(a, from)));
        r[half] = quad(at + n * 16);
        r[half + 1] = quad(at + n * 16 + 8);
    }
}

/// The bytes of XMM registers in the legacy region that the mode can reach.
pub fn xmm_bytes(cpu: &Cpu) -> Range<usize> {
    XMM..XMM + 16 * vectors(cpu)
}

/// #NM, segment checks, alignment and paging; the effective address.
fn check(cpu: &mut Cpu, op: &Op, kind: Kind) -> R<u64> {
    if cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(cpu.raise(exception::NM));
    }
    let ea = cpu.ea(op);
    let linear = cpu.linear(op.seg, ea, LEGACY, kind)?;
    // Where alignment is checked, the misalignments it is about come first; which ones those are the SDM
    // leaves to the processor.
    check_alignment(cpu, linear, 4)?;
    if linear & 15 != 0 {
        return Err(cpu.gp(0));
    }
    probe_last(cpu, op, ea, LEGACY, kind)?;
    cpu.place(op.seg, linear, kind)?;
    Ok(ea)
}

/// FXSAVE, FXSAVE64. Without CR4.OSFXSR the SSE state is left out, which the SDM leaves to the processor.
pub fn save<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    let ea = check(cpu, op, Kind::Write)?;
    let mut area = [0; LEGACY];
    put_x87(&cpu.fpu, &mut area, WIDE);
    if cpu.cr4 & cr4::OSFXSR == 0 {
        store_part(cpu, op, ea, &area, X87_HEAD)?;
        return store_part(cpu, op, ea, &area, X87_REGISTERS);
    }
    put_mxcsr(cpu, &mut area);
    put_vectors(cpu, &mut area, XMM, 0);
    let end = xmm_bytes(cpu).end;
    store_part(cpu, op, ea, &area, 0..end)
}

/// FXRSTOR, FXRSTOR64.
pub fn restore<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    let ea = check(cpu, op, Kind::Read)?;
    let mut area = [0; LEGACY];
    cpu.read_bytes(op.seg, ea, &mut area)?;
    if cpu.cr4 & cr4::OSFXSR != 0 {
        cpu.mxcsr = checked_mxcsr(cpu, &area)?;
        take_vectors(cpu, Some(&area), XMM, 0);
    }
    take_x87(&mut cpu.fpu, &area, WIDE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x87_state_survives_the_image() {
        let mut f = Fpu {
            control: 0x27f,
            status: 0x2800,
            tag: 0xf0ff,
            opcode: 0x123,
            ..Fpu::default()
        };
        (f.instruction, f.data) = (0x1234_5678_9abc, 0x8765_4321_0fed);
        for n in 0..8 {
            (f.significand[n], f.sign_exponent[n]) = ((1 << 63) + n as u64 * 3, n as u16 * 5 + 1);
        }
        let mut area = [0xaa; LEGACY];
        put_x87(&f, &mut area, true);
        assert_eq!(area[24..32], [0xaa; 8]);
        assert_eq!(area[160..], [0xaa; LEGACY - 160]);
        assert_eq!(area[4], 0x30);
        let mut g = Fpu::default();
        take_x87(&mut g, &area, true);
        assert_eq!(f, g);
        // Registers are in stack order: TOP is 5.
        assert_eq!(area[32], 15);
    }
}
