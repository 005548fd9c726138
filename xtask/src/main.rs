//! Development tasks: `cargo xtask test`, `cargo xtask fuzz`, `cargo xtask bench boot`.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod fuzz;
mod nextest;
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
        what: Bench,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Time to the guest's first line in user space, and to power-off, for donjon and for QEMU's TCG.
    Boot(bench::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::test(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Bench {
            what: Bench::Boot(args),
        } => bench::boot(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
