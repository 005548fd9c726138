//! A booting Linux: the translator and the interpreter agree after every unit.

use donjon_conformance::lockstep::{Options, Outcome, run};
use donjon_engine_soft::{Lockstep, Translation};
use donjon_host::{images, progress};

fn boots(lockstep: Lockstep, translation: Translation, instructions: u64) -> Outcome {
    let image = images::tiny(&progress::Silent).expect("the built-in image");
    let outcome = run(&Options {
        instructions,
        lockstep,
        translation,
        kernel: image.kernel,
        initrd: Some(image.initrd),
        append: "console=ttyS0 earlyprintk=ttyS0 panic=-1".into(),
        memory: 128 << 20,
        model: "x86-64-v3".into(),
        input: vec![],
        show: false,
    })
    .unwrap();
    assert_eq!(
        outcome.mismatch,
        None,
        "{}",
        outcome.mismatch.as_deref().unwrap_or("")
    );
    assert!(outcome.instructions >= instructions, "{outcome:?}");
    assert!(outcome.console.contains("Linux version"), "{}", outcome.console);
    outcome
}

#[test]
fn a_linux_boots_in_lockstep() {
    let outcome = boots(Lockstep::Units, Translation::Always, 40_000_000);
    let translated = outcome.statistics.translated.unwrap_or(0);
    assert!(translated > outcome.instructions / 10 * 9, "{outcome:?}");
}

#[test]
fn units_that_lead_to_one_another_are_in_lockstep_too() {
    let outcome = boots(Lockstep::Chains, Translation::Hot, 40_000_000);
    let entries = outcome.statistics.translator.entries;
    assert!(entries < outcome.instructions / 100, "{outcome:?}");
}

#[test]
fn hot_code_is_in_lockstep_too() {
    boots(Lockstep::Units, Translation::Hot, 40_000_000);
}
