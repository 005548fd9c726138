//! What `donjon doctor` says: which engine would run, why, how to get a faster one, and whether this host has
//! what donjon needs.

mod facts;

use crate::cache::Cache;
use crate::engines::{EngineSelectError, Wanted, software};
use donjon_engine::{Engine, Fitness, ProbeReport};
use donjon_engine_kvm::KvmReport;
use facts::Facts;
use std::fmt;
use std::path::Path;

/// Memory below which a domain of the default size is tight, MiB.
const LOW_MEMORY: u64 = 768;
/// Disk space that a first `donjon run` takes, MiB.
const CACHE_SPACE: u64 = 160;

/// The report.
#[derive(Clone, PartialEq, Debug)]
pub struct Doctor {
    /// The engine that `--engine auto` takes, or why there is none.
    pub engine: Result<&'static str, EngineSelectError>,
    /// Why that one: a sentence without full stop.
    pub why: String,
    /// What to do to get a faster one.
    pub faster: Vec<String>,
    /// What each engine says of itself.
    pub engines: Vec<ProbeReport>,
    /// Other things that were looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub finding: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// As it should be.
    Good,
    /// donjon works, with a limit.
    Limited,
    /// donjon does not work.
    Bad,
}

/// Examines this host, for a fraction of a second.
pub fn doctor() -> Doctor {
    examine(Cache::of_user().ok())
}

fn examine(user_cache: Option<Cache>) -> Doctor {
    let facts = Facts::read();
    let checks = vec![
        processor(&facts),
        memory(&facts),
        cache(user_cache),
        apt(facts.apt.as_deref()),
    ];
    Doctor {
        checks,
        ..engines(software(&Wanted::default()).as_ref(), donjon_engine_kvm::probe())
    }
}

impl Doctor {
    /// Whether `donjon run` can work on this host.
    pub fn is_healthy(&self) -> bool {
        self.engine.is_ok() && self.checks.iter().all(|c| c.state != State::Bad)
    }
}

/// The part of the report that is about engines.
fn engines(soft: &dyn Engine, kvm: KvmReport) -> Doctor {
    let soft = soft.probe();
    let engine = match (kvm.is_fast(), soft.fitness) {
        (true, _) => Ok(donjon_engine_kvm::NAME),
        (false, Fitness::Measured { .. }) => Ok(soft.engine),
        (false, Fitness::Unusable) => Err(EngineSelectError::SoftUnusable {
            finding: soft.finding.clone(),
            advice: soft.advice.join("; "),
        }),
    };
    Doctor {
        engine,
        why: kvm.finding(),
        faster: kvm.advice.clone(),
        engines: vec![soft, kvm.into()],
        checks: vec![],
    }
}

fn processor(facts: &Facts) -> Check {
    let cores = match facts.cores {
        1 => "1 core".to_owned(),
        n => format!("{n} cores"),
    };
    let finding = format!(
        "{} ({}), {cores} for this process",
        facts.cpu_model, facts.cpu_vendor
    );
    Check {
        name: "processor",
        state: State::Good,
        finding,
        advice: None,
    }
}

fn memory(facts: &Facts) -> Check {
    let Some((total, available)) = facts.memory_mib else {
        let finding = "cannot be read from /proc/meminfo".to_owned();
        let advice = Some("mount it: `sudo mount -t proc proc /proc`".to_owned());
        return Check {
            name: "memory",
            state: State::Limited,
            finding,
            advice,
        };
    };
    let low = available < LOW_MEMORY;
    Check {
        name: "memory",
        state: if low { State::Limited } else { State::Good },
        finding: format!("{available} MiB available of {total} MiB"),
        advice: low.then(|| {
            "give domains less than the default 512 MiB, for example `donjon run --memory 256M`".into()
        }),
    }
}

fn cache(cache: Option<Cache>) -> Check {
    let check = |state, finding: String, advice: Option<String>| Check {
        name: "cache",
        state,
        finding,
        advice,
    };
    let elsewhere = || Some("`export XDG_CACHE_HOME=/a/directory/you/can/write`".to_owned());
    let Some(cache) = cache else {
        let finding = "no place for it: neither XDG_CACHE_HOME nor HOME is an absolute path".to_owned();
        return check(State::Bad, finding, elsewhere());
    };
    let root = cache.root().display();
    let written = cache.create().map_err(|e| e.to_string()).and_then(|()| {
        let file = tempfile::NamedTempFile::new_in(cache.root());
        file.map(drop)
            .map_err(|e| format!("{root} cannot be written: {e}"))
    });
    if let Err(what) = written {
        return check(State::Bad, what, elsewhere());
    }
    match crate::cache::free_space(cache.root()) {
        Ok(free) if free >> 20 >= CACHE_SPACE => check(
            State::Good,
            format!("{root} can be written, {} MiB free", free >> 20),
            None,
        ),
        Ok(free) => check(
            State::Limited,
            format!(
                "{root} has {} MiB free, a first run takes {CACHE_SPACE}",
                free >> 20
            ),
            elsewhere(),
        ),
        Err(e) => check(
            State::Limited,
            format!("the free space in {root} is unknown: {e}"),
            None,
        ),
    }
}

fn apt(program: Option<&Path>) -> Check {
    match program {
        Some(path) => Check {
            name: "apt",
            state: State::Good,
            finding: path.display().to_string(),
            advice: None,
        },
        None => Check {
            name: "apt",
            state: State::Limited,
            finding: "there is no apt-get, from whose packages the image tiny is made".into(),
            advice: Some("boot a kernel of your own: `donjon run --kernel FILE --initrd FILE`".into()),
        },
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Ok(name) => writeln!(f, "engine: {name}\n  {:<10} {}", "why", self.why)?,
            Err(e) => writeln!(f, "engine: none\n  {:<10} {e}", "why")?,
        }
        for advice in &self.faster {
            writeln!(f, "  {:<10} {advice}", "faster")?;
        }
        writeln!(f, "\nthis host:")?;
        for report in &self.engines {
            writeln!(f, "  {:<10} {}", report.engine, report.finding)?;
        }
        for check in &self.checks {
            let mark = match check.state {
                State::Good => "",
                State::Limited => "limited: ",
                State::Bad => "FAILS: ",
            };
            writeln!(f, "  {:<10} {mark}{}", check.name, check.finding)?;
            if let Some(advice) = &check.advice {
                writeln!(f, "  {:<10} to fix it: {advice}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::tests::{Fake, kvm};
    use donjon_engine_kvm::KvmStatus;

    fn report(status: KvmStatus, checks: Vec<Check>) -> Doctor {
        let soft = Fake(Fitness::Measured { mips: 70.0 }, "soft");
        Doctor {
            checks,
            ..engines(&soft, kvm(status))
        }
    }

    #[test]
    fn a_weak_kvm_is_explained() {
        let doctor = report(
            KvmStatus::Measured {
                ring0_mips: 1.84,
                exit_us: 25.0,
            },
            vec![],
        );
        let text = doctor.to_string();
        assert!(
            text.starts_with("engine: soft\n  why        /dev/kvm runs ring 0 at only 1.8 million"),
            "{text}"
        );
        assert!(text.contains("  faster     do that\n"), "{text}");
        assert!(doctor.is_healthy());
    }

    #[test]
    fn a_fast_kvm_is_taken() {
        let fast = KvmReport {
            status: KvmStatus::Measured {
                ring0_mips: 2900.0,
                exit_us: 1.0,
            },
            advice: vec![],
        };
        let soft = Fake(Fitness::Measured { mips: 70.0 }, "soft");
        let text = engines(&soft, fast).to_string();
        assert!(
            text.starts_with("engine: kvm\n  why        /dev/kvm runs ring 0 at 2900 million"),
            "{text}"
        );
        assert!(!text.contains("faster"), "{text}");
    }

    #[test]
    fn what_fails_comes_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let checks = vec![
            cache(Some(Cache::at(dir.path().join("file/below")))),
            cache(None),
            cache(Some(Cache::at(dir.path().join("new")))),
            apt(None),
            memory(&Facts {
                memory_mib: Some((1000, 300)),
                ..Facts::default()
            }),
            memory(&Facts::default()),
        ];
        let states: Vec<_> = checks.iter().map(|c| c.state).collect();
        assert_eq!(states[..2], [State::Bad; 2]);
        assert_eq!(states[3..], [State::Limited; 3]);
        assert!(
            checks
                .iter()
                .all(|c| c.state == State::Good || c.advice.is_some())
        );
        let doctor = report(KvmStatus::Missing, checks);
        assert!(!doctor.is_healthy());
        let text = doctor.to_string();
        assert!(
            text.contains("FAILS: ") && text.contains("to fix it: `export XDG_CACHE_HOME="),
            "{text}"
        );
    }

    #[test]
    fn this_host_is_examined() {
        let dir = tempfile::tempdir().unwrap();
        let doctor = examine(Some(Cache::at(dir.path())));
        println!("{doctor}");
        assert_eq!(doctor.engines.len(), 2);
        assert_eq!(doctor.checks.len(), 4);
    }
}
