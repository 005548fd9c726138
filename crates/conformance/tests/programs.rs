//! Blocks and programs: the software CPU agrees with the processor, and an engine that does not is found out.

mod wrong;

use donjon_conformance::engines::soft;
use donjon_conformance::native::crash;
use donjon_conformance::program::run::{Kind, Options, Source, Summary, run};
use donjon_conformance::program::taint::decode;
use donjon_conformance::program::{Layout, Program};
use donjon_engine::Engine;
use donjon_engine_soft::Translation;
use iced_x86::Mnemonic;
use std::collections::BTreeSet;
use wrong::Wrong;

fn summary(engine: &dyn Engine, kind: Kind, seed: u64, cases: u64) -> Summary {
    let options = Options {
        kind,
        seed,
        first: 0,
        cases,
        jobs: 1,
        keep_going: true,
    };
    run(engine, "x86-64-v3", &options).unwrap()
}

fn agrees(translation: Translation, kind: Kind, seed: u64, cases: u64) {
    crash::install();
    let s = summary(&soft(translation), kind, seed, cases);
    assert!(s.passed(), "{} differ\n{}", s.mismatches.len(), s.mismatches[0].1);
    assert_eq!(s.cases, cases);
    assert!(s.faults > cases / 20, "{} faults", s.faults);
}

#[test]
fn the_interpreter_runs_blocks() {
    agrees(Translation::Never, Kind::Blocks, 20, 40_000);
}

#[test]
fn the_translator_runs_blocks() {
    agrees(Translation::Always, Kind::Blocks, 21, 40_000);
}

#[test]
fn the_interpreter_runs_programs() {
    agrees(Translation::Never, Kind::Programs, 22, 1500);
}

#[test]
fn the_translator_runs_programs() {
    agrees(Translation::Always, Kind::Programs, 23, 2500);
}

#[test]
fn both_together_run_programs() {
    agrees(Translation::Hot, Kind::Programs, 24, 2500);
}

#[test]
fn a_wrong_engine_is_found_out_and_the_program_made_small() {
    // An even R9 is wrong: an instruction that leaves it odd is all it takes to tell.
    let wrong = Wrong(|s| s.gpr[9] ^= (s.gpr[9] & 1 == 0) as u64);
    for kind in [Kind::Blocks, Kind::Programs] {
        let s = summary(&wrong, kind, 5, 30);
        assert!(!s.passed());
        let (index, report) = &s.mismatches[0];
        assert!(report.contains(&format!("--replay 5:{index} ")), "{report}");
        assert!(report.contains("r9: expected"), "{report}");
        assert!(report.contains(" 0 of ") || report.contains(" 1 of "), "{report}");
    }
}

#[test]
fn nothing_run_is_not_passed() {
    assert!(!summary(&soft(Translation::Never), Kind::Blocks, 1, 0).passed());
}

fn mnemonics(kind: Kind) -> (BTreeSet<String>, Vec<Program>) {
    let source = Source::new(kind, 3);
    let programs: Vec<Program> = (0..1500).map(|n| source.program(n)).collect();
    let mut seen = BTreeSet::new();
    for p in &programs {
        for i in decode(p, &Layout::of(p)) {
            assert_ne!(i.mnemonic(), Mnemonic::INVALID);
            seen.insert(format!("{:?}", i.mnemonic()));
        }
    }
    (seen, programs)
}

#[test]
fn programs_are_of_what_compilers_emit() {
    let (seen, programs) = mnemonics(Kind::Blocks);
    for m in [
        "Add", "Adc", "Lea", "Push", "Pop", "Pushfq", "Popfq", "Lahf", "Setb", "Cmovae", "Jne", "Idiv",
        "Movsb", "Movaps", "Vaddps", "Fadd", "Cmpxchg", "Call", "Ret", "Ldmxcsr",
    ] {
        assert!(seen.contains(m), "no block has {m}");
    }
    assert!(programs.iter().all(|p| !p.is_empty()));
    let (seen, programs) = mnemonics(Kind::Programs);
    for m in ["Jmp", "Call", "Ret", "Dec", "Inc", "Loop", "Vmulpd", "Ud2", "Div"] {
        assert!(seen.contains(m), "no program has {m}");
    }
    let longest = programs.iter().map(|p| Layout::of(p).bytes.len()).max();
    assert!(longest.is_some_and(|n| (1000..0xd00).contains(&n)), "{longest:?}");
}
