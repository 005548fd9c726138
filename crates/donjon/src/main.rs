//! donjon: runs unmodified operating systems in virtual machines ("domains"). This is its command line; the
//! work is done by the crates below it.
#![forbid(unsafe_code)]

mod background;
mod cli;
mod control;
mod device;
mod devices;
mod disk;
mod doctor;
mod engine;
mod exec;
mod failure;
mod figures;
mod guest;
mod host_memory;
mod image;
mod log;
mod ps;
mod record;
mod run;
mod size;
mod stats;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Ps { all, format } => ps::ps(all, format),
        Command::Start { names } => background::start_again(&names),
        Command::Stop { names, time, force } => background::stop(&names, Duration::from_secs(time), force),
        Command::Rm { names, force } => background::remove(&names, force),
        Command::Logs { name, follow } => background::logs(&name, follow),
        Command::Exec(args) => exec::exec(&args),
        Command::Cp {
            from,
            to,
            follow_link,
            archive,
        } => exec::copy(&from, &to, follow_link, archive),
        Command::Vmm { name } => run::vmm(&name),
        Command::Disk(command) => disk::disk(&command),
        Command::Image(command) => image::image(&command),
        Command::Device(command) => device::device(&command),
        Command::Engine { name, engine } => engine::engine(&name, engine),
        Command::Doctor => doctor::doctor(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

/// Diagnostics on standard error, as much as RUST_LOG asks for; none by default.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
