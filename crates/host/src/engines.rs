//! Choosing the CPU engine for a domain.

use donjon_engine::{Engine, Fitness, Limits};
use donjon_engine_kvm::{KvmEngine, KvmReport, KvmStatus};
use donjon_engine_soft::{CodeTrace, Settings, SoftEngine, Translation};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The engine a user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The fastest that works on this host.
    #[default]
    Auto,
    /// The software CPU.
    Soft,
    /// The software CPU without its translator.
    Interpreter,
    /// Hardware virtualization.
    Kvm,
}

impl EngineChoice {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Soft, Self::Interpreter, Self::Kvm];

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Soft => "soft",
            Self::Interpreter => "soft,interpreter",
            Self::Kvm => "kvm",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EngineChoice {
    type Err = EngineSelectError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|e| e.name() == name);
        found.ok_or_else(|| EngineSelectError::Unknown {
            name: name.to_owned(),
        })
    }
}

/// Why there is no engine for a domain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineSelectError {
    /// No such engine.
    #[error(
        "there is no engine {name:?}: use `--engine auto`, `--engine soft`, `--engine soft,interpreter` or \
             `--engine kvm`"
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The engine kvm was asked for and does not work.
    #[error("the engine kvm cannot run on this host: {finding}; to fix it: {advice}; or use `--engine soft`")]
    KvmUnusable {
        /// What its probe found.
        finding: String,
        /// What to do.
        advice: String,
    },
    /// It works, but does not say what it can give.
    #[error("the engine kvm cannot run on this host: {0}")]
    KvmLimits(String),
    /// The software engine does not work on this host.
    #[error("the engine soft cannot run on this host: {finding}; to fix it: {advice}")]
    SoftUnusable {
        /// What its probe found.
        finding: String,
        /// What to do.
        advice: String,
    },
}

/// What a user wants of the engine.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Which one.
    pub engine: EngineChoice,
    /// Bytes of translated code that a domain keeps at most, if not the usual number.
    pub arena: Option<usize>,
    /// Translated code counts the instructions it runs.
    pub count: bool,
    /// Who is told of translated code.
    pub trace: Option<Arc<dyn CodeTrace>>,
}

/// An engine, and why it was chosen.
pub struct Selected {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// A sentence without full stop.
    pub why: String,
    /// What a domain that starts here can have.
    pub limits: Limits,
}

/// The engine for a domain. Measures KVM for about 20 ms unless the software CPU is asked for.
pub fn select(wanted: &Wanted) -> Result<Selected, EngineSelectError> {
    choose(
        wanted.engine,
        software(wanted),
        Box::new(KvmEngine),
        donjon_engine_kvm::probe,
    )
}

/// The software engine.
pub(crate) fn software(wanted: &Wanted) -> Box<dyn Engine> {
    let usual = Settings::default();
    let engine = SoftEngine::new(Settings {
        translation: match wanted.engine {
            EngineChoice::Interpreter => Translation::Never,
            _ => usual.translation,
        },
        arena: wanted.arena.unwrap_or(usual.arena),
        count: wanted.count,
        ..usual
    });
    Box::new(match &wanted.trace {
        Some(trace) => engine.traced(trace.clone()),
        None => engine,
    })
}

fn choose(
    choice: EngineChoice,
    soft: Box<dyn Engine>,
    kvm: Box<dyn Engine>,
    probe: impl FnOnce() -> KvmReport,
) -> Result<Selected, EngineSelectError> {
    let asked = || "it was asked for".to_owned();
    let why = match choice {
        EngineChoice::Kvm => {
            let report = probe();
            if !matches!(report.status, KvmStatus::Measured { .. }) {
                return Err(EngineSelectError::KvmUnusable {
                    finding: report.finding(),
                    advice: report.advice.join("; "),
                });
            }
            return with_limits(kvm, asked());
        }
        EngineChoice::Soft | EngineChoice::Interpreter => asked(),
        EngineChoice::Auto => {
            let report = probe();
            if report.is_fast() {
                return with_limits(kvm, report.finding());
            }
            report.finding()
        }
    };
    let report = soft.probe();
    if report.fitness == Fitness::Unusable {
        let (finding, advice) = (report.finding, report.advice.join("; "));
        return Err(EngineSelectError::SoftUnusable { finding, advice });
    }
    Ok(Selected {
        engine: soft.into(),
        why,
        limits: Limits::default(),
    })
}

fn with_limits(kvm: Box<dyn Engine>, why: String) -> Result<Selected, EngineSelectError> {
    let limits = kvm
        .limits()
        .map_err(|e| EngineSelectError::KvmLimits(e.to_string()))?;
    Ok(Selected {
        engine: kvm.into(),
        why,
        limits,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use donjon_engine::{EngineError, Partition, PartitionConfig, ProbeReport};
    use donjon_engine_kvm::KvmStatus;

    /// An engine that says this of itself.
    pub struct Fake(pub Fitness, pub &'static str);

    impl Engine for Fake {
        fn name(&self) -> &'static str {
            self.1
        }

        fn probe(&self) -> ProbeReport {
            let advice = vec!["take another host".to_owned()];
            ProbeReport {
                engine: self.1,
                fitness: self.0,
                finding: "found".into(),
                advice,
            }
        }

        fn create(&self, _: PartitionConfig) -> Result<Box<dyn Partition>, EngineError> {
            Err(EngineError::Failed {
                engine: "soft",
                what: "a fake".into(),
            })
        }
    }

    pub fn kvm(status: KvmStatus) -> KvmReport {
        KvmReport {
            status,
            advice: vec!["do that".into()],
        }
    }

    fn take(choice: EngineChoice, status: KvmStatus) -> Result<(&'static str, String), String> {
        let fitness = Fitness::Measured { mips: 70.0 };
        let (soft, hardware) = (Box::new(Fake(fitness, "soft")), Box::new(Fake(fitness, "kvm")));
        let selected = choose(choice, soft, hardware, || kvm(status)).map_err(|e| e.to_string())?;
        Ok((selected.engine.name(), selected.why))
    }

    const FAST: KvmStatus = KvmStatus::Measured {
        ring0_mips: 2900.0,
        exit_us: 1.0,
    };
    const WEAK: KvmStatus = KvmStatus::Measured {
        ring0_mips: 1.84,
        exit_us: 25.0,
    };

    #[test]
    fn auto_takes_the_faster_one_and_says_why() {
        let (engine, why) = take(EngineChoice::Auto, KvmStatus::Missing).unwrap();
        assert_eq!((engine, &why[..]), ("soft", "there is no /dev/kvm on this host"));
        let (engine, why) = take(EngineChoice::Auto, WEAK).unwrap();
        assert_eq!(engine, "soft");
        assert!(why.contains("at only 1.8 million instructions a second"), "{why}");
        let (engine, why) = take(EngineChoice::Auto, FAST).unwrap();
        assert_eq!(engine, "kvm");
        assert!(why.contains("2900 million"), "{why}");
    }

    #[test]
    fn what_is_asked_for_is_taken_if_it_works_at_all() {
        for status in [FAST, WEAK] {
            let (engine, why) = take(EngineChoice::Kvm, status).unwrap();
            assert_eq!((engine, &why[..]), ("kvm", "it was asked for"));
        }
        let error = take(EngineChoice::Kvm, KvmStatus::Missing).unwrap_err();
        assert_eq!(
            error,
            "the engine kvm cannot run on this host: there is no /dev/kvm on this host; to fix it: do that; or use \
             `--engine soft`"
        );
    }

    #[test]
    fn soft_is_taken_without_a_look_at_kvm() {
        for choice in [EngineChoice::Soft, EngineChoice::Interpreter] {
            let fitness = Fitness::Measured { mips: 70.0 };
            let (soft, hardware) = (Box::new(Fake(fitness, "soft")), Box::new(Fake(fitness, "kvm")));
            let selected = choose(choice, soft, hardware, || panic!("not measured")).unwrap();
            assert_eq!(
                (selected.engine.name(), &selected.why[..]),
                ("soft", "it was asked for")
            );
        }
    }

    #[test]
    fn the_interpreter_does_not_translate() {
        let wanted = Wanted {
            engine: EngineChoice::Interpreter,
            ..Wanted::default()
        };
        let finding = software(&wanted).probe().finding;
        assert!(finding.starts_with("interprets only"), "{finding}");
    }

    #[test]
    fn a_host_that_soft_cannot_run_on_is_told_so() {
        let bad = || Box::new(Fake(Fitness::Unusable, "soft"));
        let error = choose(EngineChoice::Auto, bad(), bad(), || kvm(KvmStatus::Missing))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            error,
            "the engine soft cannot run on this host: found; to fix it: take another host"
        );
    }

    #[test]
    fn names_go_both_ways() {
        for choice in EngineChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!(
            "tcg"
                .parse::<EngineChoice>()
                .unwrap_err()
                .to_string()
                .contains("--engine auto")
        );
    }
}
