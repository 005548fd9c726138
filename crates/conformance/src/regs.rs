//! The user-visible registers, and their XSAVE image (Intel SDM vol. 1 §13.4).

use donjon_x86::{Fpu, Xmm};

/// Everything a program at CPL 3 can see of its processor.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Regs {
    /// RAX … R15 in encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer (an offset into CS).
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// x87.
    pub fpu: Fpu,
    /// SSE control and status.
    pub mxcsr: u32,
    /// YMM0-YMM15.
    pub ymm: [Xmm; 16],
}

/// Bytes of a standard-format XSAVE image with x87, SSE and AVX.
pub const XSAVE_SIZE: usize = 576 + 256;
/// The state components in it.
pub const XSAVE_MASK: u64 = 7;

fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"))
}

fn u16_at(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(image[at..at + 2].try_into().expect("two bytes"))
}

/// Bit n set: physical register n is not empty.
pub fn abridged_tag(tag: u16) -> u8 {
    (0..8).fold(0, |t, i| t | (((tag >> (2 * i) & 3) != 3) as u8) << i)
}

/// The full tag word (Intel SDM vol. 1 §8.1.7) from the abridged one and the registers' contents.
pub fn full_tag(abridged: u8, significand: &[u64; 8], sign_exponent: &[u16; 8]) -> u16 {
    (0..8).fold(0, |tag, i| {
        let (s, e) = (significand[i], sign_exponent[i] & 0x7fff);
        let class = match () {
            _ if abridged >> i & 1 == 0 => 3,
            _ if e == 0 && s == 0 => 1,
            _ if e == 0 || e == 0x7fff || s >> 63 == 0 => 2,
            _ => 0,
        };
        tag | class << (2 * i)
    })
}

impl Regs {
    /// The image XRSTOR64 loads x87, SSE and AVX from.
    pub fn to_xsave(&self) -> [u8; XSAVE_SIZE] {
        let mut x = [0; XSAVE_SIZE];
        let f = &self.fpu;
        let mut put = |at: usize, bytes: &[u8]| x[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &f.control.to_le_bytes());
        put(2, &f.status.to_le_bytes());
        put(4, &[abridged_tag(f.tag)]);
        put(6, &f.opcode.to_le_bytes());
        put(8, &f.instruction.to_le_bytes());
        put(16, &f.data.to_le_bytes());
        put(24, &self.mxcsr.to_le_bytes());
        put(28, &0xffffu32.to_le_bytes());
        let top = f.status as usize >> 11 & 7;
        for i in 0..8 {
            let r = (top + i) & 7;
            put(32 + 16 * i, &f.significand[r].to_le_bytes());
            put(40 + 16 * i, &f.sign_exponent[r].to_le_bytes());
        }
        for (i, y) in self.ymm.iter().enumerate() {
            put(160 + 16 * i, &y[0].to_le_bytes());
            put(168 + 16 * i, &y[1].to_le_bytes());
            put(576 + 16 * i, &y[2].to_le_bytes());
            put(584 + 16 * i, &y[3].to_le_bytes());
        }
        put(512, &XSAVE_MASK.to_le_bytes());
        x
    }

    /// Takes x87, SSE and AVX from an image in standard format. A component that XSTATE_BV says is in its
    /// initial state is taken as such, whatever the image holds.
    pub fn set_xsave(&mut self, x: &[u8]) {
        let present = u64_at(x, 512);
        self.fpu = Fpu::default();
        if present & 1 != 0 {
            let f = &mut self.fpu;
            f.control = u16_at(x, 0);
            f.status = u16_at(x, 2);
            f.opcode = u16_at(x, 6);
            f.instruction = u64_at(x, 8);
            f.data = u64_at(x, 16);
            let top = f.status as usize >> 11 & 7;
            for i in 0..8 {
                let r = (top + i) & 7;
                f.significand[r] = u64_at(x, 32 + 16 * i);
                f.sign_exponent[r] = u16_at(x, 40 + 16 * i);
            }
            f.tag = full_tag(x[4], &f.significand, &f.sign_exponent);
        }
        // MXCSR belongs to SSE and AVX, and XSAVE writes it for either (SDM vol. 1 §13.5.2).
        self.mxcsr = u64_at(x, 24) as u32;
        for (i, y) in self.ymm.iter_mut().enumerate() {
            let low = present & 2 != 0;
            let high = present & 4 != 0;
            y[0] = if low { u64_at(x, 160 + 16 * i) } else { 0 };
            y[1] = if low { u64_at(x, 168 + 16 * i) } else { 0 };
            y[2] = if high { u64_at(x, 576 + 16 * i) } else { 0 };
            y[3] = if high { u64_at(x, 584 + 16 * i) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_both_ways() {
        let mut r = Regs {
            mxcsr: 0x1fa0,
            ..Regs::default()
        };
        r.fpu.status = 5 << 11 | 1;
        r.fpu.significand = std::array::from_fn(|i| 1 << 63 | i as u64);
        r.fpu.sign_exponent = std::array::from_fn(|i| 0x3ff0 + i as u16);
        r.fpu.tag = 0b11_00_00_11_00_00_00_00;
        r.ymm = std::array::from_fn(|i| std::array::from_fn(|j| (i * 4 + j) as u64 + 1));
        let mut back = Regs::default();
        back.set_xsave(&r.to_xsave());
        assert_eq!(back, r);
        // ST(0) comes first in the image, and TOP is 5.
        assert_eq!(u64_at(&r.to_xsave(), 32), 1 << 63 | 5);
    }

    #[test]
    fn tags_follow_the_contents() {
        let s = [0, 1, 1 << 63, 1 << 63, 1 << 62, 0, 0, 0];
        let e = [0, 0, 0x3fff, 0x7fff, 0x3fff, 0, 0, 0];
        assert_eq!(full_tag(0x1f, &s, &e), 0b11_11_11_10_10_00_10_01);
        assert_eq!(abridged_tag(full_tag(0x1f, &s, &e)), 0x1f);
    }
}
