//! Memory operands: where they lie, and the registers and bytes that lead there.

use super::{Builder, Fixup};
use crate::case::Mode;
use crate::encode::{Address, Rm};
use crate::layout::*;
use crate::values;
use iced_x86::Mnemonic;

const RSP: u8 = 4;
const RBP: u8 = 5;

/// The base of one of the selectors of [`selector`].
pub fn base_of(s: u16) -> u64 {
    match s {
        selector::CODE16 => CODE,
        selector::DATA16 | selector::SHORT => selector::WINDOW_BASE,
        _ => 0,
    }
}

/// The limit of one of the selectors of [`selector`].
pub fn limit_of(s: u16) -> u32 {
    match s {
        selector::CODE16 | selector::DATA16 => 0xffff,
        selector::SHORT => selector::SHORT_LIMIT,
        _ => u32::MAX,
    }
}

/// Segment override prefixes by register number (ES, CS, SS, DS, FS, GS).
const OVERRIDES: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

impl Builder {
    /// A linear address for an operand of `size` bytes.
    pub(super) fn place(&mut self, size: usize) -> u64 {
        let size = size.clamp(1, 1024) as u64;
        let align = if size > 256 {
            64
        } else {
            size.next_power_of_two().min(32)
        };
        let r = &mut self.rng;
        let inside = SCRATCH_SIZE - size;
        // What lies there must be chosen: the host has selectors and bits of MXCSR that the guest has not.
        let chosen = matches!(
            self.code.mnemonic(),
            Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Verr
                | Mnemonic::Verw
                | Mnemonic::Ldmxcsr
                | Mnemonic::Vldmxcsr
        );
        // Whether ARPL wants to write where it changes nothing is up to the vendor.
        if self.code.mnemonic() == Mnemonic::Arpl {
            return SCRATCH + r.below(inside + 1);
        }
        match r.below(100) {
            0..=58 => (SCRATCH + r.below(inside + 1)) / align * align,
            59..=78 => SCRATCH + r.below(inside + 1),
            // Across the two pages.
            79..=84 => SCRATCH + PAGE - 1 - r.below(size),
            85..=87 if chosen => SCRATCH,
            85..=87 => READ_ONLY + r.below(PAGE),
            88 => SCRATCH - 1 - r.below(size),
            // Over the end.
            89..=92 => SCRATCH_END - 1 - r.below(size),
            93 => READ_ONLY - 1 - r.below(size),
            94..=95 => SCRATCH_END + r.below(PAGE),
            // Not canonical, or just so. How near to the edge an access may come before it counts as beyond is
            // up to the processor: AMD's refuse some that end below it.
            96 => 0x7fff_ffff_ff00 - r.below(size + 2),
            97 if r.chance(1, 2) => 0x8000_0000_0000 + r.below(64),
            97 => values::integer(r, 64) | 1 << 62,
            98 => r.below(PAGE),
            _ => SCRATCH + r.below(64) * 64 + 64 - r.below(size).min(63),
        }
    }

    /// The base of segment register `segment`.
    pub(super) fn segment_base(&self, segment: usize) -> u64 {
        match (self.mode, segment) {
            (_, 4) => self.regs.fs_base,
            (_, 5) => self.regs.gs_base,
            (Mode::Long, _) => 0,
            _ => base_of(self.regs.selectors[segment]),
        }
    }

    /// Perhaps a segment override; the segment then in force.
    pub(super) fn segment(&mut self, default: usize) -> usize {
        let chosen = match (self.mode, self.rng.below(10)) {
            (_, 0) => 4,
            (_, 1) => 5,
            (_, 2) => self.rng.below(4) as usize,
            // 16-bit addresses only reach the window.
            (Mode::Compat32, 3..=7) if self.address_bits == 16 => 4 + self.rng.below(2) as usize,
            _ => return default,
        };
        // Whether ARPL wants to write although it changes nothing is up to the vendor.
        let chosen = if chosen == 1 && self.code.mnemonic() == Mnemonic::Arpl {
            default
        } else {
            chosen
        };
        self.prefixes.push(OVERRIDES[chosen]);
        // 64-bit mode ignores the others (Intel SDM vol. 1 §3.3.4).
        if self.mode == Mode::Long && chosen < 4 {
            default
        } else {
            chosen
        }
    }

    /// Perhaps an address-size prefix.
    pub(super) fn address_size_prefix(&mut self) {
        if self.op.address_size() == 0 && self.rng.chance(1, 10) {
            self.prefixes.push(0x67);
            self.address_bits = match self.mode {
                Mode::Long | Mode::Compat16 => 32,
                Mode::Compat32 => 16,
            };
        }
    }

    /// Sets an address register so that `segment:register` is `linear`; what the address size leaves out
    /// is random.
    pub(super) fn point(&mut self, register: u8, segment: usize, linear: u64) {
        let offset = linear.wrapping_sub(self.segment_base(segment));
        self.set_address(register, offset);
    }

    fn set_address(&mut self, register: u8, offset: u64) {
        let mask = self.address_mask();
        let mut rest = self.rng.draw() & !mask;
        if self.mode != Mode::Long {
            rest &= 0xffff_ffff;
        }
        self.regs.gpr[register as usize] = offset & mask | rest;
        self.pin(register);
    }

    /// A register to take into an address, and whether its value can still be chosen.
    fn address_register(&mut self, index: bool) -> u8 {
        loop {
            let r = self.rng.below(self.mode.registers() as u64) as u8;
            // EDX:EAX says which components XSAVE and its like handle.
            let mask = self.op.is_save_restore() && matches!(r, 0 | 2);
            let unusable = mask || index && r == RSP;
            if !unusable {
                return r;
            }
        }
    }

    /// A ModRM memory operand of `size` bytes.
    pub(super) fn memory_operand(&mut self, size: usize) -> Rm {
        self.address_size_prefix();
        let linear = self.place(size);
        self.memory_at(linear, size)
    }

    /// A ModRM memory operand of `size` bytes at `linear`, if it can be reached.
    pub(super) fn memory_at(&mut self, linear: u64, size: usize) -> Rm {
        let rm = if self.address_bits == 16 {
            self.address16(linear)
        } else {
            self.address64(linear)
        };
        if self.memory.is_none() {
            self.memory = Some((linear, size));
        }
        Rm::Memory(rm)
    }

    /// 64-bit and 32-bit addressing (Intel SDM vol. 2A tables 2-2 and 2-3).
    fn address64(&mut self, linear: u64) -> Address {
        let shape = self.rng.below(20);
        let long = self.mode == Mode::Long;
        let (base, index) = match shape {
            0..=1 => (None, None),
            2..=10 => (Some(self.address_register(false)), None),
            11..=17 => (
                Some(self.address_register(false)),
                Some(self.address_register(true)),
            ),
            _ => (None, Some(self.address_register(true))),
        };
        let default = if matches!(base, Some(RSP) | Some(RBP)) {
            2
        } else {
            3
        };
        let segment = self.segment(default);
        let scale = self.rng.below(4) as u8;
        let size = match (base, self.rng.below(4)) {
            (None, _) => 4,
            (Some(5) | Some(13), 0) | (_, 1) => 1,
            (_, 2..) => 4,
            _ => 0,
        };
        let mut displacement = match size {
            0 => 0,
            1 => self.rng.draw() as i8 as i32,
            _ if self.rng.chance(1, 2) => self.rng.range(-0x1000, 0x1000) as i32,
            _ => self.rng.draw() as i32,
        };
        let mask = self.address_mask();
        if base.is_none() && index.is_none() {
            return self.absolute(linear, segment, long);
        }
        let offset = linear.wrapping_sub(self.segment_base(segment));
        if let Some(x) = index
            && !self.pinned(x)
            && Some(x) != base
            && base.is_some()
        {
            // A modest index keeps the base an ordinary address; a wild one makes the sum wrap.
            self.regs.gpr[x as usize] = match self.rng.below(4) {
                0 => self.regs.gpr[x as usize],
                _ => self.rng.range(-64, 64) as u64,
            };
            if !long {
                self.regs.gpr[x as usize] &= 0xffff_ffff;
            }
            self.pin(x);
        }
        let scaled = |b: &Self, x: u8| b.regs.gpr[x as usize] << scale;
        match (base, index) {
            (Some(b), _) if !self.pinned(b) && index != Some(b) => {
                let rest = index.map_or(0, |x| scaled(self, x));
                self.set_address(b, offset.wrapping_sub(rest).wrapping_sub(displacement as u64));
            }
            (Some(b), None) => self.settle(segment, linear, self.regs.gpr[b as usize], displacement),
            (Some(b), Some(x)) if b == x && !self.pinned(b) && size == 4 => {
                let times = 1 + (1u64 << scale);
                let sum = offset.wrapping_sub(displacement as u64) & mask;
                displacement = displacement.wrapping_add((sum % times) as i32);
                self.set_address(b, sum / times);
            }
            (Some(b), Some(x)) => {
                let ea = self.regs.gpr[b as usize].wrapping_add(scaled(self, x));
                self.settle(segment, linear, ea, displacement);
            }
            (None, Some(x)) if !self.pinned(x) => {
                let sum = offset.wrapping_sub(displacement as u64);
                displacement = displacement.wrapping_add((sum & ((1 << scale) - 1)) as i32);
                let sum = offset.wrapping_sub(displacement as u64);
                // The bits that scaling shifts out are free.
                let lost = (self.rng.draw() << 1) << (63 - scale as u32) & mask;
                self.set_address(x, (sum & mask) >> scale | lost);
                let x = x as usize;
                let reached = (self.regs.gpr[x] << scale).wrapping_add(displacement as u64);
                if reached & mask != offset & mask {
                    self.regs.gpr[x] = (sum & mask) >> scale;
                }
            }
            (None, Some(x)) => self.settle(segment, linear, scaled(self, x), displacement),
            (None, None) => unreachable!("handled above"),
        }
        encode_sib(base, index, scale, displacement, size, self.rng.chance(1, 8))
    }

    /// Where no register can be chosen: the base of FS or GS, if that is the segment in 64-bit mode.
    fn settle(&mut self, segment: usize, linear: u64, ea: u64, displacement: i32) {
        let ea = ea.wrapping_add(displacement as u64) & self.address_mask();
        let base = linear.wrapping_sub(ea);
        let canonical = |a: u64| (a << 16) as i64 >> 16 == a as i64;
        // AMD's processors sometimes (when an access needs help from microcode) want the sum of registers and
        // displacement to be canonical by itself.
        if self.mode == Mode::Long && canonical(base) && canonical(ea) {
            match segment {
                4 => self.regs.fs_base = base,
                5 => self.regs.gs_base = base,
                _ => {}
            }
        }
    }

    /// A displacement alone: relative to RIP, or absolute.
    fn absolute(&mut self, linear: u64, segment: usize, long: bool) -> Address {
        let offset = linear.wrapping_sub(self.segment_base(segment));
        let relative = long && self.rng.chance(2, 3);
        let near = if relative {
            offset.wrapping_sub(self.start)
        } else {
            offset
        };
        let wrap = self.address_bits == 32;
        let reachable = wrap || near as i64 == (near as i32) as i64;
        let displacement = if reachable {
            near as i32
        } else {
            self.rng.draw() as i32
        };
        if relative {
            self.fixup = Fixup::RipRelative(offset);
            if !reachable {
                self.fixup = Fixup::None;
                self.settle(segment, linear, self.start, displacement);
            }
            return Address {
                rm: 5,
                displacement,
                displacement_size: 4,
                ..Address::default()
            };
        }
        if !reachable {
            self.settle(segment, linear, 0, displacement);
        }
        let address = Address {
            displacement,
            displacement_size: 4,
            ..Address::default()
        };
        if long {
            // SIB without base and index: ModRM.rm = 101 alone means RIP here.
            let scale = self.rng.below(4) as u8;
            Address {
                rm: 4,
                sib: Some(scale << 6 | 0o45),
                ..address
            }
        } else {
            Address { rm: 5, ..address }
        }
    }

    /// 16-bit addressing (Intel SDM vol. 2A table 2-1).
    fn address16(&mut self, linear: u64) -> Address {
        const PAIRS: [(u8, Option<u8>); 8] = [
            (3, Some(6)),
            (3, Some(7)),
            (5, Some(6)),
            (5, Some(7)),
            (6, None),
            (7, None),
            (5, None),
            (3, None),
        ];
        let rm = self.rng.below(8) as u8;
        let (base, index) = PAIRS[rm as usize];
        let direct = rm == 6 && self.rng.chance(1, 2);
        let default = if base == RBP && !direct { 2 } else { 3 };
        let segment = self.segment(default);
        let offset = linear.wrapping_sub(self.segment_base(segment));
        if direct {
            return Address {
                mode: 0,
                rm,
                displacement: offset as i16 as i32,
                displacement_size: 2,
                ..Address::default()
            };
        }
        let size = if rm == 6 {
            1 + self.rng.below(2)
        } else {
            self.rng.below(3)
        } as usize;
        let displacement = match size {
            0 => 0,
            1 => self.rng.draw() as i8 as i32,
            _ => self.rng.draw() as i16 as i32,
        };
        let other = index.map_or(0, |x| self.regs.gpr[x as usize]);
        index.iter().for_each(|&x| self.pin(x));
        if !self.pinned(base) {
            self.set_address(base, offset.wrapping_sub(other).wrapping_sub(displacement as u64));
        }
        Address {
            mode: size as u8,
            rm,
            displacement,
            displacement_size: size,
            ..Address::default()
        }
    }

    /// A vector of addresses: each element of the index register leads to a place of its own
    /// (Intel SDM vol. 2A §2.3.12).
    pub(super) fn vector_addresses(&mut self, index: u8, wide: bool, count: usize, size: usize) -> Rm {
        let shorter = self.mode == Mode::Long && self.op.address_size() == 0 && self.rng.chance(1, 10);
        // 16-bit addresses have no SIB byte.
        if self.mode == Mode::Compat16 || shorter {
            self.prefixes.push(0x67);
            self.address_bits = 32;
        }
        let base = loop {
            let r = self.rng.below(self.mode.registers() as u64) as u8;
            if r != RSP {
                break r;
            }
        };
        let segment = self.segment(if base == RBP { 2 } else { 3 });
        let scale = self.rng.below(4) as u8;
        let displacement = self.rng.range(-128, 127) as i32;
        // Within reach of 32-bit indexes.
        let origin = SCRATCH.wrapping_add(self.rng.range(-0x10_0000, 0x10_0000) as u64);
        self.point(base, segment, origin);
        let from = origin.wrapping_add(displacement as u64);
        // One bad address in a few cases only: a gather that faults compares little.
        let faulty = self.rng.chance(1, 8);
        for i in 0..count {
            let linear = if faulty {
                self.place(size)
            } else {
                SCRATCH + self.rng.below(SCRATCH_SIZE - 16)
            };
            let value = (linear.wrapping_sub(from) as i64 >> scale) as u64;
            let y = &mut self.regs.ymm[index as usize];
            if wide {
                y[i] = value;
            } else {
                let shift = (i % 2) * 32;
                y[i / 2] = y[i / 2] & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
            }
        }
        Rm::Memory(Address {
            mode: 1,
            rm: 4,
            sib: Some(scale << 6 | (index & 7) << 3 | base & 7),
            x: index >= 8,
            b: base >= 8,
            displacement,
            displacement_size: 1,
        })
    }
}

/// ModRM and SIB for a base and an index. `spare` asks for a SIB byte where none is needed.
pub fn encode_sib(
    base: Option<u8>,
    index: Option<u8>,
    scale: u8,
    displacement: i32,
    size: usize,
    spare: bool,
) -> Address {
    let mut a = Address {
        displacement,
        displacement_size: size,
        x: index.is_some_and(|x| x >= 8),
        b: base.is_some_and(|b| b >= 8),
        ..Address::default()
    };
    let Some(b) = base else {
        // No base: mod 0, SIB.base 101, a 32-bit displacement.
        a.rm = 4;
        a.sib = Some(scale << 6 | (index.unwrap_or(4) & 7) << 3 | 5);
        return a;
    };
    if size == 0 && b & 7 == 5 {
        // mod 0 with this base means no base.
        a.displacement_size = 1;
    }
    a.mode = match a.displacement_size {
        0 => 0,
        1 => 1,
        _ => 2,
    };
    if index.is_none() && b & 7 != 4 && !spare {
        a.rm = b & 7;
    } else {
        a.rm = 4;
        a.sib = Some(scale << 6 | (index.unwrap_or(4) & 7) << 3 | b & 7);
    }
    a
}
