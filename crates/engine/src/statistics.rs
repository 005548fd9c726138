//! What a vCPU tells of its work.
//!
//! The names are those that `donjon stats --format json` shows, so they stay; a field that a reader does not
//! know, or a writer did not have, does no harm.

use serde::{Deserialize, Serialize};

/// What one vCPU, or several, did so far. An engine leaves at zero what it does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Guest instructions that were interpreted.
    pub interpreted: u64,
    /// Guest instructions that ran in translated code, if they are counted.
    pub translated: Option<u64>,
    /// Page tables walked: what the interpreter's TLB did not have.
    pub page_walks: u64,
    /// The translator's work.
    pub translator: TranslatorStatistics,
    /// What the processor that runs the guest by itself could not do alone; `None` on other engines.
    pub hardware: Option<HardwareExits>,
}

/// Times that hardware virtualization left the guest for this process, by reason. What the host's kernel does by
/// itself is not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HardwareExits {
    /// IN and OUT.
    pub port: u64,
    /// Loads and stores where there is no memory.
    pub mmio: u64,
    /// RDMSR and WRMSR.
    pub msr: u64,
    /// HLT.
    pub halt: u64,
    /// The ends of level-triggered interrupts.
    pub end_of_interrupt: u64,
    /// Kicks and other signals.
    pub interrupted: u64,
    /// Anything else.
    pub other: u64,
}

impl HardwareExits {
    /// Each with its name.
    pub fn by_reason(&self) -> [(&'static str, u64); 7] {
        [
            ("port", self.port),
            ("mmio", self.mmio),
            ("msr", self.msr),
            ("halt", self.halt),
            ("eoi", self.end_of_interrupt),
            ("interrupted", self.interrupted),
            ("other", self.other),
        ]
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            port: self.port + other.port,
            mmio: self.mmio + other.mmio,
            msr: self.msr + other.msr,
            halt: self.halt + other.halt,
            end_of_interrupt: self.end_of_interrupt + other.end_of_interrupt,
            interrupted: self.interrupted + other.interrupted,
            other: self.other + other.other,
        }
    }
}

/// What a translator did, and what translated code did that is not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TranslatorStatistics {
    /// Pieces of guest code translated.
    pub units: u64,
    /// Bytes of host code at present.
    pub arena_used: u64,
    /// Bytes of host code there is room for.
    pub arena_size: u64,
    /// Times the arena was full and emptied.
    pub arena_emptied: u64,
    /// Times translated code was entered from outside.
    pub entries: u64,
    /// Why it was left.
    pub exits: Exits,
    /// Instructions it had interpreted without being left.
    pub steps: u64,
    /// Lookups in its own TLB, if it counts what it runs: else zero, because that costs more than the lookup.
    pub lookups: u64,
    /// Pages entered into that TLB on demand: the misses that were filled.
    pub page_fills: u64,
    /// Misses that were not filled: faults, devices, accesses over a page's end, stores beside code.
    pub page_refusals: u64,
    /// What was taken back.
    pub invalidations: Invalidations,
}

/// Exits of translated code, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exits {
    /// A jump inside a page whose target was not connected yet.
    pub jump: u64,
    /// A jump to another page that was not connected under this mapping.
    pub page: u64,
    /// A return or an indirect jump whose target was not in the cache.
    pub indirect: u64,
    /// An instruction that is the interpreter's.
    pub interpreter: u64,
    /// An interrupt or another request.
    pub attention: u64,
    /// An instruction over a page's end, under a mapping not seen before.
    pub guard: u64,
    /// An interpreted instruction that changed what translated code rests on.
    pub step: u64,
}

/// Reasons that translations were taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Invalidations {
    /// Code that had been translated changed.
    pub code: u64,
    /// A page that had been handed out for stores became code.
    pub stores: u64,
    /// All mappings were flushed.
    pub mappings: u64,
    /// All mappings that are not global were flushed.
    pub local_mappings: u64,
    /// Mappings of single pages were flushed.
    pub pages: u64,
}

impl Statistics {
    /// All instructions, if all are counted.
    pub fn instructions(&self) -> Option<u64> {
        Some(self.interpreted + self.translated?)
    }

    /// The sum with those of another vCPU that runs at the same time.
    pub fn and(self, other: &Self) -> Self {
        let (a, b) = (&self.translator, &other.translator);
        Self {
            translator: TranslatorStatistics {
                arena_used: a.arena_used + b.arena_used,
                arena_size: a.arena_size + b.arena_size,
                ..a.after(b)
            },
            ..self.after(other)
        }
    }

    /// The sum with those of an earlier life of the same vCPU.
    pub fn after(&self, earlier: &Self) -> Self {
        Self {
            interpreted: self.interpreted + earlier.interpreted,
            translated: self.translated.zip(earlier.translated).map(|(a, b)| a + b),
            page_walks: self.page_walks + earlier.page_walks,
            translator: self.translator.after(&earlier.translator),
            // A domain may have had both kinds of engine.
            hardware: match (self.hardware, earlier.hardware) {
                (Some(a), Some(b)) => Some(a.and(&b)),
                (one, other) => one.or(other),
            },
        }
    }
}

impl TranslatorStatistics {
    /// What is there at present is that of `self`.
    fn after(&self, earlier: &Self) -> Self {
        Self {
            units: self.units + earlier.units,
            arena_used: self.arena_used,
            arena_size: self.arena_size,
            arena_emptied: self.arena_emptied + earlier.arena_emptied,
            entries: self.entries + earlier.entries,
            exits: self.exits.and(&earlier.exits),
            steps: self.steps + earlier.steps,
            lookups: self.lookups + earlier.lookups,
            page_fills: self.page_fills + earlier.page_fills,
            page_refusals: self.page_refusals + earlier.page_refusals,
            invalidations: self.invalidations.and(&earlier.invalidations),
        }
    }
}

impl Exits {
    /// All of them, with a word for each cause.
    pub fn by_cause(&self) -> [(&'static str, u64); 7] {
        [
            ("jump", self.jump),
            ("page", self.page),
            ("indirect", self.indirect),
            ("interpreter", self.interpreter),
            ("attention", self.attention),
            ("guard", self.guard),
            ("step", self.step),
        ]
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            jump: self.jump + other.jump,
            page: self.page + other.page,
            indirect: self.indirect + other.indirect,
            interpreter: self.interpreter + other.interpreter,
            attention: self.attention + other.attention,
            guard: self.guard + other.guard,
            step: self.step + other.step,
        }
    }
}

impl Invalidations {
    /// All of them, with a word for each reason.
    pub fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("code", self.code),
            ("stores", self.stores),
            ("mappings", self.mappings),
            ("local", self.local_mappings),
            ("pages", self.pages),
        ]
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            code: self.code + other.code,
            stores: self.stores + other.stores,
            mappings: self.mappings + other.mappings,
            local_mappings: self.local_mappings + other.local_mappings,
            pages: self.pages + other.pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(n: u64) -> Statistics {
        let mut s = Statistics {
            interpreted: n,
            translated: Some(n),
            ..Statistics::default()
        };
        (
            s.translator.units,
            s.translator.arena_used,
            s.translator.exits.jump,
        ) = (n, n, n);
        s
    }

    #[test]
    fn counts_add_up_and_the_arena_is_that_of_the_present() {
        let again = some(5).after(&some(7));
        assert_eq!((again.interpreted, again.instructions()), (12, Some(24)));
        assert_eq!((again.translator.units, again.translator.arena_used), (12, 5));
        let both = some(5).and(&some(7));
        assert_eq!((both.translator.exits.jump, both.translator.arena_used), (12, 12));
    }

    #[test]
    fn what_one_does_not_count_the_sum_does_not_know() {
        let unknown = Statistics {
            translated: None,
            ..some(1)
        };
        assert_eq!(some(1).and(&unknown).instructions(), None);
        assert_eq!(unknown.after(&some(1)).instructions(), None);
    }
}
