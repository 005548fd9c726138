//! The command line.

use crate::disk::DiskCommand;
use crate::size::{self, Size};
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use donjon_control::Name;
use donjon_host::engines::EngineChoice;
use donjon_machine::MAX_CPUS;
use donjon_net::{Forward, NetSpec};
use donjon_vmm::devices::{DiskSpec, FsSpec, PmemSpec, Share, VsockSpec};
use donjon_x86::cpuid::CpuModel;
use std::path::PathBuf;

/// What the command returns to the shell.
pub mod exit {
    /// The guest powered off, or the user left the console.
    pub const SUCCESS: u8 = 0;
    /// donjon, its files or its host are at fault.
    pub const ERROR: u8 = 1;
    /// The guest reset the machine, with --no-reboot.
    pub const RESET: u8 = 3;
    /// The guest crashed its processor.
    pub const TRIPLE_FAULT: u8 = 4;
    /// The program of a container image could not be started.
    pub const NO_PROGRAM: u8 = 126;
}

const EXIT_CODES: &str = "\
Exit codes of run:
  0    the guest powered off, or the user left the console with ^]
       (a container image: what its program returned)
  1    the domain could not start or go on
  2    the command line is wrong
  3    the guest reset the machine (only with --no-reboot)
  4    the guest crashed with a triple fault
  126  the program of a container image did not start (127: it is not there)
  128+N  signal N ended it

RUST_LOG=debug shows what donjon does, on standard error.";

/// Runs unmodified operating systems in virtual machines.
#[derive(Parser)]
#[command(name = "donjon", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start a domain and connect its serial console to this terminal.
    ///
    /// Without a terminal, standard input is read to its end and given to the guest, and the console goes to
    /// standard output.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Show what a running domain does: busy time, instructions, translated code, TLB, exits.
    Stats(StatsArgs),
    /// List running domains.
    #[command(visible_alias = "list")]
    Ps {
        /// Those that do not run, too.
        #[arg(short, long)]
        all: bool,
        /// As a table, or as JSON on one line.
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
    /// Start domains that have ended, in the background.
    Start {
        /// Their names.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Shut domains down: by the guest's agent, else the power button, and if nothing helps by force.
    #[command(visible_alias = "shutdown")]
    Stop {
        /// Their names, or enough of their beginnings.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Seconds that the guest has for it.
        #[arg(short, long, value_name = "SECONDS", default_value = "60")]
        time: u64,
        /// At once, as if the power failed.
        #[arg(short, long)]
        force: bool,
    },
    /// Remove domains with their disks.
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// End them first.
        #[arg(short, long)]
        force: bool,
    },
    /// Show what a domain that was started with -d has written to its console.
    Logs {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        /// Go on until the domain ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a program in a running guest; its exit code is this command's.
    Exec(ExecArgs),
    /// Copy files between this host and a running guest: FILE NAME:PATH, or NAME:PATH FILE.
    Cp {
        /// What is copied: a file or a directory.
        #[arg(value_name = "FROM")]
        from: String,
        /// Where to; into it, if it is a directory that exists.
        #[arg(value_name = "TO")]
        to: String,
        /// Copy what a symbolic link leads to.
        #[arg(short = 'L', long)]
        follow_link: bool,
        /// Keep owners and permissions.
        #[arg(short, long)]
        archive: bool,
    },
    /// Run a domain of the store in this process.
    #[command(hide = true)]
    Vmm {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: Name,
    },
    /// Make, examine, convert and repair disk images.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Make the images that domains start from, list and remove them.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Add devices to a running domain, remove, list and change them.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Show which CPU engine runs a domain, or have it go on with another, from the instruction where it is.
    Engine {
        /// The domain's name, or enough of its beginning.
        #[arg(value_name = "NAME")]
        name: String,
        /// `kvm` or `soft`; `auto` takes the fastest that works here.
        #[arg(value_name = "ENGINE", value_parser = engine())]
        engine: Option<EngineChoice>,
    },
    /// Say which CPU engine runs domains on this host, why, and how to get a faster one.
    Doctor,
}

#[derive(Args)]
pub struct RunArgs {
    /// What to start: `tiny`, Debian's stock kernel with a busybox shell; `debian` or `debian:SUITE`; a container image
    /// as `docker://NAME[:TAG]`; or an image of `donjon image ls`. What is not there is made or fetched on first use.
    #[arg(value_name = "IMAGE", conflicts_with = "kernel")]
    pub image: Option<String>,

    /// For a container image: the program's arguments, instead of those that the image names.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// Start it in the background; its console's output is kept for `donjon logs`.
    #[arg(short, long)]
    pub detach: bool,

    /// Remove the domain with its disk when it ends.
    #[arg(long)]
    pub rm: bool,

    /// As with docker; the console is connected to this terminal in any case.
    #[arg(short, long, hide = true)]
    pub interactive: bool,

    /// As with docker; who runs this in a terminal has one in the guest.
    #[arg(short, long, hide = true)]
    pub tty: bool,

    /// For a container image: a variable of the program's environment; without a value, with the one it has here. May
    /// be given several times.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// For a container image: the program to start, instead of the image's entrypoint.
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// For a container image: the user who runs the program: NAME or UID, and perhaps a group: `nobody:nogroup`.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// For a container image: the directory in which the program starts.
    #[arg(short, long, value_name = "DIRECTORY")]
    pub workdir: Option<String>,

    /// Lead a port of this host to one of the guest's: 8080:80, only for this host; 0.0.0.0:8080:80 for others, too;
    /// 5353:53/udp. May be given several times.
    #[arg(short, long = "publish", value_name = "[ADDR:]HOST:GUEST[/udp]")]
    pub ports: Vec<Forward>,

    /// Mount a directory of this host in the guest: ./data:/data, or ./data:/data:ro. May be given several times.
    #[arg(short, long = "volume", value_name = "HOST:GUEST[:ro]")]
    pub volumes: Vec<Share>,

    /// Have cloud-init set the guest up: a user-data file, such as one that begins with #cloud-config.
    #[arg(long, value_name = "FILE")]
    pub cloud_init: Option<PathBuf>,

    /// Public keys that may log in by SSH [default: those in ~/.ssh].
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,

    /// Boot this kernel instead of an image: a bzImage, or an ELF vmlinux with a PVH note.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// The initial RAM disk for --kernel.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's whole command line [default: `console=ttyS0`, with ` quiet cryptomgr.notests` for an image
    /// and ` panic=-1` for --no-reboot, so that a guest that panics ends the command].
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Virtual CPUs, 1 to 64. More than the host has cores is possible.
    #[arg(long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: u32,

    /// Memory: a number with K, M or G (powers of 1024), or of bytes [default: 1G for an image with a system, else
    /// 512M].
    #[arg(short, long, value_name = "SIZE", value_parser = size::memory)]
    pub memory: Option<Size>,

    /// Take the memory from pages of 2 MiB that this host has set aside (sysctl vm.nr_hugepages), all at once.
    #[arg(long)]
    pub huge_pages: bool,

    /// Take all of the memory at the start, instead of each page when the guest first touches it.
    #[arg(long)]
    pub preallocate: bool,

    /// Bytes of the disk that an image's domain gets, as for --memory [default: as the image has].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub disk_size: Option<Size>,

    /// The CPU the guest sees, as an x86-64 psABI level.
    #[arg(long, value_name = "MODEL", default_value = CpuModel::NAMES[0],
          value_parser = PossibleValuesParser::new(CpuModel::NAMES))]
    pub cpu_model: String,

    /// What executes guest instructions: `auto` takes the fastest engine that works here, `soft` is the
    /// software CPU, `soft,interpreter` is the same without its translator.
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = engine())]
    pub engine: EngineChoice,

    /// Translated code that the software CPU keeps at most, 1M to 1G of host memory. When that is full it
    /// starts over.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::arena)]
    pub translation_arena: Size,

    /// Translated code counts the instructions it runs, for `donjon stats` and --stats. Costs some speed.
    #[arg(long)]
    pub count_instructions: bool,

    /// End when the guest resets the machine, instead of booting it again.
    #[arg(long)]
    pub no_reboot: bool,

    /// At the end, tell on standard error what the vCPUs did.
    #[arg(long)]
    pub stats: bool,

    /// What `donjon stats` and `donjon ps` call the domain [default: the image, or `domain-` and the process's
    /// number for --kernel; with a number behind it if there is one of that name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,

    /// A disk, on an image that `donjon disk create` or others made: FILE, and behind it any of
    /// `,format=raw|qcow2|vmdk`, `,bus=virtio|nvme`, `,ro`, `,serial=S`, `,name=NAME`, `,queues=N`, `,bps=100M` and
    /// `,iops=1000`. A vmdk image needs `ro`. May be given several times.
    #[arg(long = "disk", value_name = "FILE,…")]
    pub disks: Vec<DiskSpec>,

    /// A file as persistent memory, without a copy in the guest's RAM: FILE and any of `,ro` and `,name=NAME`. Linux
    /// has it as /dev/pmem0 and can mount it with -o dax. With `ro`, domains share one file; a guest that writes all
    /// the same gets errors when it flushes. A running domain cannot be given more. May be given several times.
    #[arg(long = "pmem", value_name = "FILE,…")]
    pub pmems: Vec<PmemSpec>,

    /// A directory of this host that the guest can mount by the tag: `mount -t virtiofs TAG /mnt`. DIR,tag=TAG and any
    /// of `,ro`, `,uid=N`, `,gid=N` and `,name=NAME`. Unless root runs this, the user's files are root's in the guest,
    /// or those of `uid` and `gid`. May be given several times.
    #[arg(long = "fs", value_name = "DIR,tag=TAG,…")]
    pub file_systems: Vec<FsSpec>,

    /// A network interface: `user` for what the host's programs reach, `tap=IF` for the host's interface IF,
    /// `switch=NAME` for other domains, or `none`, and behind it any of `,mac=52:54:00:00:00:01`, `,mtu=N`,
    /// `,queues=N`, `,bps=100M` and `,iops=1000`; behind `user` also `,forward=[ADDRESS:]HOST:GUEST[/udp]` for a port
    /// of the host that leads to the guest, any number of times, `,net=10.0.2.0/24`, `,net6=fd00::/64`, and
    /// `,host-loopback` to have the gateway's address 10.0.2.2 lead to the host's 127.0.0.1. May be given several
    /// times.
    #[arg(long = "net", value_name = "user|tap=IF|switch=NAME|none,…")]
    pub nets: Vec<NetSpec>,

    /// No network interface at all; without this and --net there is one in user mode.
    #[arg(long, conflicts_with_all = ["nets", "ports"])]
    pub no_net: bool,

    /// What this terminal is connected to: the serial port (`ttyS0`), or a virtio console (`hvc0`), which is faster
    /// and knows the terminal's size. The serial port's output is shown in any case.
    #[arg(long, value_name = "DEVICE", default_value = "serial")]
    pub console: ConsoleChoice,

    /// Sockets between host and guest (AF_VSOCK). The guest's connections to port P go to the Unix socket PATH_P;
    /// who connects to PATH and writes `CONNECT P` reaches the guest's port P.
    #[arg(long, value_name = "PATH[,cid=N]")]
    pub vsock: Option<VsockSpec>,

    /// Name translated code for perf, in /tmp/perf-PID.map: `perf record -p PID`, then `perf report` shows guest
    /// code as guest:MODE:ADDRESS.
    #[arg(long)]
    pub trace: bool,
}

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Build an image of Debian from its packages, from the mirrors that this host's apt uses.
    Build {
        /// debian:SUITE, such as debian:bookworm.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Fetch a container image from its registry and make a disk of it.
    Pull {
        /// `docker://[REGISTRY/]NAME[:TAG|@DIGEST]`.
        #[arg(value_name = "NAME")]
        name: String,
        /// Without encryption from a registry on another machine. One on this machine is always asked without.
        #[arg(long)]
        insecure: bool,
    },
    /// Copy a disk image that others made, with a system that boots: raw, qcow2 or vmdk.
    Import {
        /// The file, or its address on the web.
        #[arg(value_name = "FILE|URL")]
        file: PathBuf,
        /// What the file's SHA-256 has to be: sha256: and 64 hexadecimal digits.
        #[arg(long, value_name = "DIGEST")]
        digest: Option<String>,
        /// What it is called from then on [default: the file's name without its ending].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List images.
    #[command(visible_alias = "list")]
    Ls {
        /// As a table, or as JSON on one line.
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
    /// Take away a name, and the image with its last one.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names, or beginnings of identities.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Tell all that is known of an image, as JSON.
    Inspect {
        /// Its name, or the beginning of its identity.
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Remove images that have no name any more and that no domain needs.
    Prune,
}

#[derive(Subcommand)]
pub enum DeviceCommand {
    /// Plug a device into a running domain.
    Add(Box<DeviceAddArgs>),
    /// Have the guest let go of a device, and remove it.
    #[command(visible_alias = "remove")]
    Rm {
        /// The domain's name, or enough of its beginning.
        #[arg(value_name = "DOMAIN")]
        domain: String,
        /// The device's name: see `donjon device ls`.
        #[arg(value_name = "DEVICE")]
        device: String,
        /// If the guest does not let go within ten seconds, pull it out.
        #[arg(long)]
        force: bool,
    },
    /// List a domain's devices.
    #[command(visible_alias = "list")]
    Ls {
        /// The domain's name, or enough of its beginning; may be left out if only one runs.
        #[arg(value_name = "DOMAIN")]
        domain: Option<String>,
        /// As a table, or as JSON on one line.
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
    /// Change a device while the guest runs.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// The domain's name, or enough of its beginning.
        #[arg(value_name = "DOMAIN")]
        domain: String,
        /// The device's name: see `donjon device ls`.
        #[arg(value_name = "DEVICE")]
        device: String,
        /// What it may do, such as bps=100M,iops=1000,iops-burst=2000 (bytes and operations a second, and how many
        /// at once); of a network interface in each direction. Empty for no limit.
        #[arg(long, value_name = "LIMIT", group = "change", value_parser = limit)]
        limit: Option<String>,
        /// Plug a network interface's cable in, or pull it.
        #[arg(long, value_name = "STATE", group = "change")]
        link: Option<Link>,
        /// Grow a disk; of the balloon, how much of its memory the guest is to have.
        #[arg(long, value_name = "SIZE", group = "change", value_parser = size::parse)]
        size: Option<Size>,
    },
}

#[derive(Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("device").required(true))]
pub struct DeviceAddArgs {
    /// The domain's name, or enough of its beginning.
    #[arg(value_name = "DOMAIN")]
    pub domain: String,

    /// A disk, as for `donjon run`.
    #[arg(long, value_name = "FILE,…", group = "device")]
    pub disk: Option<DiskSpec>,

    /// A network interface, as for `donjon run`.
    #[arg(long, value_name = "user|tap=IF|switch=NAME|none,…", group = "device")]
    pub net: Option<NetSpec>,

    /// A directory of this host, as for `donjon run`.
    #[arg(long, value_name = "DIR,tag=TAG,…", group = "device")]
    pub fs: Option<FsSpec>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsoleChoice {
    Serial,
    Virtio,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Link {
    Up,
    Down,
}

#[derive(Args)]
pub struct ExecArgs {
    /// Give the program this command's standard input.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// A variable of its environment. May be given several times.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The user who runs it: NAME or UID, and perhaps a group [default: root].
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The directory in which it starts.
    #[arg(short, long, value_name = "DIRECTORY")]
    pub workdir: Option<String>,
    /// Seconds to wait for a guest that is still booting.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    pub wait: u64,
    /// The domain's name, or enough of its beginning.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The program and its arguments.
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

#[derive(Args)]
pub struct StatsArgs {
    /// The domain's name, or enough of its beginning; may be left out if only one runs.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// As a table, or as JSON on one line.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,

    /// Every second until the domain ends.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Ends with a usage message if arguments contradict each other.
pub fn check(args: &RunArgs) {
    if let (Some(initrd), None) = (&args.initrd, &args.kernel) {
        let message = format!(
            "--initrd {0} needs a kernel: donjon run --kernel FILE --initrd {0}",
            initrd.display()
        );
        Cli::command()
            .error(ErrorKind::MissingRequiredArgument, message)
            .exit();
    }
}

fn limit(text: &str) -> Result<String, donjon_limit::LimitError> {
    text.parse::<donjon_limit::Limit>().map(|_| text.to_owned())
}

fn cpus(text: &str) -> Result<u32, String> {
    let count = text.parse::<u32>().ok().filter(|n| (1..=MAX_CPUS).contains(n));
    count.ok_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        format!("a domain has 1 to {MAX_CPUS} vCPUs (this host has {cores} cores; more vCPUs than that work, but no faster), such as --cpus 2")
    })
}

fn engine() -> impl clap::builder::TypedValueParser<Value = EngineChoice> {
    use clap::builder::TypedValueParser;
    PossibleValuesParser::new(EngineChoice::ALL.map(EngineChoice::name))
        .try_map(|name| name.parse::<EngineChoice>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: &[&str]) -> String {
        let all = ["donjon", "run"].iter().chain(args);
        Cli::try_parse_from(all).err().expect("refused").to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_values_say_what_is_right() {
        for cpus in ["0", "1000", "-1", "two"] {
            let message = refused(&[&format!("--cpus={cpus}")]);
            assert!(message.contains("1 to 64 vCPUs"), "{message}");
        }
        assert!(refused(&["-p", "80"]).contains("HOST:GUEST"));
        assert!(refused(&["-v", "data"]).contains("HOST:GUEST"));
        assert!(refused(&["tiny", "--kernel", "k"]).contains("cannot be used with"));
        assert!(refused(&["--cpu-model", "486"]).contains("x86-64-v2"));
        assert!(refused(&["--engine", "tcg"]).contains("soft,interpreter"));
        assert!(refused(&["--name", "a/b"]).contains("begins with a letter or digit"));
        assert!(refused(&["--translation-arena", "2G"]).contains("1M to 1G"));
    }
}
