//! One program again.

use super::listing::{listing, report};
use super::run::{Kind, Pair, Source};
use crate::compare::end_name;
use donjon_engine::Engine;
use std::time::Duration;

/// Runs program `index` of `seed` and prints it. True if both agree.
pub fn replay(engine: &dyn Engine, model: &str, kind: Kind, seed: u64, index: u64) -> Result<bool, String> {
    let program = Source::new(kind, seed).program(index);
    println!("{}", listing(&program));
    let mut pair = Pair::new(engine, model, seed)?;
    let verdict = pair
        .run(std::slice::from_ref(&program), Duration::from_secs(5))?
        .remove(0);
    let Some(v) = verdict else {
        return Err("the processor does not come to its end".into());
    };
    println!(
        "processor: {} at {:#x}",
        end_name(&v.expected.end),
        v.expected.after.rip
    );
    if v.differences.is_empty() {
        println!("both agree");
        return Ok(true);
    }
    println!(
        "{}",
        report(seed, &program, program.len(), &v.expected, &v.differences)
    );
    if let (small, Some(less)) = pair.reduced(&program) {
        println!(
            "{}",
            report(seed, &small, program.len(), &less.expected, &less.differences)
        );
    }
    Ok(false)
}
