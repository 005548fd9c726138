//! Instructions that translated code calls the interpreter for.

use super::After;
use super::frame::{Frame, Mode, live, target_slot};
use super::{STOPPED, Translator};
use crate::cpu::{Cpu, Flags, Stop};
use crate::decode::Op;
use crate::vcpu::SoftVcpu;
use donjon_engine::Attention;
use donjon_x86::bits::{cr0, cr4, rflags};
use donjon_x86::{Activity, Seg};

/// One of them.
#[derive(Clone, Copy)]
pub struct Step {
    pub op: Op,
    /// Offset in its page.
    pub offset: i32,
    pub mode: Mode,
    /// Instructions of its unit before it.
    pub before: u8,
}

impl Cpu {
    /// Runs step number [`Frame::exit`] and returns the host address to go on at: `continuation` if it is
    /// the next instruction's turn. Zero ends the run, with [`super::Direct::result`] to tell why.
    pub fn step_directly(&mut self, frame: &mut Frame, continuation: u64) -> u64 {
        let step = self.direct.steps[frame.exit as usize];
        self.direct.stepped += 1;
        let page = frame.page;
        let rip = page.wrapping_add(step.offset as u64);
        self.take_back(frame, rip);
        let next = rip.wrapping_add(step.op.len as u64);
        self.next_rip = next;
        let result = (step.op.run)(self, &step.op);
        frame.exit = STOPPED;
        self.direct.done = step.before;
        if !matches!(result, Err(Stop::Fault | Stop::Again)) {
            let next = self.next_rip;
            self.set_rip(next);
            self.instructions += 1;
            self.direct.done += 1;
            self.direct.steps_done += 1;
        }
        if !matches!(result, Ok(()) | Err(Stop::EndBlock)) {
            self.direct.result = After::Done(result);
            return 0;
        }
        self.direct.result = After::Attend;
        let changed = self.direct.stale.any()
            || self.shadow
            || self.debugging()
            || self.activity != Activity::Active
            || self.board.ram.code().changes() != self.direct.changes;
        let Some(mode) = Translator::mode(self) else {
            return 0;
        };
        let interest = SoftVcpu::interesting(self);
        if changed || self.board.attention.bits() & interest != 0 {
            return 0;
        }
        self.give(frame, interest);
        if self.rip() == next && mode == step.mode {
            // At the end of a page the next instruction still counts from its start.
            frame.page = page;
            return continuation;
        }
        let target = &frame.targets[mode as usize][target_slot(self.rip())];
        if target.linear != self.rip() {
            self.direct.result = After::Go;
            return 0;
        }
        frame.target = target.linear;
        if self.direct.counts {
            frame.instructions = self.direct.done as u64;
        }
        target.code
    }

    /// Gives the state to translated code, which runs at the instruction pointer.
    pub fn give(&self, frame: &mut Frame, interest: u32) {
        let bits = self.flags.bits();
        // As LAHF and SETO would give it.
        frame.flags = ((bits & 0xff) as u32) << 8 | 0x200 | (bits >> 11 & 1) as u32;
        frame.page = self.rip() & !0xfff;
        frame.attention = self.board.attention.address() as u64;
        frame.interest = interest | Attention::CODE;
        frame.rflags = self.rflags;
        frame.fs_base = self.seg_base[Seg::Fs as usize];
        frame.gs_base = self.seg_base[Seg::Gs as usize];
        frame.kernel_gs_base = self.msrs.kernel_gs_base;
        let sse = self.cr0 & (cr0::EM | cr0::TS) == 0
            && self.cr4 & cr4::OSFXSR != 0
            && self.mxcsr & 0x1f80 == 0x1f80;
        let avx = sse && self.cr4 & cr4::OSXSAVE != 0 && self.xcr0 & 6 == 6;
        frame.allowed = if sse { live::SSE as u32 } else { 0 } | if avx { live::AVX as u32 } else { 0 };
        frame.mxcsr = self.mxcsr;
        frame.host_mxcsr = 0x1f80;
    }

    /// Takes the state back from translated code, about to execute at `rip`.
    pub fn take_back(&mut self, frame: &mut Frame, rip: u64) {
        self.set_rip(rip);
        let low = (frame.flags >> 8 & 0xff) as u64;
        self.flags = Flags::from_bits(low & rflags::STATUS | (frame.flags as u64 & 1) << 11);
        if frame.rflags != self.rflags {
            self.rflags = frame.rflags;
            self.access_mode_changed();
        }
        if frame.gs_base != self.seg_base[Seg::Gs as usize] {
            self.seg_base[Seg::Gs as usize] = frame.gs_base;
            self.seg[Seg::Gs as usize].base = frame.gs_base;
        }
        self.msrs.kernel_gs_base = frame.kernel_gs_base;
        self.mxcsr = frame.mxcsr;
        if frame.x87_saved != 0 {
            self.take_x87(frame);
        }
        self.instructions += std::mem::take(&mut frame.instructions);
        self.direct.lookups += std::mem::take(&mut frame.lookups);
    }
}
