//! Memory operands of programs.

use super::emit::{DATA_END, Emitter, RSP};
use crate::case::Mode;
use crate::encode::{Address, Rm};
use crate::generate::encode_sib;
use crate::layout::*;
use iced_x86::Code;

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// As ModRM says it.
    pub rm: Rm,
    /// Where it leads, if relative to the next instruction.
    pub relative: Option<u64>,
    /// A segment override or an address-size prefix.
    pub prefix: Option<u8>,
}

impl Emitter<'_> {
    /// An address for `size` bytes: near others, so that accesses meet.
    fn place(&mut self, size: u64) -> u64 {
        let r = &mut self.rng;
        if r.below(1000) < self.edge {
            return match r.below(8) {
                0..=2 => SCRATCH + PAGE - 1 - r.below(size),
                3..=4 => READ_ONLY + r.below(PAGE - 64),
                5 => SCRATCH_END - 1 - r.below(size),
                6 => SCRATCH_END + r.below(64),
                _ => READ_ONLY - 1 - r.below(size),
            };
        }
        let near = r.pick(&self.focus) as i64 + r.range(-24, 40);
        let align = match r.below(8) {
            0 if size < 16 => 1,
            0 if r.chance(1, 8) => 1,
            _ => size.next_power_of_two().min(32),
        };
        let at = near as u64 / align * align;
        at.clamp(SCRATCH, SCRATCH + DATA_END - size)
    }

    fn displacement_size(&mut self, d: i64) -> usize {
        match d {
            0 if self.rng.chance(3, 4) => 0,
            -128..=127 if self.rng.chance(7, 8) => 1,
            _ => 4,
        }
    }

    /// Whether a displacement says it.
    fn fits(&self, d: u64) -> bool {
        self.mode != Mode::Long || d as i64 == d as i32 as i64
    }

    /// An operand of `size` bytes.
    pub fn reach(&mut self, size: u64) -> Reach {
        let plain = |a: Address| Reach {
            rm: Rm::Memory(a),
            relative: None,
            prefix: None,
        };
        let to = self.place(size);
        let shape = self.rng.below(100);
        if shape < 12 {
            let d = self.on_stack(size);
            let n = self.displacement_size(d);
            return plain(encode_sib(Some(RSP), None, 0, d as i32, n, false));
        }
        if (12..20).contains(&shape) && self.mode == Mode::Long {
            return Reach {
                relative: Some(to),
                ..plain(Address {
                    rm: 5,
                    displacement_size: 4,
                    ..Address::default()
                })
            };
        }
        if (20..23).contains(&shape) {
            return plain(encode_sib(None, None, 0, to as i32, 4, false));
        }
        if shape == 23 && self.rng.below(100) < self.edge {
            // Wherever it leads.
            let base = self.register();
            return plain(encode_sib(
                Some(base),
                None,
                0,
                self.rng.range(-128, 127) as i32,
                1,
                false,
            ));
        }
        // A segment whose base is not zero moves the rest.
        let (prefix, moved) = match shape {
            24..=25 if self.mode == Mode::Long => (Some(0x64), self.before.fs_base),
            26..=27 if self.mode == Mode::Long => (Some(0x65), self.before.gs_base),
            28 if self.mode == Mode::Long => (Some(0x67), 0),
            _ => (None, 0),
        };
        let offset = to.wrapping_sub(moved);
        let base = self.base(offset);
        let from = self.known.get(base).unwrap_or(offset);
        let rest = offset.wrapping_sub(from);
        let mut index = None;
        let mut rest_of = rest;
        let scale = self.rng.below(4) as u8;
        if (30..55).contains(&shape) {
            let x = self.register();
            match self.known.get(x) {
                _ if x == RSP => {}
                Some(v) if self.fits(rest.wrapping_sub(v << scale)) => {
                    index = Some(x);
                    rest_of = rest.wrapping_sub(v << scale);
                }
                None if self.may_write(1 << x) && shape < 38 => {
                    // A small number first.
                    let mask = self.rng.pick(&[7u8, 15, 31]);
                    self.emit(Code::And_rm32_imm8, |c| {
                        c.rm = Rm::Register(x);
                        c.immediate.push(mask);
                    });
                    index = Some(x);
                }
                _ => {}
            }
        }
        let d = if self.mode == Mode::Long {
            rest_of as i64
        } else {
            rest_of as i32 as i64
        };
        let n = self.displacement_size(d);
        let spare = self.rng.chance(1, 16);
        Reach {
            prefix,
            ..plain(encode_sib(Some(base), index, scale, d as i32, n, spare))
        }
    }

    /// A displacement from the stack pointer.
    fn on_stack(&mut self, size: u64) -> i64 {
        let align = if self.rng.chance(7, 8) {
            size.next_power_of_two().min(8) as i64
        } else {
            1
        };
        match self.frame {
            None => self.rng.range(-64, 96) / align * align,
            // Below the stack pointer nothing is lost.
            Some(n) if n < size => -(((self.rng.below(96) + size).next_multiple_of(align as u64)) as i64),
            Some(n) => self.rng.below(n - size + 1) as i64 / align * align,
        }
    }

    /// A register from which `offset` is in reach, with a constant loaded into it if there is none.
    fn base(&mut self, offset: u64) -> u8 {
        let able: Vec<u8> = (0..self.mode.registers())
            .filter(|&r| r != RSP)
            .filter(|&r| {
                self.known
                    .get(r)
                    .is_some_and(|v| self.fits(offset.wrapping_sub(v)))
            })
            .collect();
        let near: Vec<u8> = able
            .iter()
            .copied()
            .filter(|&r| {
                let d = offset.wrapping_sub(self.known.get(r).unwrap_or(0)) as i64;
                (-0x800..0x800).contains(&d)
            })
            .collect();
        if !near.is_empty() && self.rng.chance(9, 10) {
            return self.rng.pick(&near);
        }
        if !able.is_empty() && self.rng.chance(3, 4) {
            return self.rng.pick(&able);
        }
        let r = self.free();
        let v = offset.wrapping_add(self.rng.range(-64, 64) as u64);
        self.load(r, v);
        r
    }
}
