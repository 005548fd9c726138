//! Counted loops.

use super::Writer;
use crate::case::Mode;
use crate::encode::Rm;
use crate::layout::*;
use crate::program::Branch;
use crate::program::emit::*;
use iced_x86::Code;

/// Condition codes.
const BELOW: u8 = 2;
const NOT_EQUAL: u8 = 5;
const GREATER: u8 = 15;

impl Writer<'_> {
    /// CMP of a register's low half with a constant.
    pub(super) fn compare(&mut self, r: u8, with: u32) {
        self.e.emit(Code::Cmp_rm32_imm32, |c| {
            c.rm = Rm::Register(r);
            c.immediate.extend(&with.to_le_bytes());
        });
    }

    /// How often a loop may go round.
    fn rounds(&mut self) -> u64 {
        const BODY: u64 = 25;
        let most = (self.budget / (self.times * BODY)).clamp(1, 4000);
        let bits = 64 - most.leading_zeros() as u64;
        let n = self.e.rng.draw() >> (64 - 1 - self.e.rng.below(bits));
        n.clamp(1, most)
    }

    /// A loop.
    pub(super) fn counted(&mut self) {
        if self.times > self.budget / 50 {
            return self.e.something();
        }
        let Some(counter) = self.counters.pop() else {
            return self.with_rcx();
        };
        let n = self.rounds();
        let up = self.e.rng.chance(1, 3);
        self.e.load(counter, if up { 0 } else { n });
        self.e.known.set(counter, None);
        let head = self.e.label();
        self.e.here(head);
        let around = (self.times, self.counter.replace(counter));
        self.times *= n;
        let length = 1 + self.e.rng.below(3);
        self.sequence(length);
        if up && self.e.rng.chance(1, 4) {
            self.statement(|w| w.walk(counter));
        }
        (self.times, self.counter) = around;
        let condition = self.count(counter, up, n);
        self.e.branch(Branch::If(condition), head);
        self.counters.push(counter);
    }

    /// Changes the counter; the condition under which the loop goes on.
    fn count(&mut self, counter: u8, up: bool, n: u64) -> u8 {
        let rm = Rm::Register(counter);
        let wide = self.e.mode == Mode::Long && self.e.rng.chance(1, 2);
        if up {
            let code = if wide { Code::Inc_rm64 } else { Code::Inc_rm32 };
            self.e.emit(code, |c| c.rm = rm);
            self.compare(counter, n as u32);
            return BELOW;
        }
        let way = self.e.rng.below(3);
        if way == 0 {
            let code = if wide { Code::Dec_rm64 } else { Code::Dec_rm32 };
            self.e.emit(code, |c| c.rm = rm);
        } else {
            let code = if wide {
                Code::Sub_rm64_imm8
            } else {
                Code::Sub_rm32_imm8
            };
            self.e.emit(code, |c| {
                c.rm = rm;
                c.immediate.push(1);
            });
        }
        if way == 2 { GREATER } else { NOT_EQUAL }
    }

    /// LOOP, where RCX is free.
    fn with_rcx(&mut self) {
        if !self.e.may_write(1 << RCX) {
            return self.e.something();
        }
        let n = self.rounds().min(300);
        self.e.load(RCX, n);
        self.e.known.set(RCX, None);
        let (fixed, times) = (self.e.fixed, self.times);
        self.e.fixed |= 1 << RCX;
        self.times *= n;
        let head = self.e.label();
        self.e.here(head);
        for _ in 0..=self.e.rng.below(4) {
            self.e.something();
        }
        (self.e.fixed, self.times) = (fixed, times);
        // LOOP twice as often as LOOPE and LOOPNE.
        let kind = self.e.rng.pick(&[2, 2, 1, 0]);
        self.e.branch(Branch::Count(kind), head);
    }

    /// An access that moves with the counter, over a page's end and perhaps beyond what is mapped.
    fn walk(&mut self, counter: u8) {
        let store = self.e.rng.chance(1, 3);
        // A store must not meet the tables and the stack on its way.
        let from = match store {
            true => SCRATCH + STACK + 0x40 + self.e.rng.below(0x100),
            false => SCRATCH + self.e.rng.below(SCRATCH_SIZE),
        };
        let scale = self.e.rng.below(4) as u8;
        let r = self.e.free();
        let code = if store {
            Code::Mov_rm32_r32
        } else {
            Code::Mov_r32_rm32
        };
        let rm = Rm::Memory(crate::generate::encode_sib(
            None,
            Some(counter),
            scale,
            from as i32,
            4,
            false,
        ));
        self.e.emit(code, |c| {
            c.rm = rm;
            c.reg = r;
        });
    }
}
