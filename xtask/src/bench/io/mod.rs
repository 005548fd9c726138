//! `cargo xtask bench io`: disks and network interfaces, on the host itself, in donjon and in QEMU with TCG, on the
//! same images, through the same tap interface, through the network in user mode that each has, and in a directory that
//! each shares.

mod host;
mod images;
mod machines;
mod namespace;
mod programs;
mod table;

use super::compare::compare;
use super::guest::{self, COMMAND_LINE, Guest};
use super::rows::{Machine, WORDS, alternate, check_words, words};
use crate::command::target_dir;
use crate::prerequisites::{self, QEMU, QEMU_IMG, need};
use anyhow::{Result, bail};
use donjon_host::images::tiny;
use donjon_host::progress::Console;
use images::{DISKS, Images};
use machines::Aio;
use programs::{INIT, Rows};
use std::path::PathBuf;
use std::process::Command;

/// The environment variable that names what rows are not to look for.
const WITHOUT: &str = "BENCH_WITHOUT";
/// That with the number of disks which the guest waits for.
const DISK_COUNT: &str = "BENCH_DISKS";
/// What the rows on the network are called by.
const NET: &str = "net";
/// And those on the network in user mode.
const USER: &str = "user";
/// And those in a shared directory.
const FS: &str = "fs";
/// The disk whose rows are run on the host too, on the image's file.
const NATIVE: &str = "blk-raw";

/// Its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only rows whose names contain one of these words, separated by commas.
    #[arg(long, value_name = "WORDS", value_parser = words)]
    rows: Option<String>,
    /// Leave QEMU out.
    #[arg(long)]
    no_tcg: bool,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Where images are made, 3 GiB of them [default: io/images beside what cargo builds].
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// How QEMU does its I/O.
    #[arg(long, value_name = "HOW", default_value = "io_uring")]
    aio: Aio,
    /// More arguments for `donjon run`, separated by spaces.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    donjon_args: Option<String>,
    /// This already runs in a network namespace of its own.
    #[arg(long, hide = true)]
    in_namespace: bool,
}

/// Measures, and prints medians and their ratios. An error if any row went wrong anywhere.
pub fn io(args: &Args) -> Result<()> {
    // From in there nothing can be fetched: all that is needed is there already.
    if args.in_namespace {
        namespace::set_up()?;
        return measure(args, true);
    }
    prerequisites::need_c()?;
    need(QEMU_IMG)?;
    if !args.no_tcg {
        need(QEMU)?;
    }
    println!("image: {}", tiny(&Console::new())?.version);
    guest::build_donjon()?;
    if namespace::is_possible()? {
        return namespace::again("--in-namespace");
    }
    println!(
        "left out: the rows of {NET}, which need a network namespace and a tap interface: \
         run this as root, with /dev/net/tun"
    );
    measure(args, false)
}

fn measure(args: &Args, net: bool) -> Result<()> {
    host::start(host::PORT)?;
    let image = tiny(&Console::new())?;
    let directory = target_dir().join("bench/io");
    let rows = Rows::build(&directory)?;
    if let Some(words) = &args.rows {
        check_words(words, &rows.list()?)?;
    }
    let initrd = directory.join("initrd");
    rows.initramfs(&initrd, &image.initrd)?;
    let directory = args.images.clone().map_or_else(
        || Ok(directory.join("images")),
        |given| std::path::absolute(given).map(|d| d.join("donjon-bench-images")),
    )?;
    let images = Images::make(&directory)?;
    println!(
        "the host's page cache has all images; flushes go to {}",
        directory.display()
    );

    let variables = |without: &str| {
        let words = args.rows.iter().map(|w| (WORDS, w.clone()));
        let rest = [
            (WITHOUT, without.to_owned()),
            (DISK_COUNT, DISKS.len().to_string()),
        ];
        words.chain(rest).collect::<Vec<_>>()
    };
    // What the kernel does not know goes into init's environment. Without an init it resets, and that ends it.
    let virtiofsd = machines::virtiofsd();
    if virtiofsd.is_none() && !args.no_tcg {
        println!(
            "left out: the rows of {FS}, which QEMU needs virtiofsd for: sudo apt-get install virtiofsd"
        );
    }
    let fs = virtiofsd.is_some() || args.no_tcg;
    let without = [(!net).then_some(NET), (!fs).then_some(FS), Some("none")];
    let words = variables(&without.into_iter().flatten().collect::<Vec<_>>().join(","))
        .into_iter()
        .map(|(name, value)| format!(" {name}={value}"));
    let words: String = words.collect();
    let guest = Guest {
        kernel: image.kernel,
        initrd,
        command_line: format!("{COMMAND_LINE} panic=-1 rdinit={INIT}{words}"),
        memory: 512,
        cpus: args.cpus,
    };
    let ready = |mut c: Command, add: &dyn Fn(&mut Command)| {
        images.renew()?;
        images.warm()?;
        add(&mut c);
        Ok(c)
    };
    let mut machines = vec![
        Machine::new("donjon", || {
            ready(guest.donjon(), &|c| {
                machines::donjon(c, &images, net);
                c.args(args.donjon_args.iter().flat_map(|a| a.split_whitespace()));
            })
        }),
        Machine::new("native", || {
            ready(rows.command(), &|c| {
                let others = DISKS.iter().map(|d| d.serial).filter(|d| *d != NATIVE);
                let others: Vec<_> = others.chain((!net).then_some(NET)).chain([FS]).collect();
                c.envs(variables(&others.join(",")));
                c.arg(format!("{NATIVE}={}", images.path(NATIVE).display()));
                c.args([format!("{NET}=127.0.0.1"), format!("{USER}=127.0.0.1")]);
            })
        }),
    ];
    if !args.no_tcg {
        machines.push(Machine::new("qemu", || {
            ready(guest.tcg(), &|c| {
                machines::qemu(c, &images, net, args.aio);
                if let Some(virtiofsd) = virtiofsd {
                    *c = machines::with_directory(c, virtiofsd, &images, guest.memory);
                }
            })
        }));
    }
    alternate(&mut machines, args.runs, |_| {})?;
    let reports: Vec<_> = machines.iter().map(Machine::reports).collect();
    let mut compared = compare(&reports);
    // What was left out everywhere.
    compared
        .rows
        .retain(|row| row.values.iter().any(|v| v.is_finite()));
    print!("{}", table::table(&compared.rows, !args.no_tcg));
    for note in &compared.notes {
        println!("{note}");
    }
    if !compared.problems.is_empty() {
        bail!(
            "{} went wrong:\n  {}",
            compared.problems.len(),
            compared.problems.join("\n  ")
        );
    }
    Ok(())
}
