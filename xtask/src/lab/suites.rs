//! Tests that run in the lab: those of crates that need hardware virtualization.

use super::machine::Spec;
use super::processor;
use super::root::{self, Extra, Profile};
use super::session::Lab;
use crate::command::{cargo, shown};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// Tests that run there.
struct Suite {
    package: &'static str,
    /// The test programs, as cargo is told.
    programs: &'static [&'static str],
    /// Variables that they get.
    environment: &'static [&'static str],
    /// Filters and options of libtest.
    options: &'static [&'static str],
}

const SUITES: &[Suite] = &[
    Suite {
        package: "donjon-engine-kvm",
        programs: &[],
        environment: &[],
        options: &[],
    },
    // What is expected of one engine is expected of the other.
    Suite {
        package: "donjon-engine-soft",
        programs: &["--test", "system"],
        environment: &["DONJON_TEST_ENGINE=kvm"],
        options: processor::TESTS,
    },
    // `--engine auto` takes kvm there.
    Suite {
        package: "donjon",
        programs: &["--test", "engines", "--test", "kernels", "--test", "tiny"],
        environment: &[],
        options: &[],
    },
];
/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(1200);
/// What `donjon doctor` says of a KVM that is worth using, up to the speed.
const FAST_KVM: &str = "/dev/kvm runs ring 0 at ";

/// A test program of a package.
struct TestProgram {
    /// Its path in the lab.
    path: String,
    suite: &'static Suite,
}

/// Starts a lab and runs them all; an error if any fails, or there is none.
pub fn test() -> Result<()> {
    super::need_programs()?;
    // Test programs are of that profile, too.
    let profile = Profile::Dev;
    super::build(profile)?;
    let (mut programs, mut files) = (vec![], vec![]);
    for suite in SUITES {
        build(suite, &mut programs, &mut files)?;
    }
    let kernel = root::kernel()?;
    let extra = Extra {
        profile,
        programs: &files,
        ..Extra::default()
    };
    let spec = Spec {
        root: root::disk(&kernel, &extra)?,
        ports: 1 + programs.len(),
        // With two, QEMU now and then loses an interrupt that one sends to the other while that runs a guest.
        cpus: 1,
        ..Spec::of(kernel.kernel)
    };
    let mut lab = Lab::start(&spec, Some(TIMEOUT))?;
    run_all(&mut lab, &programs).map_err(|e| lab.explain(e))
}

fn run_all(lab: &mut Lab, programs: &[TestProgram]) -> Result<()> {
    let (exit, said) = lab.run(&["donjon".into(), "doctor".into()])?;
    if exit.code() != 0 || !has_fast_kvm(&said) {
        bail!("`donjon doctor` finds no KVM in the lab ({exit})");
    }
    let mut failed = vec![];
    let mut passed = std::collections::BTreeMap::<_, u64>::new();
    for program in programs {
        let suite = program.suite;
        println!("\n{} ({})", program.path, suite.package);
        let words = [&["env"], suite.environment, &[&program.path], suite.options].concat();
        let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        let (exit, said) = lab.run(&words)?;
        *passed.entry(suite.package).or_default() += count_passed(&said);
        if exit.code() != 0 {
            failed.push(format!("{} ({exit})", program.path));
        }
    }
    println!();
    for (package, passed) in &passed {
        println!("{package}: {passed} tests passed in the lab");
    }
    if !failed.is_empty() {
        bail!("failed in the lab: {}", failed.join(", "));
    }
    // A suite that collects nothing passes without a sound.
    for Suite { package, .. } in SUITES {
        if passed.get(package).is_none_or(|n| *n == 0) {
            bail!("no tests of {package} ran in the lab");
        }
    }
    Ok(())
}

/// Builds a package's test programs, and the programs that those start.
fn build(
    suite: &'static Suite,
    programs: &mut Vec<TestProgram>,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    let words = ["test", "--no-run", "--quiet", "--package", suite.package];
    let messages = ["--message-format", "json-render-diagnostics"];
    let mut command = cargo(&[&words, suite.programs, &messages].concat());
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{} from: {}", output.status, shown(&command));
    }
    for built in parse(&String::from_utf8_lossy(&output.stdout))? {
        let path = built.executable.to_string_lossy().into_owned();
        // Test programs know the others by their paths on the host.
        files.push((path.clone(), built.executable));
        if built.is_test {
            programs.push(TestProgram { path, suite });
        }
    }
    Ok(())
}

/// A program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    executable: PathBuf,
    is_test: bool,
}

/// What cargo says with `--message-format json`: a message a line, of which those of programs are of use here.
fn parse(messages: &str) -> Result<Vec<Built>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        profile: Option<Profile>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut found = vec![];
    for line in messages.lines() {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("cannot read cargo's message {line:?}"))?;
        if let Some(executable) = message.executable {
            let is_test = message.profile.is_some_and(|p| p.test);
            found.push(Built { executable, is_test });
        }
    }
    Ok(found)
}

/// Tests that passed, from the lines `test result: ok. 3 passed; 0 failed; …` of libtest.
fn count_passed(said: &str) -> u64 {
    let counts = said.lines().filter_map(|line| {
        let rest = line.strip_prefix("test result: ")?;
        let (_, rest) = rest.split_once(". ")?;
        rest.split_once(" passed")?.0.parse::<u64>().ok()
    });
    counts.sum()
}

/// Whether the doctor has found one: its speed follows, and not that it is only so much.
fn has_fast_kvm(said: &str) -> bool {
    said.lines().any(|line| {
        line.trim_start().starts_with("kvm ")
            && line
                .split_once(FAST_KVM)
                .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_other_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/deps/a-1"}
{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/tool"}
{"reason":"build-finished","success":true}
"#;
        let built = |path: &str, is_test| Built {
            executable: path.into(),
            is_test,
        };
        assert_eq!(
            parse(messages).unwrap(),
            [built("/t/deps/a-1", true), built("/t/tool", false)]
        );
        assert!(parse("warning: x\n").is_err());
    }

    #[test]
    fn passed_tests_are_counted() {
        let said = "running 2 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 1 ignored\n\
                    test result: FAILED. 3 passed; 1 failed; 0 ignored\n";
        assert_eq!(count_passed(said), 5);
        assert_eq!(count_passed("running 0 tests\n"), 0);
    }

    #[test]
    fn a_slow_kvm_is_none() {
        let line = |rest: &str| format!("engine: soft\nthis host:\n  kvm        {rest}\n");
        assert!(has_fast_kvm(&line(
            "/dev/kvm runs ring 0 at 1291 million instructions a second"
        )));
        assert!(!has_fast_kvm(&line(
            "/dev/kvm runs ring 0 at only 1.1 million instructions a second"
        )));
        assert!(!has_fast_kvm(&line("there is no /dev/kvm on this host")));
    }
}
