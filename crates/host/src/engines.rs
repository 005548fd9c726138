//! Choosing the CPU engine for a domain.

use donjon_engine::{Engine, Fitness};
use donjon_engine_kvm::KvmReport;
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
    /// The engine kvm was asked for.
    #[error(
        "this version of donjon cannot run domains on KVM yet, it only measures it ({finding}): use `--engine soft`, \
         or leave --engine out"
    )]
    KvmNotYet {
        /// What the measurement gave.
        finding: String,
    },
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
    pub engine: Box<dyn Engine>,
    /// A sentence without full stop.
    pub why: String,
}

/// The engine for a new domain. Measures KVM for about 20 ms unless the software CPU is asked for.
pub fn select(wanted: &Wanted) -> Result<Selected, EngineSelectError> {
    choose(wanted.engine, software(wanted), donjon_engine_kvm::probe)
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
    kvm: impl FnOnce() -> KvmReport,
) -> Result<Selected, EngineSelectError> {
    let why = match choice {
        EngineChoice::Kvm => {
            return Err(EngineSelectError::KvmNotYet {
                finding: kvm().finding(),
            });
        }
        EngineChoice::Soft | EngineChoice::Interpreter => "it was asked for".to_owned(),
        EngineChoice::Auto => why_not_kvm(&kvm()),
    };
    let report = soft.probe();
    if report.fitness == Fitness::Unusable {
        let (finding, advice) = (report.finding, report.advice.join("; "));
        return Err(EngineSelectError::SoftUnusable { finding, advice });
    }
    Ok(Selected { engine: soft, why })
}

/// Why the engine kvm is not the one, as a sentence without full stop.
pub(crate) fn why_not_kvm(kvm: &KvmReport) -> String {
    if kvm.is_fast() {
        format!(
            "this version of donjon cannot run domains on KVM yet, though {}",
            kvm.finding()
        )
    } else {
        kvm.finding()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use donjon_engine::{EngineError, Partition, PartitionConfig, ProbeReport};
    use donjon_engine_kvm::KvmStatus;

    /// An engine that says this of itself.
    pub struct Fake(pub Fitness);

    impl Engine for Fake {
        fn name(&self) -> &'static str {
            "soft"
        }

        fn probe(&self) -> ProbeReport {
            let advice = vec!["take another host".to_owned()];
            ProbeReport {
                engine: "soft",
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

    fn good() -> Box<dyn Engine> {
        Box::new(Fake(Fitness::Measured { mips: 70.0 }))
    }

    #[test]
    fn auto_takes_soft_and_says_why() {
        let why = |status| choose(EngineChoice::Auto, good(), || kvm(status)).unwrap().why;
        assert_eq!(why(KvmStatus::Missing), "there is no /dev/kvm on this host");
        let weak = why(KvmStatus::Measured {
            ring0_mips: 1.84,
            exit_us: 25.0,
        });
        assert!(
            weak.contains("at only 1.8 million instructions a second"),
            "{weak}"
        );
        let strong = why(KvmStatus::Measured {
            ring0_mips: 2900.0,
            exit_us: 1.0,
        });
        assert!(
            strong.contains("cannot run domains on KVM yet") && strong.contains("2900 million"),
            "{strong}"
        );
    }

    #[test]
    fn soft_is_taken_without_a_look_at_kvm() {
        for choice in [EngineChoice::Soft, EngineChoice::Interpreter] {
            let selected = choose(choice, good(), || panic!("not measured")).unwrap();
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
    fn kvm_is_refused_with_its_figure_and_the_way_out() {
        let fast = || {
            kvm(KvmStatus::Measured {
                ring0_mips: 2900.0,
                exit_us: 1.0,
            })
        };
        let error = choose(EngineChoice::Kvm, good(), fast).err().unwrap().to_string();
        assert!(
            error.contains("2900 million") && error.contains("`--engine soft`"),
            "{error}"
        );
    }

    #[test]
    fn a_host_that_soft_cannot_run_on_is_told_so() {
        let bad = Box::new(Fake(Fitness::Unusable));
        let error = choose(EngineChoice::Auto, bad, || kvm(KvmStatus::Missing))
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
