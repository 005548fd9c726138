//! x87 and vector registers in the standard form of XSAVE (Intel SDM vol. 1 §13.4), with 64-bit addresses.
//!
//! That form has no selectors of the last x87 instruction and operand. A guest cannot tell: its kernel saves in
//! the same form, and processors deprecate them.

use donjon_x86::bits::xcr0;
use donjon_x86::{CpuState, Fpu};
use kvm_bindings::kvm_xsave;

const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;
/// CPUID leaf 0xd, subleaf 2, is the same in all processors.
const YMM_HIGH: usize = 576;

fn put(area: &mut kvm_xsave, at: usize, value: u64) {
    area.region[at / 4] = value as u32;
    area.region[at / 4 + 1] = (value >> 32) as u32;
}

fn get(area: &kvm_xsave, at: usize) -> u64 {
    area.region[at / 4] as u64 | (area.region[at / 4 + 1] as u64) << 32
}

/// The registers for the kernel; those of components that `supported` lacks must not be there.
pub fn area(s: &CpuState, supported: u64) -> kvm_xsave {
    let mut a = kvm_xsave::default();
    let f = &s.fpu;
    let top = (f.status >> 11 & 7) as usize;
    let full = (0..8).filter(|i| f.tag >> (i * 2) & 3 != 3);
    let abridged = full.fold(0u64, |bits, i| bits | 1 << i);
    let (control, status) = (f.control as u64, (f.status as u64) << 16);
    put(
        &mut a,
        0,
        control | status | abridged << 32 | (f.opcode as u64) << 48,
    );
    put(&mut a, 8, f.instruction);
    put(&mut a, 16, f.data);
    put(&mut a, MXCSR, s.mxcsr as u64);
    for i in 0..8 {
        let r = (top + i) % 8;
        put(&mut a, ST + i * 16, f.significand[r]);
        put(&mut a, ST + i * 16 + 8, f.sign_exponent[r] as u64);
    }
    for (i, r) in s.ymm.iter().enumerate() {
        for half in 0..2 {
            put(&mut a, XMM + i * 16 + half * 8, r[half]);
            put(&mut a, YMM_HIGH + i * 16 + half * 8, r[2 + half]);
        }
    }
    let all = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    put(&mut a, XSTATE_BV, all & supported);
    a
}

/// The registers from the kernel.
pub fn take_area(a: &kvm_xsave, s: &mut CpuState) {
    let there = get(a, XSTATE_BV);
    s.fpu = if there & xcr0::X87 != 0 {
        x87(a)
    } else {
        Fpu::default()
    };
    s.mxcsr = get(a, MXCSR) as u32;
    if there & (xcr0::SSE | xcr0::AVX) == 0 {
        s.mxcsr = 0x1f80;
    }
    for (i, r) in s.ymm.iter_mut().enumerate() {
        let quad = |component, at: usize| if there & component != 0 { get(a, at) } else { 0 };
        *r = [
            quad(xcr0::SSE, XMM + i * 16),
            quad(xcr0::SSE, XMM + i * 16 + 8),
            quad(xcr0::AVX, YMM_HIGH + i * 16),
            quad(xcr0::AVX, YMM_HIGH + i * 16 + 8),
        ];
    }
}

fn x87(a: &kvm_xsave) -> Fpu {
    let head = get(a, 0);
    let mut f = Fpu {
        control: head as u16,
        status: (head >> 16) as u16,
        tag: 0,
        opcode: (head >> 48) as u16 & 0x7ff,
        instruction: get(a, 8),
        data: get(a, 16),
        ..Fpu::default()
    };
    let top = (f.status >> 11 & 7) as usize;
    for i in 0..8 {
        let r = (top + i) % 8;
        f.significand[r] = get(a, ST + i * 16);
        f.sign_exponent[r] = get(a, ST + i * 16 + 8) as u16;
    }
    for r in 0..8 {
        let tag = match head >> (32 + r) & 1 {
            0 => 3,
            _ => tag(f.sign_exponent[r], f.significand[r]),
        };
        f.tag |= tag << (r * 2);
    }
    f
}

/// The tag of a register that is not empty (Intel SDM vol. 1 §8.1.7, table 10-4 of FXRSTOR's text).
fn tag(sign_exponent: u16, significand: u64) -> u16 {
    let integer_bit = significand >> 63 != 0;
    match (sign_exponent & 0x7fff, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        _ if !integer_bit => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> CpuState {
        let mut s = CpuState::reset();
        for (i, r) in s.ymm.iter_mut().enumerate() {
            *r = std::array::from_fn(|n| (i * 4 + n) as u64 * 0x0101_0101_0101_0101);
        }
        s.mxcsr = 0x1fa0;
        s.fpu = Fpu {
            control: 0x27f,
            // TOP is 5: R5, R6 and R7 are in use.
            status: 5 << 11 | 0x20,
            tag: 0x1bff & !(3 << 14) | 1 << 14,
            opcode: 0x5d9,
            instruction: 0xffff_8000_0000_1234,
            data: 0x7fff_0000_0008,
            ..Fpu::default()
        };
        s.fpu.tag = 0b01_00_10_11_11_11_11_11;
        (s.fpu.sign_exponent[5], s.fpu.significand[5]) = (0x7fff, 1 << 63);
        (s.fpu.sign_exponent[6], s.fpu.significand[6]) = (0x3fff, 1 << 63);
        s
    }

    #[test]
    fn registers_come_back_as_they_went() {
        let s = state();
        let mut back = CpuState::reset();
        take_area(&area(&s, 7), &mut back);
        assert_eq!((back.fpu, back.mxcsr, back.ymm), (s.fpu, s.mxcsr, s.ymm));
    }

    #[test]
    fn registers_are_where_the_manual_has_them() {
        let a = area(&state(), 7);
        let bytes: Vec<u8> = a.region.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes[0..2], [0x7f, 2]);
        assert_eq!(bytes[4], 0b1110_0000, "R5 to R7 are not empty");
        assert_eq!(
            bytes[32..42],
            [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f],
            "ST(0) is R5"
        );
        assert_eq!(bytes[160 + 16], 4, "XMM1");
        assert_eq!(bytes[576 + 16], 6, "YMM1's upper half");
        assert_eq!(bytes[512], 7);
    }

    #[test]
    fn what_is_not_there_is_in_its_initial_state() {
        let mut a = area(&state(), 3);
        let mut back = CpuState::reset();
        take_area(&a, &mut back);
        assert_eq!(back.ymm[1][1..], [0x0505_0505_0505_0505, 0, 0]);
        put(&mut a, XSTATE_BV, 0);
        take_area(&a, &mut back);
        assert_eq!(
            (back.fpu, back.mxcsr, back.ymm),
            (Fpu::default(), 0x1f80, [[0; 4]; 16])
        );
    }
}
