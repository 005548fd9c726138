//! Kernels: the translator leaves what the interpreter leaves, and an engine that does not is found out.

mod wrong;

use donjon_conformance::engines::soft;
use donjon_conformance::generate::Background;
use donjon_conformance::native::crash;
use donjon_conformance::system::machine::Machine;
use donjon_conformance::system::map::{LOG, MOST_EVENTS, RECORD, RECORDS, vector};
use donjon_conformance::system::run::{Options, Source, Summary, run};
use donjon_engine::Engine;
use donjon_engine_soft::Translation;
use donjon_x86::exception::*;
use std::collections::BTreeSet;
use wrong::Wrong;

const MODEL: &str = "x86-64-v3";

fn summary(other: &dyn Engine, seed: u64, cases: u64) -> Summary {
    let interpreter = soft(Translation::Never);
    let engines: [(String, &dyn Engine); 2] = [("first".into(), &interpreter), ("other".into(), other)];
    let options = Options {
        seed,
        first: 0,
        cases,
        jobs: 1,
        keep_going: false,
    };
    run(&engines, MODEL, &options).unwrap()
}

fn agrees(translation: Translation, seed: u64, cases: u64) {
    crash::install();
    let s = summary(&soft(translation), seed, cases);
    assert!(s.passed(), "{}", s.mismatches[0].1);
    assert!(
        s.cases + s.endless == cases && s.events > cases && s.interrupts > 0,
        "{s:?}"
    );
    assert!(s.stopped * 10 < cases, "{s:?}");
}

/// So that a difference is the engine's and not the harness's.
#[test]
fn a_run_repeats() {
    agrees(Translation::Never, 30, 800);
}

#[test]
fn the_translator_runs_kernels() {
    agrees(Translation::Always, 31, 3000);
}

#[test]
fn both_together_run_kernels() {
    agrees(Translation::Hot, 32, 3000);
}

#[test]
fn a_wrong_engine_is_found_out() {
    let wrong = Wrong(|s| s.gpr[9] ^= (s.gpr[9] & 1 == 0) as u64);
    let s = summary(&wrong, 5, 30);
    assert!(!s.passed());
    let (index, report) = &s.mismatches[0];
    assert!(report.contains(&format!("--replay 5:{index} ")), "{report}");
    assert!(report.contains("r9: expected"), "{report}");
    assert!(report.contains(" 0 of ") || report.contains(" 1 of "), "{report}");
}

#[test]
fn nothing_run_is_not_passed() {
    assert!(!summary(&soft(Translation::Never), 1, 0).passed());
}

#[test]
fn kernels_meet_every_kind_of_exception() {
    let source = Source::new(3);
    let mut machine = Machine::new(&soft(Translation::Never), MODEL).unwrap();
    let (mut seen, mut rings) = (BTreeSet::new(), BTreeSet::new());
    for index in 0..400 {
        let job = source.job(index);
        let f = machine.run(&job, &Background::new(3, 0)).unwrap();
        assert!(f.endless() || f.end == "halted", "{}", f.end);
        assert!(f.events() <= MOST_EVENTS as u64 + 1);
        for n in 0..f.events().min(RECORDS) {
            seen.insert(f.word(LOG + n * RECORD + 15 * 8) as u8);
            rings.insert(f.word(LOG + n * RECORD + 18 * 8) & 3);
        }
    }
    for v in [DB, BP, UD, NM, GP, PF, vector::UP, vector::DOWN, vector::CALL] {
        assert!(seen.contains(&v), "no vector {v}: {seen:?}");
    }
    assert_eq!(rings, BTreeSet::from([0, 3]));
}
