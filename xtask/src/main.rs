//! Development tasks: `cargo xtask test`, `cargo xtask fuzz`, `cargo xtask bench`.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod fuzz;
mod nextest;
mod portable;
mod prerequisites;
mod steps;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// donjon's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, then run every check and every test.
    Test(test::Args),
    /// Fuzz one target, or each in turn.
    Fuzz(fuzz::Args),
    /// Measure against other hypervisors.
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::test(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Bench { what } => bench::bench(&what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
