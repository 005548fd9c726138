//! The probe runs a real guest loop.
use donjon_engine::{Engine, Fitness};
use donjon_engine_soft::SoftEngine;

#[test]
fn the_probe_measures_something() {
    let report = SoftEngine::default().probe();
    let Fitness::Measured { mips } = report.fitness else {
        panic!("{report:?}")
    };
    eprintln!("{}", report.finding);
    assert!(mips > 0.1, "{report:?}");
}
