//! `donjon run`, and the process that runs a domain.

use crate::cli::{self, RunArgs, exit};
use crate::devices::Board;
use crate::engine::Current;
use crate::failure::Failure;
use crate::log::Log;
use crate::{background, control, figures, guest, host_memory, record};
use anyhow::{Context, anyhow};
use donjon_agent_client::ExitWatch;
use donjon_agent_client::protocol::exit::Report as ExitReport;
use donjon_block::Format;
use donjon_control::{Claim, Info, Name, Server};
use donjon_engine::{Clock, Limits};
use donjon_host::domains::{Boot, Domain, DomainError, DomainRecord, Domains, SetUp};
use donjon_host::engines::{self, EngineChoice, Wanted};
use donjon_host::perf_map::PerfMap;
use donjon_host::seed;
use donjon_host::store::Store;
use donjon_machine::MachineSpec;
use donjon_machine::boot::{BootError, BootSource};
use donjon_memory::Backing;
use donjon_net::{Connection, NetSpec};
use donjon_vmm::devices::{DiskSpec, Share, VsockSpec};
use donjon_vmm::{ConsoleConfig, DomainSpec, Handle, Meter, Outcome, Report, StartError, VcpuStats};
use donjon_x86::cpuid::CpuModel;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A domain that is to run, and how this process does it.
struct Plan<'a> {
    record: &'a DomainRecord,
    /// Where it is kept, if it outlives its process.
    domain: Option<&'a Domain>,
    /// Its name, claimed; there may be no place for names.
    claim: Option<Claim>,
    console: ConsoleConfig,
    /// Whether the console is whatever started this process.
    terminal: bool,
    stats: bool,
    trace: bool,
}

/// Runs a domain to its end, or starts it in the background; the command's exit code.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    cli::check(args);
    let record = record::of(args)?;
    check_memory(record.memory, record.preallocate)?;
    // A domain with a disk of its own outlives its process.
    if record.image_id.is_some() || args.detach {
        let domain = create(args, &record)?;
        if args.detach {
            return background::start(&domain).inspect_err(|_| discard(&domain));
        }
        let claim = domain
            .name
            .parse()
            .map_err(Failure::from)
            .and_then(|n| Ok(claim(&n)?));
        let claim = claim.inspect_err(|_| discard(&domain))?;
        return foreground(args, &domain.record, Some(&domain), Some(claim));
    }
    let claim = control::claim(args.name.as_ref(), &usual_name(&record))?;
    foreground(args, &record, None, claim)
}

/// Runs a domain of the store in this process, which is its own: `donjon vmm`.
pub fn vmm(name: &Name) -> Result<u8, Failure> {
    // The terminal that it was started from is none of its business; there is none if it leads a session already.
    let _ = rustix::process::setsid();
    let domain = Domains::of(&Store::of_user()?).get(name.as_str())?;
    let claim = claim(name)?;
    let log = Log::open(&domain.log())?;
    execute(Plan {
        record: &domain.record,
        domain: Some(&domain),
        claim: Some(claim),
        console: ConsoleConfig {
            input: None,
            output: Box::new(log),
        },
        terminal: false,
        stats: false,
        trace: false,
    })
}

fn foreground(
    args: &RunArgs,
    record: &DomainRecord,
    domain: Option<&Domain>,
    claim: Option<Claim>,
) -> Result<u8, Failure> {
    execute(Plan {
        record,
        domain,
        claim,
        console: ConsoleConfig::stdio().context("cannot use standard input and output")?,
        terminal: true,
        stats: args.stats,
        trace: args.trace,
    })
}

fn claim(name: &Name) -> Result<Claim, donjon_control::RunError> {
    control::run_directory()?.claim(name)
}

/// Makes the domain with a name that is free.
fn create(args: &RunArgs, record: &DomainRecord) -> Result<Domain, Failure> {
    let domains = Domains::of(&Store::of_user()?);
    if let Some(name) = &args.name {
        return Ok(domains.create(name.as_str(), record, args.disk_size)?);
    }
    let usual = usual_name(record);
    let running = control::run_directory()?.running()?;
    for number in 1..10_000 {
        let name = control::numbered(&usual, number);
        if running.iter().any(|n| n.as_str() == name) {
            continue;
        }
        match domains.create(&name, record, args.disk_size) {
            Err(DomainError::Taken(_)) => {}
            other => return Ok(other?),
        }
    }
    Err(anyhow!("there are ten thousand domains called {usual}; give this one a --name").into())
}

/// What could not be started is not kept.
fn discard(domain: &Domain) {
    if let Ok(store) = Store::of_user() {
        let _ = Domains::of(&store).remove(&domain.name);
    }
}

/// Runs it to its end.
fn execute(plan: Plan<'_>) -> Result<u8, Failure> {
    let Plan {
        record,
        domain,
        claim,
        console,
        terminal,
        stats,
        trace,
    } = plan;
    let name = claim.as_ref().map_or_else(String::new, |c| c.name().to_string());
    let disk = domain.and_then(Domain::disk);
    // The files first: they fail faster than anything else.
    let boot = guest::boot_source(&name, record, disk.as_deref(), terminal)?;
    let board = Arc::new(board(record, domain, claim.as_ref())?);
    let exit = exit_watch(record, claim.as_ref())?;
    let virtio_console = record.virtio_console.then(|| board.add_console()).transpose()?;
    let trace = trace.then(PerfMap::of_this_process).transpose()?;
    let trace = trace.map(Arc::new);
    let engine: EngineChoice = record
        .engine
        .parse()
        .map_err(|_| guest::unknown("engine", &record.engine))?;
    let wanted = Wanted {
        engine,
        arena: usize::try_from(record.translation_arena).ok(),
        count: record.count_instructions,
        trace: trace.clone().map(|t| t as _),
    };
    let selected = engines::select(&wanted)?;
    tracing::info!(
        engine = selected.engine.name(),
        why = selected.why,
        "engine chosen"
    );
    let handle = Arc::new(Handle::default());
    let spec = DomainSpec {
        machine: machine(record, &selected.limits)?,
        boot,
        boot_again: boot_again(name, record, disk),
        no_reboot: record.no_reboot,
        devices: board.devices.clone(),
        console: virtio_console,
        handle: handle.clone(),
    };
    let meter = Arc::new(Meter::new(record.cpus));
    let current = Current::new(handle, wanted, selected.engine.name());
    let server = claim.map(|claim| control::serve(claim, info(record), &meter, &board, current));
    let server = server.transpose()?;
    let report = donjon_vmm::run(&spec, selected.engine, console, &meter).map_err(start_failure);
    let exit = exit.map(ExitReports::last);
    // Who sees that the name is free finds the disks closed.
    let claim = server.map(Server::end);
    board.devices.close();
    if let Some(domain) = domain.filter(|_| record.remove) {
        Domains::of(&Store::of_user()?).remove(&domain.name)?;
    }
    drop(claim);
    let report = report?;
    if let Some(domain) = domain.filter(|_| terminal && !record.remove && std::io::stderr().is_terminal()) {
        let name = &domain.name;
        eprintln!("donjon: {name} and its disk are kept: donjon start {name}, or donjon rm {name}");
    }
    if stats {
        print_stats(&report);
    }
    if let Some(trace) = trace {
        trace.finish()?;
        eprintln!(
            "donjon: names of translated code are in {}",
            trace.path().display()
        );
    }
    match (report.outcome, exit) {
        (Outcome::PoweredOff, Some(Some(ExitReport::Exited(exit)))) => Ok(exit.code()),
        (Outcome::PoweredOff, Some(Some(ExitReport::Failed(why)))) => {
            Err(Failure::from(anyhow!("the image's program did not start: {why}"))
                .with_code(exit::NO_PROGRAM))
        }
        (outcome, _) => conclude(outcome),
    }
}

/// The machine, as far as this host has it: a domain that runs on hardware has what that hardware has.
fn machine(record: &DomainRecord, limits: &Limits) -> Result<MachineSpec, Failure> {
    let model = CpuModel::named(&record.cpu_model);
    let mut model = model.with_context(|| format!("no CPU model is called {}", record.cpu_model))?;
    if let Some(features) = &limits.features {
        model = model.within(features).map_err(|e| {
            Failure::with_hint(
                e,
                "take a lesser one: --cpu-model x86-64-v2, or use --engine soft",
            )
        })?;
    }
    Ok(MachineSpec {
        cpus: record.cpus,
        memory: record.memory,
        backing: Backing {
            huge_pages: record.huge_pages,
            preallocate: record.preallocate,
        },
        model: Arc::new(model),
        tsc_hz: limits.tsc_hz.unwrap_or(Clock::DEFAULT_HZ),
    })
}

/// A guest may have installed another kernel on its disk. If that cannot be used, the one it had is.
fn boot_again(
    name: String,
    record: &DomainRecord,
    disk: Option<PathBuf>,
) -> Option<Box<dyn Fn() -> Option<BootSource> + Send + Sync>> {
    let record = (record.boot == Boot::Disk).then(|| record.clone())?;
    Some(Box::new(move || {
        let found = guest::boot_source(&name, &record, disk.as_deref(), false);
        found
            .map_err(|e| tracing::warn!("the system on the disk cannot be read: {}", e.message()))
            .ok()
    }))
}

/// What a domain is called if the user says nothing.
fn usual_name(record: &DomainRecord) -> String {
    if let Boot::Kernel { .. } = record.boot {
        return format!("domain-{}", std::process::id());
    }
    // `docker://host:5000/some/web:1.2` is a `web`.
    let name = record.image.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let name = name
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .split(':')
        .next()
        .unwrap_or_default();
    let short: String = name.chars().take(Name::MAX - 6).collect();
    match short.parse::<Name>() {
        Ok(name) => name.to_string(),
        Err(_) => "domain".into(),
    }
}

fn info(record: &DomainRecord) -> Info {
    let nets = record.nets.iter().filter_map(|n| n.parse::<NetSpec>().ok());
    let ports = nets.flat_map(|net| match net.connection {
        Connection::User(user) => user.forward,
        _ => vec![],
    });
    Info {
        pid: std::process::id(),
        cpus: record.cpus,
        memory: record.memory,
        image: record.image.clone(),
        ports: ports.map(|p| p.to_string()).collect(),
        ..Info::default()
    }
}

/// The domain's devices.
fn board(record: &DomainRecord, domain: Option<&Domain>, claim: Option<&Claim>) -> Result<Board, Failure> {
    let switches = control::run_directory().ok().map(|d| d.switches());
    let board = Board::new(record.cpus, record.memory, switches)?;
    // The image's disk comes first: guests look for their system there.
    if let Some(path) = domain.and_then(Domain::disk) {
        let spec = DiskSpec {
            path,
            format: Some(Format::Qcow2),
            name: Some("root".into()),
            ..DiskSpec::default()
        };
        board.add_disk(&spec)?;
    }
    if let Some(domain) = domain {
        let path = domain.file("seed.img");
        // Once made, it stays: the user's file may go.
        let user_data = match (&record.set_up, &record.user) {
            _ if path.exists() => None,
            (SetUp::UserData(file), _) => Some(seed::read(file)?),
            (SetUp::CloudInit, Some(user)) => Some(seed::user_data(user)),
            _ => None,
        };
        if let Some(user_data) = user_data {
            seed::write(&path, &user_data, &domain.name)?;
        }
        if path.exists() {
            board.add_disk(&DiskSpec {
                path,
                format: Some(Format::Raw),
                read_only: true,
                name: Some("seed".into()),
                ..DiskSpec::default()
            })?;
        }
    }
    for disk in &record.disks {
        board.add_disk(&disk.parse()?)?;
    }
    for pmem in &record.pmems {
        board.add_pmem(&pmem.parse()?)?;
    }
    for share in &record.shares {
        board.add_fs(&share.parse::<Share>()?.device())?;
    }
    for share in &record.file_systems {
        board.add_fs(&share.parse()?)?;
    }
    for net in &record.nets {
        board.add_net(&net.parse()?)?;
    }
    match (&record.vsock, claim) {
        (Some(vsock), claim) => {
            let spec: VsockSpec = vsock.parse()?;
            board.add_vsock(&spec)?;
            if let (Some(claim), Ok(path)) = (claim, std::path::absolute(&spec.path)) {
                // So that the agent is found there.
                let _ = std::os::unix::fs::symlink(path, claim.vsock());
            }
        }
        (None, Some(claim)) if has_agent(record) => {
            let spec = VsockSpec {
                path: claim.vsock(),
                cid: AGENT_CID,
            };
            board.add_vsock(&spec)?;
        }
        _ => {}
    }
    Ok(board)
}

/// The address of a guest that has not been given one: none of the others can see it.
const AGENT_CID: u64 = 3;

fn has_agent(record: &DomainRecord) -> bool {
    matches!(record.boot, Boot::Disk | Boot::Container(_))
}

/// Hears how a container's program ends.
fn exit_watch(record: &DomainRecord, claim: Option<&Claim>) -> Result<Option<ExitReports>, Failure> {
    let (Boot::Container(_), Some(claim)) = (&record.boot, claim) else {
        return Ok(None);
    };
    let vsock = match &record.vsock {
        Some(vsock) => vsock.parse::<VsockSpec>()?.path,
        None => claim.vsock(),
    };
    let watch = ExitWatch::new(&vsock).context("cannot listen for the program's end")?;
    Ok(Some(ExitReports::start(watch)?))
}

/// What the guest says of its program's end. Somebody listens all the time: the guest waits until it is heard.
struct ExitReports {
    reports: Receiver<ExitReport>,
}

impl ExitReports {
    /// How long a report may be under way that the guest knows to have been heard.
    const UNDER_WAY: Duration = Duration::from_millis(200);

    fn start(watch: ExitWatch) -> Result<Self, Failure> {
        let (sender, reports) = channel();
        let listen = move || {
            // Any program of the guest's can say so; the last word is that of its first process.
            while let Ok(Some(report)) = watch.wait(Duration::MAX) {
                if sender.send(report).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("exit".into()).spawn(listen);
        thread.context("cannot start a thread")?;
        Ok(Self { reports })
    }

    fn last(self) -> Option<ExitReport> {
        let first = self.reports.recv_timeout(Self::UNDER_WAY).ok()?;
        Some(self.reports.try_iter().last().unwrap_or(first))
    }
}

fn check_memory(wanted: u64, at_once: bool) -> Result<(), Failure> {
    let (total, available) = (host_memory::total(), host_memory::available());
    let refuse = |what: String, less: u64| {
        let error = anyhow!("--memory {}M is more than {what}", wanted >> 20);
        let hint = format!("give the domain less: --memory {}M", (less / 2) >> 20);
        Err(Failure::with_hint(error, hint))
    };
    match (total, available) {
        (Some(total), _) if wanted > total => refuse(format!("this host's {}M", total >> 20), total),
        // The host would end programs, this one perhaps, rather than refuse it.
        (_, Some(available)) if at_once && wanted > available => refuse(
            format!("the {}M that this host can give at once", available >> 20),
            available,
        ),
        _ => Ok(()),
    }
}

pub fn boot_failure(error: BootError) -> Failure {
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
