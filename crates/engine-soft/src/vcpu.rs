//! The execution loop: attention, blocks, exceptions.

use crate::cpu::{Cpu, Fault, R, Stop};
use crate::decode::Blocks;
use donjon_engine::{Attention, EngineError, Exit, Vcpu};
use donjon_x86::bits::rflags;
use donjon_x86::{Activity, CpuState, Seg, exception};

/// One interpreted vCPU.
pub(crate) struct SoftVcpu {
    cpu: Cpu,
    blocks: Blocks,
}

impl SoftVcpu {
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu, blocks: Blocks::new() }
    }

    /// Acts on what others asked for between two instructions. `Some` ends the run.
    #[cold]
    fn attend(&mut self, bits: u32) -> Option<Exit> {
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
            let nmi = Fault { vector: exception::NMI, ..Fault::default() };
            let delivered = cpu.deliver(nmi);
            cpu.nmi_blocked = true;
            return self.handled(delivered);
        }
        if bits & Attention::INTERRUPT != 0 && cpu.rflags & rflags::IF != 0 {
            attention.take(Attention::INTERRUPT);
            if let Some(vector) = cpu.board.apic.acknowledge() {
                cpu.activity = Activity::Active;
                let delivered = cpu.deliver_external(vector);
                return self.handled(delivered);
            }
        }
        None
    }

    fn handled(&mut self, r: R) -> Option<Exit> {
        match r {
            Err(Stop::Shutdown) => {
                self.cpu.activity = Activity::Shutdown;
                Some(Exit::Shutdown)
            }
            _ => None,
        }
    }

    /// The attention bits that concern the processor in its present state.
    fn interesting(&self) -> u32 {
        let cpu = &self.cpu;
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
    fn block(&mut self, single: bool) -> R {
        let cpu = &mut self.cpu;
        let block = match self.blocks.at(cpu) {
            Ok(b) => b,
            Err(stop) => return Err(stop),
        };
        let limit = if cpu.is64() { u64::MAX } else { cpu.seg[Seg::Cs as usize].limit as u64 };
        for op in &block.ops {
            let rip = cpu.rip();
            let next = rip.wrapping_add(op.len as u64);
            if next.wrapping_sub(1) > limit {
                return Err(cpu.gp(0));
            }
            cpu.next_rip = next;
            let result = (op.run)(cpu, op);
            match result {
                Ok(()) => {}
                Err(Stop::Fault) => return Err(Stop::Fault),
                Err(Stop::Again) => return Err(Stop::Again),
                Err(stop) => {
                    cpu.set_rip(cpu.next_rip);
                    cpu.instructions += 1;
                    return Err(stop);
                }
            }
            cpu.set_rip(cpu.next_rip);
            cpu.instructions += 1;
            if single || !block.current(cpu) {
                break;
            }
        }
        Ok(())
    }

    /// One instruction with everything that debugging adds: instruction breakpoints before, single-step
    /// and data-breakpoint traps after (Intel SDM vol. 3B §18.3).
    #[cold]
    fn watched(&mut self) -> R {
        let cpu = &mut self.cpu;
        let stepping = cpu.rflags & rflags::TF != 0;
        let resumed = cpu.rflags & rflags::RF != 0;
        if !resumed {
            let hits = cpu.instruction_breakpoints();
            if hits != 0 {
                cpu.dr6 = cpu.dr6 & !15 | hits;
                cpu.fault = Fault { vector: exception::DB, ..Fault::default() };
                return Err(Stop::Fault);
            }
        }
        cpu.rflags &= !rflags::RF;
        cpu.debug_hits = 0;
        cpu.skip_step = false;
        let result = self.block(true);
        let cpu = &mut self.cpu;
        if matches!(result, Err(Stop::Fault | Stop::Shutdown)) {
            return result;
        }
        let mut hits = std::mem::take(&mut cpu.debug_hits);
        if stepping && !cpu.skip_step {
            hits |= 1 << 14;
        }
        if hits != 0 {
            cpu.dr6 = cpu.dr6 & !15 | hits;
            cpu.fault = Fault { vector: exception::DB, trap: true, ..Fault::default() };
            cpu.shadow = false;
            return Err(Stop::Fault);
        }
        result
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self) -> Exit {
        if let Some(event) = self.cpu.pending.take() {
            let fault = Fault { vector: event.vector, code: event.error_code, ..Fault::default() };
            let delivered = self.cpu.deliver(fault);
            if let Some(exit) = self.handled(delivered) {
                return exit;
            }
        }
        loop {
            // An instruction in the shadow of STI or MOV SS runs before anything is taken.
            let mut single = false;
            if self.cpu.shadow {
                self.cpu.shadow = false;
                single = true;
            } else {
                let bits = self.cpu.board.attention.bits() & self.interesting();
                if bits != 0 {
                    if let Some(exit) = self.attend(bits) {
                        return exit;
                    }
                    continue;
                }
            }
            match self.cpu.activity {
                Activity::Active => {}
                Activity::Shutdown => return Exit::Shutdown,
                _ => return Exit::Halt { wake: self.interesting() },
            }
            let result = if self.cpu.debugging() { self.watched() } else { self.block(single) };
            match result {
                Ok(()) | Err(Stop::EndBlock | Stop::Again) => {}
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

    fn save(&self) -> CpuState {
        self.cpu.save()
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.cpu.load(state)
    }

    fn instructions(&self) -> u64 {
        self.cpu.instructions
    }
}
