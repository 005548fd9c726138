//! Development tasks: `cargo xtask test`, `cargo xtask fuzz`, `cargo xtask bench`, `cargo xtask lab`.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod fuzz;
mod lab;
mod libraries;
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
    /// Run a command on a machine with hardware virtualization that is emulated by QEMU; its exit code is this one's.
    Lab(lab::Args),
    /// What runs in the lab.
    #[command(hide = true)]
    LabInit(lab::init::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::test(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Bench { what } => bench::bench(&what),
        Task::Lab(args) => match lab::lab(&args) {
            Ok(code) => return code.into(),
            Err(e) => Err(e),
        },
        Task::LabInit(args) => lab::init::init(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
