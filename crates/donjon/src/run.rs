//! `donjon run`.

use crate::cli::{self, ConsoleChoice, RunArgs, exit};
use crate::devices::Board;
use crate::failure::Failure;
use crate::{control, figures, host_memory};
use anyhow::{Context, anyhow};
use donjon_control::Info;
use donjon_host::engines::{self, Selected, Wanted};
use donjon_host::perf_map::PerfMap;
use donjon_host::{images, progress};
use donjon_machine::MachineSpec;
use donjon_machine::boot::{BootError, BootSource, Image, Role};
use donjon_vmm::{ConsoleConfig, DomainSpec, Meter, Outcome, Report, StartError, VcpuStats};
use donjon_x86::cpuid::CpuModel;
use std::path::Path;
use std::sync::Arc;

/// Runs a domain to its end; the command's exit code.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    cli::check(args);
    check_memory(args.memory)?;
    let model =
        CpuModel::named(&args.cpu_model).with_context(|| format!("no CPU model {}", args.cpu_model))?;
    let machine = MachineSpec {
        cpus: args.cpus,
        memory: args.memory,
        model: Arc::new(model),
    };
    // The files first: they fail faster than anything else.
    let boot = boot_source(args)?;
    let board = Arc::new(board(args)?);
    let virtio_console = match args.console {
        ConsoleChoice::Serial => None,
        ConsoleChoice::Virtio => Some(board.add_console()?),
    };
    let trace = args.trace.then(PerfMap::of_this_process).transpose()?;
    let trace = trace.map(Arc::new);
    let selected = engines::select(&Wanted {
        engine: args.engine,
        arena: usize::try_from(args.translation_arena).ok(),
        count: args.count_instructions,
        trace: trace.clone().map(|t| t as _),
    })?;
    tracing::info!(
        engine = selected.engine.name(),
        why = selected.why,
        "engine chosen"
    );
    let spec = DomainSpec {
        machine,
        boot,
        no_reboot: args.no_reboot,
        devices: board.devices.clone(),
        console: virtio_console,
    };
    let console = ConsoleConfig::stdio().context("cannot use standard input and output")?;
    let meter = Arc::new(Meter::new(args.cpus));
    let server = control::serve(
        args.name.as_ref(),
        &usual_name(args),
        info(args, &selected),
        &meter,
        &board,
    )?;
    let report = donjon_vmm::run(&spec, &*selected.engine, console, &meter).map_err(start_failure)?;
    // A domain that has ended has no name.
    drop(server);
    if args.stats {
        print_stats(&report);
    }
    if let Some(trace) = trace {
        trace.finish()?;
        eprintln!(
            "donjon: names of translated code are in {}",
            trace.path().display()
        );
    }
    conclude(report.outcome)
}

/// What a domain is called if the user says nothing.
fn usual_name(args: &RunArgs) -> String {
    match (&args.kernel, &args.image) {
        (Some(_), _) => format!("domain-{}", std::process::id()),
        (None, Some(image)) => image.clone(),
        (None, None) => "tiny".into(),
    }
}

fn info(args: &RunArgs, selected: &Selected) -> Info {
    Info {
        pid: std::process::id(),
        engine: selected.engine.name().into(),
        cpus: args.cpus,
        memory: args.memory,
        ..Info::default()
    }
}

/// The devices that the command line asks for.
fn board(args: &RunArgs) -> Result<Board, Failure> {
    let switches = control::run_directory().ok().map(|d| d.switches());
    let board = Board::new(args.cpus, args.memory, switches)?;
    for disk in &args.disks {
        board.add_disk(disk)?;
    }
    for pmem in &args.pmems {
        board.add_pmem(pmem)?;
    }
    for fs in &args.shares {
        board.add_fs(fs)?;
    }
    for net in &args.nets {
        board.add_net(net)?;
    }
    if let Some(vsock) = &args.vsock {
        board.add_vsock(vsock)?;
    }
    Ok(board)
}

fn check_memory(wanted: u64) -> Result<(), Failure> {
    match host_memory::total() {
        Some(total) if wanted > total => {
            let error = anyhow!(
                "--memory {}M is more than this host's {}M",
                wanted >> 20,
                total >> 20
            );
            Err(Failure::with_hint(
                error,
                format!("give the domain less: --memory {}M", (total / 2) >> 20),
            ))
        }
        _ => Ok(()),
    }
}

fn boot_source(args: &RunArgs) -> Result<BootSource, Failure> {
    let open = |role, path: &Path| Image::open(role, path).map_err(boot_failure);
    let (kernel, initrd) = match &args.kernel {
        Some(kernel) => {
            let initrd = args
                .initrd
                .as_deref()
                .map(|path| open(Role::Initrd, path))
                .transpose()?;
            (open(Role::Kernel, kernel)?, initrd)
        }
        None => {
            let image = images::tiny(&progress::Console::new())?;
            tracing::info!(version = image.version, "image");
            (
                open(Role::Kernel, &image.kernel)?,
                Some(open(Role::Initrd, &image.initrd)?),
            )
        }
    };
    let command_line = args.append.clone().unwrap_or_else(|| default_command_line(args));
    Ok(BootSource {
        kernel,
        initrd,
        command_line,
    })
}

/// What a kernel is told if the user says nothing. A panic shows its message and stops, as on hardware; with
/// --no-reboot it resets at once, so that scripts do not hang.
fn default_command_line(args: &RunArgs) -> String {
    let mut line = String::from("console=ttyS0");
    if args.console == ConsoleChoice::Virtio {
        line += " console=hvc0";
    }
    if args.kernel.is_none() {
        // The kernel's tests of its own ciphers are for kernel developers, and half of the boot.
        line += " quiet cryptomgr.notests";
    }
    if args.no_reboot {
        line += " panic=-1";
    }
    line
}

fn boot_failure(error: BootError) -> Failure {
    let hint = error.fix();
    Failure::with_hint(error, hint)
}

fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Boot(e) => boot_failure(e),
        e => e.into(),
    }
}

/// The exit code of an outcome, or what to say about it.
fn conclude(outcome: Outcome) -> Result<u8, Failure> {
    match outcome {
        Outcome::PoweredOff => Ok(exit::SUCCESS),
        Outcome::Left => {
            eprintln!("\nLeft the console; the domain has ended.");
            Ok(exit::SUCCESS)
        }
        Outcome::Reset => {
            eprintln!("donjon: the guest reset the machine (--no-reboot)");
            Ok(exit::RESET)
        }
        // The reader has what it wanted, as with `| head`.
        Outcome::ConsoleClosed(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            eprintln!("donjon: nobody reads standard output any more; the domain has ended");
            Ok(exit::SUCCESS)
        }
        Outcome::ConsoleClosed(e) => Err(anyhow!(e).context("cannot write the console's output").into()),
        Outcome::Signal(n) => {
            eprintln!("donjon: signal {n}; the domain has ended");
            Ok(128 + n as u8)
        }
        Outcome::TripleFault(crash) => {
            let hint = crash.fix();
            Err(Failure::with_hint(anyhow!("{crash}"), hint).with_code(exit::TRIPLE_FAULT))
        }
        Outcome::Failed(failure) => {
            let hint = "run it again with RUST_LOG=debug and report the output as a defect of donjon";
            Err(Failure::with_hint(failure, hint))
        }
    }
}

fn print_stats(report: &Report) {
    let vcpus: Vec<_> = report.vcpus.iter().map(figures::report).collect();
    let total = figures::report(&VcpuStats::sum(&report.vcpus));
    eprint!(
        "{}{}",
        figures::lines(&vcpus, &total),
        figures::tables(&vcpus, &total)
    );
    eprintln!("wall: {:.3} s", report.wall.as_secs_f64());
}
