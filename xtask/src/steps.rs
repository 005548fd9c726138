//! Steps one after the other, with the time each took.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// What was done so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
    notes: Vec<String>,
}

impl Steps {
    /// Does a step and returns whether it succeeded. Those after a failed one are done all the same: one run
    /// shows all that is wrong.
    pub fn step(&mut self, name: &'static str, what: impl FnOnce(&mut Vec<String>) -> Result<()>) -> bool {
        println!("\n── {name}");
        let start = Instant::now();
        let outcome = what(&mut self.notes);
        if let Err(e) = &outcome {
            println!("FAILED: {e:#}");
        }
        self.done.push((name, start.elapsed(), outcome.is_ok()));
        outcome.is_ok()
    }

    /// Prints it all; an error if anything failed.
    pub fn finish(self) -> Result<()> {
        println!("\n── summary");
        for note in &self.notes {
            println!("{note}");
        }
        for (name, time, ok) in &self.done {
            println!(
                "{:<6} {:>8.1} s  {name}",
                if *ok { "ok" } else { "FAILED" },
                time.as_secs_f64()
            );
        }
        let failed: Vec<_> = self.done.iter().filter(|d| !d.2).map(|d| d.0).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
