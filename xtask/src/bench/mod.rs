//! `cargo xtask bench`: donjon beside QEMU's TCG, on the same kernel and initramfs, in one run. Nothing is
//! asserted about times: machines differ.

mod boot;
mod c;
mod compare;
mod cpu;
mod debian;
mod guest;
mod io;
pub mod newc;
mod report;
mod rows;
mod statistics;
mod watch;

use anyhow::Result;
use clap::Subcommand;
pub use watch::tail;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Time to the guest's first line in user space, and to power-off, for donjon and for QEMU's TCG.
    Boot(boot::Args),
    /// Time of fixed pieces of work, on the host itself, in donjon and in QEMU's TCG.
    Cpu(cpu::Args),
    /// Throughput and latency of disks and network interfaces, on the host itself, in donjon and in QEMU with TCG.
    Io(io::Args),
}

/// Measures it.
pub fn bench(what: &Bench) -> Result<()> {
    match what {
        Bench::Boot(args) => boot::boot(args),
        Bench::Cpu(args) => cpu::cpu(args),
        Bench::Io(args) => io::io(args),
    }
}
