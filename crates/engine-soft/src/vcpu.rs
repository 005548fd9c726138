//! The execution loop: attention, blocks, exceptions.

use crate::cpu::{Cpu, Fault, R, Stop};
use crate::decode::{Blocks, Op};
use crate::translate::{After, Translator};
use donjon_engine::{Attention, EngineError, Exit, Statistics, Vcpu};
use donjon_memory::Ram;
use donjon_x86::bits::rflags;
use donjon_x86::{Activity, CpuState, Seg, exception};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One interpreted vCPU.
pub(crate) struct SoftVcpu {
    pub(crate) cpu: Cpu,
    pub(crate) blocks: Blocks,
    pub(crate) translator: Option<Translator>,
    /// Instructions that translated code has counted.
    translated: u64,
    pub(crate) ram: Arc<Ram>,
}

impl SoftVcpu {
    pub fn new(cpu: Cpu, translator: Option<Translator>) -> Self {
        let ram = cpu.board.ram.clone();
        Self {
            cpu,
            blocks: Blocks::new(),
            translator,
            translated: 0,
            ram,
        }
    }

    /// Acts on what others asked for between two instructions, or (`again`) two iterations of one. `Some`
    /// ends the run.
    #[cold]
    pub(crate) fn attend(&mut self, bits: u32, again: bool) -> Option<Exit> {
        let cpu = &mut self.cpu;
        let attention = cpu.board.attention.clone();
        if bits & Attention::KICK != 0 {
            attention.take(Attention::KICK);
            return Some(Exit::Kicked);
        }
        if bits & Attention::INIT != 0 {
            attention.take(Attention::INIT);
            cpu.init();
            return None;
        }
        if bits & Attention::SIPI != 0
            && let Some(vector) = attention.take_sipi()
        {
            // A start-up message to a processor that does not wait for one is dropped.
            if cpu.activity == Activity::WaitForSipi {
                cpu.start_up(vector);
            }
            return None;
        }
        if matches!(cpu.activity, Activity::WaitForSipi | Activity::Shutdown) {
            return None;
        }
        if bits & Attention::NMI != 0 && !cpu.nmi_blocked {
            attention.take(Attention::NMI);
            cpu.activity = Activity::Active;
            cpu.rflags |= if again { rflags::RF } else { 0 };
            let nmi = Fault {
                vector: exception::NMI,
                ..Fault::default()
            };
            let delivered = cpu.deliver(nmi);
            cpu.nmi_blocked = true;
            return self.handled(delivered);
        }
        if bits & Attention::INTERRUPT != 0 && cpu.rflags & rflags::IF != 0 {
            attention.take(Attention::INTERRUPT);
            if let Some(vector) = cpu.board.apic.acknowledge() {
                cpu.activity = Activity::Active;
                cpu.rflags |= if again { rflags::RF } else { 0 };
                let delivered = cpu.deliver_external(vector);
                return self.handled(delivered);
            }
        }
        None
    }

    pub(crate) fn handled(&mut self, r: R) -> Option<Exit> {
        match r {
            Err(Stop::Shutdown) => {
                self.cpu.activity = Activity::Shutdown;
                Some(Exit::Shutdown)
            }
            _ => None,
        }
    }

    /// The attention bits that concern the processor in its present state.
    pub(crate) fn interesting(cpu: &Cpu) -> u32 {
        match cpu.activity {
            Activity::WaitForSipi => Attention::KICK | Attention::INIT | Attention::SIPI,
            Activity::Shutdown => Attention::KICK | Attention::INIT,
            Activity::Active | Activity::Halted => {
                let mut bits = Attention::KICK | Attention::INIT | Attention::SIPI;
                if !cpu.nmi_blocked {
                    bits |= Attention::NMI;
                }
                if cpu.rflags & rflags::IF != 0 {
                    bits |= Attention::INTERRUPT;
                }
                bits
            }
        }
    }

    /// Runs one block, or a single instruction of it. Interrupts were looked at just before.
    #[inline(always)]
    pub(crate) fn block(&mut self, single: bool) -> R {
        let cpu = &mut self.cpu;
        let run = self.blocks.at(cpu, &self.ram)?;
        if !cpu.is64() {
            // The last byte of every instruction must be inside the code segment.
            let limit = cpu.seg[Seg::Cs as usize].limit as u64;
            if cpu.rip() + run.len as u64 - 1 > limit {
                let (first, rip) = (run.ops[0], cpu.rip());
                if rip + first.len as u64 - 1 > limit {
                    return Err(cpu.gp(0));
                }
                return Self::execute(cpu, &[first], || true);
            }
        }
        if single {
            return Self::execute(cpu, &run.ops[..1], || true);
        }
        match run.at {
            Some(at) => {
                let generation = self.ram.code().cell(at);
                Self::execute(cpu, run.ops, || {
                    generation.load(Ordering::Relaxed) == run.generation
                })
            }
            None => Self::execute(cpu, run.ops, || true),
        }
    }

    /// Runs translated code if there is any or it is time to make it, else interprets a block.
    #[inline(always)]
    fn proceed(&mut self) -> R {
        let Some(translator) = &mut self.translator else {
            return self.block(false);
        };
        let cpu = &mut self.cpu;
        let run = self.blocks.at(cpu, &self.ram)?;
        let (Some(heat), Some(at)) = (run.heat, run.start) else {
            return self.block(false);
        };
        if *heat < translator.threshold {
            *heat += 1;
            let generation = self.ram.code().cell(at);
            if cpu.is64() && run.at.is_some() {
                return Self::execute(cpu, run.ops, || {
                    generation.load(Ordering::Relaxed) == run.generation
                });
            }
            return self.block(false);
        }
        let Some(mode) = Translator::mode(cpu) else {
            return self.block(false);
        };
        let interest = Self::interesting(cpu);
        let resets = translator.resets();
        let translated = &mut self.translated;
        let mut run = |translator: &mut Translator, cpu: &mut Cpu| {
            if !cpu.direct.counts {
                return translator.run(cpu, at, mode, interest);
            }
            let (after, retired) = translator.run_accounted(cpu, at, mode, interest)?;
            *translated += retired;
            Some(after)
        };
        let after = match run(translator, cpu) {
            Some(after) => after,
            None => {
                let blocks = &self.blocks;
                let threshold = translator.threshold;
                if !translator.translate(cpu, at, mode, |at| blocks.heat(at) >= threshold / 2) {
                    return self.block(false);
                }
                match run(translator, cpu) {
                    Some(after) => after,
                    None => return self.block(false),
                }
            }
        };
        if translator.resets() != resets {
            // What ran often before the arena was full need not do so now.
            self.blocks.cool();
        }
        match after {
            After::One => self.block(true),
            After::Cold | After::Attend | After::Go => Ok(()),
            After::Done(result) => result,
        }
    }

    /// Runs instructions one after the other for as long as they are `current`.
    #[inline(always)]
    pub(crate) fn execute(cpu: &mut Cpu, ops: &[Op], current: impl Fn() -> bool) -> R {
        let Some((last, body)) = ops.split_last() else {
            return Ok(());
        };
        // Only the last instruction of a block can branch. Until then the instruction pointer is counted
        // here and only written for the handlers: reading it back each time would cost more than they do.
        let mut rip = cpu.rip();
        for (n, op) in body.iter().enumerate() {
            let next = rip.wrapping_add(op.len as u64);
            cpu.next_rip = next;
            if let Err(stop) = (op.run)(cpu, op) {
                return Self::stopped(cpu, n as u64, stop);
            }
            rip = next;
            cpu.set_rip(rip);
            if !current() {
                cpu.instructions += n as u64 + 1;
                return Ok(());
            }
        }
        cpu.next_rip = rip.wrapping_add(last.len as u64);
        if let Err(stop) = (last.run)(cpu, last) {
            return Self::stopped(cpu, body.len() as u64, stop);
        }
        cpu.set_rip(cpu.next_rip);
        cpu.instructions += ops.len() as u64;
        Ok(())
    }

    /// Accounts for a block that `done` instructions into it did not go on.
    fn stopped(cpu: &mut Cpu, done: u64, stop: Stop) -> R {
        cpu.instructions += done;
        if !matches!(stop, Stop::Fault | Stop::Again) {
            cpu.set_rip(cpu.next_rip);
            cpu.instructions += 1;
        }
        Err(stop)
    }

    /// One instruction with everything that debugging adds: instruction breakpoints before, single-step
    /// and data-breakpoint traps after (Intel SDM vol. 3B §18.3).
    #[cold]
    pub(crate) fn watched(&mut self, single: bool) -> R {
        let cpu = &mut self.cpu;
        let after_stack_load = single && cpu.skip_step;
        let stepping = cpu.rflags & rflags::TF != 0;
        let resumed = cpu.rflags & rflags::RF != 0;
        if !resumed && !after_stack_load {
            let hits = cpu.instruction_breakpoints();
            if hits != 0 {
                cpu.dr6 = cpu.dr6 & !15 | hits;
                cpu.fault = Fault {
                    vector: exception::DB,
                    ..Fault::default()
                };
                return Err(Stop::Fault);
            }
        }
        cpu.rflags &= !rflags::RF;
        cpu.skip_step = false;
        let result = self.block(true);
        let cpu = &mut self.cpu;
        if matches!(result, Err(Stop::Fault | Stop::Shutdown)) {
            cpu.debug_hits = 0;
            return result;
        }
        if result == Err(Stop::Again) {
            // Not the last iteration of a repeated instruction: what interrupts it saves RF set, and its
            // breakpoint does not hit again (Intel SDM vol. 3B §18.3.1.1).
            cpu.rflags |= rflags::RF;
        }
        if cpu.shadow && cpu.skip_step {
            // What a load of SS met waits for the next instruction (Intel SDM vol. 3A §6.8.3).
            return result;
        }
        let mut hits = std::mem::take(&mut cpu.debug_hits);
        if stepping && !cpu.skip_step {
            hits |= 1 << 14;
        }
        if hits != 0 {
            cpu.dr6 = cpu.dr6 & !15 | hits;
            cpu.fault = Fault {
                vector: exception::DB,
                trap: true,
                ..Fault::default()
            };
            cpu.shadow = false;
            return Err(Stop::Fault);
        }
        result
    }

    /// Delivers the event that the state came with.
    pub(crate) fn deliver_pending(&mut self) -> Option<Exit> {
        // After a shutdown it only tells what led there.
        if self.cpu.activity == Activity::Shutdown {
            return None;
        }
        let event = self.cpu.pending.take()?;
        // The manual numbers exceptions below 32; the rest came from outside.
        let external = event.vector >= 32;
        let fault = Fault {
            vector: event.vector,
            code: event.error_code,
            external,
            trap: external,
            ..Fault::default()
        };
        let delivered = self.cpu.deliver(fault);
        self.handled(delivered)
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self) -> Exit {
        if let Some(exit) = self.deliver_pending() {
            return exit;
        }
        let mut again = false;
        loop {
            // An instruction in the shadow of STI or MOV SS runs before anything is taken.
            let mut single = false;
            if self.cpu.shadow && self.cpu.board.attention.bits() & Attention::KICK == 0 {
                self.cpu.shadow = false;
                single = true;
            } else {
                let raised = self.cpu.board.attention.bits();
                let bits = if raised != 0 {
                    raised & Self::interesting(&self.cpu)
                } else {
                    0
                };
                if bits != 0 {
                    if let Some(exit) = self.attend(bits, again) {
                        return exit;
                    }
                    continue;
                }
            }
            match self.cpu.activity {
                Activity::Active => {}
                Activity::Shutdown => return Exit::Shutdown,
                _ => {
                    return Exit::Halt {
                        wake: Self::interesting(&self.cpu),
                    };
                }
            }
            again = false;
            let result = if self.cpu.debugging() {
                self.watched(single)
            } else if single {
                self.block(true)
            } else {
                self.proceed()
            };
            match result {
                Ok(()) | Err(Stop::EndBlock) => {}
                // An interrupt between two iterations saves RF set.
                Err(Stop::Again) => again = true,
                Err(Stop::Halt) => self.cpu.activity = Activity::Halted,
                Err(Stop::Shutdown) => {
                    self.cpu.activity = Activity::Shutdown;
                    return Exit::Shutdown;
                }
                Err(Stop::Fault) => {
                    let fault = self.cpu.fault;
                    let delivered = self.cpu.deliver(fault);
                    if let Some(exit) = self.handled(delivered) {
                        return exit;
                    }
                }
            }
        }
    }

    fn save(&self) -> Result<CpuState, EngineError> {
        Ok(self.cpu.save())
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.cpu.load(state)
    }

    fn instructions(&self) -> u64 {
        self.cpu.instructions
    }

    fn statistics(&self) -> Statistics {
        let translator = self.translator.as_ref();
        Statistics {
            interpreted: self.cpu.instructions - self.translated,
            translated: (translator.is_none() || self.cpu.direct.counts).then_some(self.translated),
            hardware: None,
            page_walks: self.cpu.walks,
            translator: translator.map_or_else(Default::default, |t| t.statistics(&self.cpu)),
        }
    }
}
