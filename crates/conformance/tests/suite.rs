//! The suite as a whole: an engine that is right passes, one that is wrong does not.

mod wrong;

use donjon_conformance::case::Mode;
use donjon_conformance::compare::compare;
use donjon_conformance::engines::soft;
use donjon_conformance::forms::{self, Form};
use donjon_conformance::generate::Generator;
use donjon_conformance::native::NativeRunner;
use donjon_conformance::outcome::{End, Outcome};
use donjon_conformance::suite::{self, Options};
use donjon_engine_soft::Translation;
use wrong::{Mistake, Wrong};

const MODEL: &str = "x86-64-v3";

fn all_forms() -> Vec<Form> {
    Mode::ALL.iter().flat_map(|&m| forms::all(m)).collect()
}

fn options(cases: u64, pattern: Option<&str>) -> Options {
    Options {
        seed: 20,
        cases,
        jobs: 1,
        pattern: pattern.map(str::to_string),
        skip: Vec::new(),
        keep_going: true,
        reports: 1,
    }
}

/// Half of the cases each: of every form, for either engine, other ones.
#[test]
fn the_interpreter_agrees_with_the_processor() {
    agrees(Translation::Never, 20);
}

#[test]
fn the_translator_agrees_with_the_processor() {
    agrees(Translation::Always, 21);
}

fn agrees(translation: Translation, seed: u64) {
    let forms = all_forms();
    let cases = forms.len() as u64 * 5;
    let options = Options {
        seed,
        ..options(cases, None)
    };
    let s = suite::run(&soft(translation), MODEL, &forms, &options).unwrap();
    let reports: String = s
        .groups
        .iter()
        .map(|(l, g)| format!("{l}\n{}", g.reports[0].text))
        .collect();
    assert!(
        s.passed(),
        "{} forms differ, {} have no case\n{reports}",
        s.groups.len(),
        s.gaps.len()
    );
    assert_eq!(s.cases, cases);
    let named = forms.iter().filter(|f| f.named.is_some()).count();
    assert_eq!(s.coverage.covered + named, s.coverage.implemented);
}

#[test]
fn a_wrong_engine_is_found_out() {
    let mistakes: [(&str, Mistake); 6] = [
        ("one bit of R9", |s| s.gpr[9] ^= 1),
        ("the stack pointer", |s| s.gpr[4] = s.gpr[4].wrapping_sub(8)),
        ("a sticky flag of MXCSR", |s| s.mxcsr ^= 1),
        ("the top of the x87 stack", |s| s.fpu.status ^= 0x800),
        ("the upper half of YMM15", |s| s.ymm[15][3] ^= 1 << 63),
        ("the base of GS", |s| s.segments[5].base ^= 0x1000),
    ];
    for (what, mistake) in mistakes {
        let s = suite::run(
            &Wrong(mistake),
            MODEL,
            &all_forms(),
            &options(50, Some("add_r64_rm64@64")),
        )
        .unwrap();
        let found: u64 = s.groups.values().map(|g| g.count).sum();
        assert_eq!(found, s.cases, "{what}");
        assert!(!s.passed());
    }
}

#[test]
fn every_part_of_an_outcome_counts() {
    let generator = Generator::new(3, &all_forms());
    let background = generator.background(0);
    let mut native = NativeRunner::new().unwrap();
    native.set_background(&background.scratch, &background.read_only);
    let cases: Vec<_> = (0..500).map(|i| generator.case(i)).collect();
    type Change = (&'static str, fn(&mut Outcome));
    let changes: [Change; 7] = [
        ("rip", |o| o.after.rip ^= 0x10),
        ("the direction flag", |o| o.after.rflags ^= 1 << 10),
        ("r15", |o| o.after.gpr[15] ^= 1 << 63),
        ("the x87 control word", |o| o.after.fpu.control ^= 1),
        ("ymm", |o| o.after.ymm.iter_mut().for_each(|y| y[2] ^= 1)),
        ("cs", |o| o.after.selectors[1] ^= 8),
        ("the vector", |o| {
            o.end = match &o.end {
                End::Completed => End::Hung,
                _ => End::Completed,
            }
        }),
    ];
    for (case, outcome) in cases.iter().zip(native.run(&cases).unwrap()) {
        let outcome = outcome.unwrap();
        assert_eq!(compare(case, &background.scratch, &outcome, &outcome), []);
        for (what, change) in changes {
            // INT1's RIP is the one exception.
            if what == "rip" && case.code == iced_x86::Code::Int1 {
                continue;
            }
            let mut wrong = outcome.clone();
            change(&mut wrong);
            assert!(
                !compare(case, &background.scratch, &outcome, &wrong).is_empty(),
                "{what} of {:?}",
                case.code
            );
        }
    }
}

#[test]
fn a_run_repeats() {
    let forms = all_forms();
    let run = |jobs| {
        let wrong = Wrong(|s| s.gpr[0] ^= (s.gpr[1] & 1) << 5);
        let o = Options {
            jobs,
            ..options(3000, Some("xor_rm32"))
        };
        let s = suite::run(&wrong, MODEL, &forms, &o).unwrap();
        s.groups
            .into_iter()
            .map(|(l, g)| (l, g.count, g.reports))
            .collect::<Vec<_>>()
    };
    let once = run(1);
    assert!(!once.is_empty());
    assert_eq!(once, run(2));
}
