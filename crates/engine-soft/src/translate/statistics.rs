//! What the translator tells of itself.

use super::Translator;
use super::frame::Mode;
use crate::cpu::Cpu;
use crate::trace::CodeTrace;
use donjon_engine::TranslatorStatistics;
use std::sync::Arc;

impl Translator {
    /// What happened so far.
    pub fn statistics(&self, cpu: &Cpu) -> TranslatorStatistics {
        let direct = &cpu.direct;
        TranslatorStatistics {
            arena_used: self.arena.in_use() as u64,
            arena_size: self.arena.size() as u64,
            steps: direct.stepped,
            lookups: direct.lookups,
            page_fills: direct.fills,
            page_refusals: direct.misses - direct.fills,
            ..self.stats
        }
    }

    /// Tells `trace` of all code from now on.
    pub fn trace(&mut self, trace: Arc<dyn CodeTrace>) {
        for (name, at, size) in self.arena.trampolines.named(self.arena.used()[0]) {
            trace.made(self.arena.address(at), size as u64, format_args!("donjon:{name}"));
        }
        self.trace = Some(trace);
    }

    /// Tells of a unit for the code at a linear address.
    #[inline]
    pub(super) fn tell(&self, at: usize, size: usize, mode: Mode, linear: u64) {
        let Some(trace) = &self.trace else { return };
        let mode = match mode {
            Mode::User => "user",
            Mode::Supervisor => "kernel",
            Mode::SupervisorAc => "kernel-ac",
        };
        trace.made(
            self.arena.address(at),
            size as u64,
            format_args!("guest:{mode}:{linear:016x}"),
        );
    }
}
