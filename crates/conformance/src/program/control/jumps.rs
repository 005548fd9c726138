//! Calls, jumps through tables, and code that is changed.

use super::Writer;
use crate::case::Mode;
use crate::encode::{Bytes, Rm};
use crate::layout::*;
use crate::program::emit::*;
use crate::program::{Branch, Item, Label};
use iced_x86::Code;

/// Bytes of all tables.
const ROOM: u64 = 0x100;

impl Writer<'_> {
    fn long(&self) -> bool {
        self.e.mode == Mode::Long
    }

    /// MOV of a label's address into memory.
    fn store_address(&self, at: u64, label: Label) -> Item {
        let mut b = Bytes::default();
        if self.long() {
            b.push(0x48);
        }
        b.extend(&[0xc7, 0x04, 0x25]);
        b.extend(&(at as u32).to_le_bytes());
        let offset = b.len();
        b.extend(&[0; 4]);
        Item::Address {
            bytes: b,
            at: offset,
            label,
            plus: 0,
        }
    }

    /// MOV of a label's address into a register.
    pub(super) fn load_address(&mut self, r: u8, label: Label) {
        let mut b = Bytes::default();
        if r >= 8 {
            b.push(0x41);
        }
        b.push(0xb8 | r & 7);
        let at = b.len();
        b.extend(&[0; 4]);
        self.e.push(Item::Address {
            bytes: b,
            at,
            label,
            plus: 0,
        });
        self.e.known.set(r, None);
    }

    /// One of several ways, by two bits of a register.
    pub(super) fn switch(&mut self) {
        let size = if self.long() { 8u64 } else { 4 };
        let ways = 1 << self.e.rng.below(3);
        if self.tables + ways * size > ROOM {
            return;
        }
        let table = SCRATCH + TABLES + self.tables;
        self.tables += ways * size;
        let labels: Vec<Label> = (0..ways).map(|_| self.e.label()).collect();
        let end = self.e.label();
        for (n, &label) in (0u64..).zip(&labels) {
            let item = self.store_address(table + n * size, label);
            // Mostly once, rarely each time.
            if self.e.rng.chance(7, 8) {
                self.prologue.push(item);
            } else {
                self.e.push(item);
            }
        }
        let r = self.e.free();
        if self.e.rng.chance(1, 2)
            && let Some(counter) = self.counter
        {
            self.e.emit(Code::Mov_r32_rm32, |c| {
                c.reg = r;
                c.rm = Rm::Register(counter);
            });
        }
        self.e.emit(Code::And_rm32_imm8, |c| {
            c.rm = Rm::Register(r);
            c.immediate.push(ways as u8 - 1);
        });
        let scale = if self.long() { 3 } else { 2 };
        let way = Rm::Memory(crate::generate::encode_sib(
            None,
            Some(r),
            scale,
            table as i32,
            4,
            false,
        ));
        if self.e.rng.chance(1, 2) {
            let code = if self.long() {
                Code::Jmp_rm64
            } else {
                Code::Jmp_rm32
            };
            self.e.emit(code, |c| c.rm = way);
        } else {
            let code = if self.long() {
                Code::Mov_r64_rm64
            } else {
                Code::Mov_r32_rm32
            };
            self.e.emit(code, |c| {
                c.rm = way;
                c.reg = r;
            });
            let code = if self.long() {
                Code::Jmp_rm64
            } else {
                Code::Jmp_rm32
            };
            self.e.emit(code, |c| c.rm = Rm::Register(r));
        }
        for label in labels {
            self.e.here(label);
            self.sequence(1);
            if self.e.rng.chance(7, 8) {
                self.e.branch(Branch::Always, end);
            }
        }
        self.e.here(end);
    }

    /// A call of one of the functions to come.
    pub(super) fn call(&mut self) {
        if self.functions.is_empty() {
            return self.e.something();
        }
        let label = self.e.rng.pick(&self.functions.clone());
        match self.e.rng.below(3) {
            0 => {
                let r = self.e.free();
                self.load_address(r, label);
                let code = if self.long() {
                    Code::Call_rm64
                } else {
                    Code::Call_rm32
                };
                self.e.emit(code, |c| c.rm = Rm::Register(r));
            }
            _ => self.e.branch(Branch::Call, label),
        }
        self.e.known.forget(self.e.fixed);
    }

    /// A constant in the code, and stores that change one.
    pub(super) fn constant(&mut self) {
        if self.constants.is_empty() || self.e.rng.chance(1, 2) {
            let label = self.e.label();
            let r = self.e.free();
            self.e.items.push(Item::Label(label));
            let v = self.e.rng.draw() as u32 as u64;
            self.e.load(r, v);
            self.e.known.set(r, None);
            self.constants.push((label, 1 + (r >= 8) as u32));
        }
        if self.e.rng.chance(1, 3) {
            return;
        }
        let (label, offset) = self.e.rng.pick(&self.constants.clone());
        let from = match self.counter {
            Some(c) if self.e.rng.chance(1, 2) => c,
            _ => self.e.register(),
        };
        // MOV [constant], register, whole or a byte of it.
        let byte = self.e.rng.chance(1, 3);
        let mut b = Bytes::default();
        if from >= 8 {
            b.push(0x44);
        }
        b.extend(&[if byte { 0x88 } else { 0x89 }, (from & 7) << 3 | 4, 0x25]);
        let at = b.len();
        b.extend(&[0; 4]);
        let mut plus = offset + if byte { self.e.rng.below(4) as u32 } else { 0 };
        if self.e.kernel && self.e.rng.chance(1, 2) {
            // The same memory at its other address.
            plus += (crate::system::map::ALIAS - CODE) as u32;
        }
        self.e.push(Item::Address {
            bytes: b,
            at,
            label,
            plus,
        });
    }
}
