//! Lockstep: a translating vCPU and an interpreting one run the same guest, and whatever they do not agree
//! on stops it.
//!
//! The leader translates, on the domain's RAM and board. It runs one unit at a time, or as many as lead to one
//! another, and tells how many instructions that retired. The follower has RAM of its own; it interprets as many instructions, with the
//! answers the leader had from devices, the clock and the random number generator ([`tape`]). Then all
//! registers are compared, and all memory that either side's interpreter stored to; now and then the whole
//! RAM is, for stores of translated code that went astray.

mod follower;
mod listing;
mod memory;
mod state;
mod tail;
mod tape;

pub(crate) use tape::Deck;

use crate::cpu::{Board, Cpu, R, Stop};
use crate::translate::{After, Translator};
use crate::vcpu::SoftVcpu;
use donjon_engine::{Attention, EngineError, Exit, Statistics, Vcpu};
use donjon_memory::{Ram, RangeKind, Stored};
use donjon_x86::{Activity, CpuState};
use listing::Code;
use state::Before;
use std::sync::Arc;
use tail::Tail;
use tape::{Apic, Io, Tape};

#[cfg(test)]
mod tests;

/// Rounds between two comparisons of all registers; those that translated code changes by itself are
/// compared after each.
const ALL_REGISTERS: u64 = 32;
/// Instructions between two comparisons of all RAM.
const ALL_RAM: u64 = 20_000_000;
/// Instructions of a unit at most, for listings.
const LISTED: u64 = 80;
/// Blocks that are listed at most of what ran last.
const LISTED_BLOCKS: usize = 6;

/// A leader and a follower.
pub(crate) struct Pair {
    leader: SoftVcpu,
    follower: SoftVcpu,
    tape: Arc<Tape>,
    /// RAM is the same on both sides.
    begun: bool,
    /// Flags may have been pushed, and more, before they are compared.
    chains: bool,
    tail: Tail,
    stores: Vec<Stored>,
    rounds: u64,
    /// Instructions after which all of RAM is compared next.
    ram_at: u64,
    counts: Counts,
    failed: Option<String>,
}

/// What happened, for the log.
#[derive(Default, Debug)]
struct Counts {
    units: u64,
    in_units: u64,
    interpreted: u64,
    deliveries: u64,
    undefined_flags: u64,
}

/// What the leader did.
struct Led {
    retired: u64,
    result: R,
    /// The next instruction is the interpreter's.
    one: bool,
    unit: bool,
}

/// What differs.
type Mismatch = String;

impl Pair {
    /// Both processors on a board.
    pub fn new(board: Board, mut translator: Translator, chains: bool) -> Result<Self, EngineError> {
        translator.apart = !chains;
        let tape = Arc::new(Tape::default());
        let failed = |e: donjon_memory::MemoryError| EngineError::Failed {
            engine: "soft",
            what: e.to_string(),
        };
        if board.ram.ranges().iter().any(|r| r.kind != RangeKind::Ram) {
            // Both would store to one file.
            return Err(EngineError::Failed {
                engine: "soft",
                what: "a domain with persistent memory cannot run in lockstep".into(),
            });
        }
        let ram = Arc::new(Ram::new(board.ram.size()).map_err(failed)?);
        let on = |deck: Deck, ram: Arc<Ram>, attention: Arc<Attention>| Board {
            ram,
            io: Arc::new(Io {
                deck: deck.clone(),
                board: board.io.clone(),
            }),
            apic: Arc::new(Apic {
                deck: deck.clone(),
                apic: board.apic.clone(),
            }),
            attention,
            clock: board.clock.clone(),
            model: board.model.clone(),
            apic_id: board.apic_id,
            vcpus: board.vcpus,
            deck: Some(deck),
        };
        let leader = on(Deck::recorder(&tape), board.ram.clone(), board.attention.clone());
        let follower = on(Deck::player(&tape), ram, Arc::default());
        let mut leader = Cpu::new(leader);
        leader.direct.base = leader.board.ram.host_address() as u64;
        leader.direct.counts = chains;
        Ok(Self {
            leader: SoftVcpu::new(leader, Some(translator)),
            follower: SoftVcpu::new(Cpu::new(follower), None),
            tape,
            begun: false,
            chains,
            tail: Tail::new(),
            stores: vec![],
            rounds: 0,
            ram_at: ALL_RAM,
            counts: Counts::default(),
            failed: None,
        })
    }

    /// Takes over RAM as it was loaded.
    fn begin(&mut self) {
        self.begun = true;
        memory::copy(&self.leader.ram, &self.follower.ram);
        self.leader.ram.code().keep_journal();
        self.follower.ram.code().keep_journal();
    }

    /// Has the leader run a unit, or a block where nothing is translated.
    fn lead(&mut self) -> Led {
        let leader = &mut self.leader;
        let before = leader.cpu.instructions;
        match Self::unit(leader) {
            Ok(Some((after, retired))) => {
                self.counts.units += 1;
                self.counts.in_units += retired;
                Led {
                    retired,
                    result: if let After::Done(r) = after { r } else { Ok(()) },
                    one: matches!(after, After::One),
                    unit: true,
                }
            }
            other => {
                let result = match other {
                    Err(stop) => Err(stop),
                    _ => leader.block(false),
                };
                let retired = leader.cpu.instructions - before;
                self.counts.interpreted += retired;
                Led {
                    retired,
                    result,
                    one: false,
                    unit: false,
                }
            }
        }
    }

    /// Runs a unit or a chain of them; what came of it and the instructions retired. `None` if there is none yet.
    fn unit(leader: &mut SoftVcpu) -> R<Option<(After, u64)>> {
        let SoftVcpu {
            cpu,
            blocks,
            translator: Some(translator),
            ram,
            ..
        } = leader
        else {
            return Ok(None);
        };
        let run = blocks.at(cpu, ram)?;
        let (Some(heat), Some(at), Some(mode)) = (run.heat, run.start, Translator::mode(cpu)) else {
            return Ok(None);
        };
        if *heat < translator.threshold {
            *heat += 1;
            return Ok(None);
        }
        let interest = SoftVcpu::interesting(cpu);
        let resets = translator.resets();
        let mut after = translator.run_counted(cpu, at, mode, interest);
        if after.is_none() {
            let threshold = translator.threshold;
            if translator.translate(cpu, at, mode, |at| blocks.heat(at) >= threshold / 2) {
                after = translator.run_counted(cpu, at, mode, interest);
            }
        }
        if translator.resets() != resets {
            blocks.cool();
        }
        Ok(after)
    }

    /// Runs a piece of code on both sides.
    #[inline]
    fn round(&mut self, single: bool) -> Result<R, Mismatch> {
        let before = Before::of(&self.follower.cpu);
        self.rounds += 1;
        self.tail.clear();
        self.tape.begin();
        if self.leader.cpu.debugging() {
            let led = self.leader.watched(single);
            let followed = self.follower.watched(single);
            self.counts.interpreted += 1;
            return self.agree(before, 2, (led, followed), true);
        }
        let led = if single {
            let before = self.leader.cpu.instructions;
            let result = self.leader.block(true);
            let retired = self.leader.cpu.instructions - before;
            self.counts.interpreted += retired;
            Led {
                retired,
                result,
                one: false,
                unit: false,
            }
        } else {
            self.lead()
        };
        let followed = follower::follow(&mut self.follower, &mut self.tail, led.retired, led.result);
        let listed = led.retired + 1;
        let followed = match followed {
            Ok(r) => r,
            Err(what) => return Err(self.report(&before, listed, &what)),
        };
        let result = self.agree(before, listed, (led.result, followed), !led.unit)?;
        if led.one {
            return self.round(true);
        }
        Ok(result)
    }

    /// Compares after a round; what it came to.
    fn agree(&mut self, before: Before, count: u64, results: (R, R), all: bool) -> Result<R, Mismatch> {
        let (led, followed) = results;
        let end = |r: R| if r == Err(Stop::EndBlock) { Ok(()) } else { r };
        if end(led) != end(followed) {
            return Err(self.report(&before, count, &format!("ended as {led:?} and as {followed:?}")));
        }
        let (a, b) = (&self.leader.cpu, &self.follower.cpu);
        if led == Err(Stop::Fault) && a.fault != b.fault {
            let what = format!("met {:x?} and {:x?}", a.fault, b.fault);
            return Err(self.report(&before, count, &what));
        }
        if let Some(what) = self.tape.end() {
            return Err(self.report(&before, count, &what));
        }
        let all = all || self.rounds.is_multiple_of(ALL_REGISTERS);
        let same = if all {
            state::same(a, b)
        } else {
            state::same_fast(a, b)
        };
        if !same {
            if self.chains {
                state::forgive_pushed_flags(&self.leader.cpu, &mut self.follower.cpu);
            }
            // What came before a tail that is not all may have left any flag undefined.
            let code = self.tail.code(&mut self.follower.cpu, usize::MAX);
            let undefined = code.undefined_flags(!self.tail.is_whole());
            if !state::forgive_undefined_flags(&self.leader.cpu, &mut self.follower.cpu, undefined) {
                return Err(self.report(&before, count, "different registers"));
            }
            self.counts.undefined_flags += 1;
        }
        if let Some(what) = self.compare_stores() {
            return Err(self.report(&before, count, &format!("different RAM:\n{what}")));
        }
        Ok(led)
    }

    /// Compares what was stored since the last time.
    #[inline]
    fn compare_stores(&mut self) -> Option<String> {
        let (a, b) = (&self.leader.ram, &self.follower.ram);
        a.code().take_stores(&mut self.stores);
        b.code().take_stores(&mut self.stores);
        if self.stores.is_empty() {
            return None;
        }
        let differ = memory::compare_stores(a, b, &self.stores, self.chains);
        self.stores.clear();
        differ
    }

    #[cold]
    fn report(&mut self, before: &Before, count: u64, what: &str) -> Mismatch {
        self.tape.end();
        let count_before = self.follower.cpu.instructions;
        let code = Code::read(&mut self.follower.cpu, before.rip(), count.min(LISTED) as usize);
        let tail = self.tail.code(&mut self.follower.cpu, LISTED_BLOCKS);
        let stores = self.compare_stores().unwrap_or_default();
        format!(
            "the translator and the interpreter disagree after {count_before} instructions, round {}: {what}\n\
             code (leader retired {} of it):\n{}last interpreted:\n{}before:\n{}differences:\n{}{stores}",
            self.rounds,
            count.saturating_sub(1),
            code.text(),
            tail.text(),
            before.text(&code),
            state::differences(&self.leader.cpu, &self.follower.cpu),
        )
    }

    /// Something between two instructions, done to both.
    fn both(&mut self, f: impl Fn(&mut SoftVcpu) -> Option<Exit>) -> Result<Option<Exit>, Mismatch> {
        let before = Before::of(&self.follower.cpu);
        self.tape.begin();
        let exit = f(&mut self.leader);
        if matches!(exit, Some(Exit::Kicked)) {
            self.tape.end();
            return Ok(exit);
        }
        f(&mut self.follower);
        self.counts.deliveries += 1;
        let _: R = self.agree(before, 0, (Ok(()), Ok(())), true)?;
        Ok(exit)
    }

    /// As [`SoftVcpu::attend`].
    fn attend(&mut self, bits: u32, again: bool) -> Result<Option<Exit>, Mismatch> {
        // What the leader finds in its word must be in the follower's. A start-up message changes nothing
        // where there is one processor.
        let attention = self.follower.cpu.board.attention.clone();
        attention.take(u32::MAX);
        attention.raise(bits & (Attention::INIT | Attention::NMI | Attention::INTERRUPT));
        if bits & (Attention::KICK | Attention::INIT) == 0 && bits & Attention::SIPI != 0 {
            self.leader.attend(bits, again);
            return Ok(None);
        }
        let done = self.both(|vcpu| vcpu.attend(bits, again));
        attention.take(u32::MAX);
        done
    }

    /// As [`SoftVcpu::run`].
    fn go(&mut self) -> Result<Exit, Mismatch> {
        if let Some(exit) = self.both(SoftVcpu::deliver_pending)? {
            return Ok(exit);
        }
        let mut again = false;
        loop {
            let mut single = false;
            let cpu = &mut self.leader.cpu;
            let raised = cpu.board.attention.bits();
            if cpu.shadow && raised & Attention::KICK == 0 {
                cpu.shadow = false;
                self.follower.cpu.shadow = false;
                single = true;
            } else if raised != 0 {
                let bits = raised & SoftVcpu::interesting(cpu);
                if bits != 0 {
                    if let Some(exit) = self.attend(bits, again)? {
                        return Ok(exit);
                    }
                    continue;
                }
            }
            match self.leader.cpu.activity {
                Activity::Active => {}
                Activity::Shutdown => return Ok(Exit::Shutdown),
                _ => {
                    return Ok(Exit::Halt {
                        wake: SoftVcpu::interesting(&self.leader.cpu),
                    });
                }
            }
            again = false;
            match self.round(single)? {
                Ok(()) | Err(Stop::EndBlock) => {}
                Err(Stop::Again) => again = true,
                Err(Stop::Halt) => {
                    self.leader.cpu.activity = Activity::Halted;
                    self.follower.cpu.activity = Activity::Halted;
                }
                Err(Stop::Shutdown) => {
                    self.leader.cpu.activity = Activity::Shutdown;
                    self.follower.cpu.activity = Activity::Shutdown;
                    return Ok(Exit::Shutdown);
                }
                Err(Stop::Fault) => {
                    let deliver = |vcpu: &mut SoftVcpu| {
                        let fault = vcpu.cpu.fault;
                        let delivered = vcpu.cpu.deliver(fault);
                        vcpu.handled(delivered)
                    };
                    if let Some(exit) = self.both(deliver)? {
                        return Ok(exit);
                    }
                }
            }
            if self.follower.cpu.instructions >= self.ram_at {
                self.ram_at = self.follower.cpu.instructions + ALL_RAM;
                self.compare_ram()?;
            }
        }
    }

    /// Compares all of RAM.
    #[cold]
    fn compare_ram(&mut self) -> Result<(), Mismatch> {
        match memory::compare_all(&self.leader.ram, &self.follower.ram) {
            None => Ok(()),
            Some(what) => Err(format!(
                "the translator stored where the interpreter did not, in the {ALL_RAM} instructions before {}:\n{what}",
                self.follower.cpu.instructions
            )),
        }
    }
}

impl Vcpu for Pair {
    fn run(&mut self) -> Exit {
        if !self.begun {
            self.begin();
        }
        let result = match &self.failed {
            Some(what) => Err(what.clone()),
            None => self.go(),
        };
        result.unwrap_or_else(|what| {
            self.failed = Some(what.clone());
            Exit::Error(EngineError::Failed { engine: "soft", what })
        })
    }

    fn save(&self) -> Result<CpuState, EngineError> {
        self.leader.save()
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.leader.load(state)?;
        self.follower.load(state)
    }

    /// Those that were compared.
    fn instructions(&self) -> u64 {
        self.follower.cpu.instructions
    }

    /// The leader's.
    fn statistics(&self) -> Statistics {
        Statistics {
            interpreted: self.counts.interpreted,
            translated: Some(self.counts.in_units),
            ..self.leader.statistics()
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let ram = if self.begun && self.failed.is_none() {
            self.compare_ram().err()
        } else {
            None
        };
        if let Some(what) = ram {
            tracing::error!("{what}");
        }
        tracing::info!(
            instructions = self.follower.cpu.instructions,
            counts = ?self.counts,
            "lockstep ends"
        );
    }
}
