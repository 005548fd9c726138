//! What the arguments of `donjon run` make of a domain.

use crate::cli::{ConsoleChoice, RunArgs};
use crate::failure::Failure;
use crate::image;
use anyhow::{Context, anyhow};
use donjon_host::domains::{Boot, DomainRecord, SetUp, User};
use donjon_host::store::{Kind, Process, Store, now};
use donjon_net::{Connection, NetSpec, UserNet};
use std::path::{Path, PathBuf};

/// Memory of a domain with a system of its own, if the user says nothing.
const SYSTEM_MEMORY: u64 = 1 << 30;
/// Memory of any other.
const MEMORY: u64 = 512 << 20;

/// A domain as it is asked for. An image that is not there is fetched or made.
pub fn of(args: &RunArgs) -> Result<DomainRecord, Failure> {
    let (boot, image_id, cloud_init) = boot(args)?;
    let own_disk = image_id.is_some();
    // What is kept may be started from elsewhere.
    let path = |path: &Path| located(path, own_disk || args.detach);
    if !own_disk && !args.volumes.is_empty() {
        let error =
            anyhow!("-v mounts a directory with the help of the agent, which only images with a disk have");
        let hint = "share it with --fs DIRECTORY, and mount it in the guest: mount -t virtiofs fs0 /mnt";
        return Err(Failure::with_hint(error, hint));
    }
    let is_system = boot == Boot::Disk;
    if !is_system && args.cloud_init.is_some() {
        let error = anyhow!("--cloud-init is for images with a system in which cloud-init runs");
        return Err(Failure::with_hint(
            error,
            "such as debian: donjon run debian --cloud-init FILE",
        ));
    }
    Ok(DomainRecord {
        image: match &boot {
            Boot::Kernel { .. } => String::new(),
            _ => args.image.clone().unwrap_or_else(|| "tiny".into()),
        },
        image_id,
        boot,
        append: args.append.clone(),
        cpus: args.cpus,
        memory: args
            .memory
            .unwrap_or(if is_system { SYSTEM_MEMORY } else { MEMORY }),
        huge_pages: args.huge_pages,
        preallocate: args.preallocate,
        cpu_model: args.cpu_model.clone(),
        engine: args.engine.name().into(),
        translation_arena: args.translation_arena,
        count_instructions: args.count_instructions,
        no_reboot: args.no_reboot,
        virtio_console: args.console == ConsoleChoice::Virtio,
        disks: texts(&args.disks, |d| {
            let path = path(&d.path)?;
            Ok(donjon_vmm::devices::DiskSpec { path, ..d.clone() })
        })?,
        pmems: texts(&args.pmems, |p| {
            let path = path(&p.path)?;
            Ok(donjon_vmm::devices::PmemSpec { path, ..p.clone() })
        })?,
        file_systems: texts(&args.file_systems, |f| {
            let path = path(&f.path)?;
            Ok(donjon_vmm::devices::FsSpec { path, ..f.clone() })
        })?,
        nets: nets(args)?.iter().map(ToString::to_string).collect(),
        vsock: args.vsock.as_ref().map(ToString::to_string),
        shares: texts(&args.volumes, |v| {
            let host = absolute(&v.host)?;
            Ok(donjon_vmm::devices::Share { host, ..v.clone() })
        })?,
        set_up: match &args.cloud_init {
            Some(file) => SetUp::UserData(absolute(file)?),
            None if cloud_init => SetUp::CloudInit,
            None => SetUp::Agent,
        },
        user: is_system.then(|| user(args)).transpose()?.flatten(),
        remove: args.rm,
        created: now(),
    })
}

/// What it boots, the image its disk is an overlay of, and whether cloud-init sets that up.
fn boot(args: &RunArgs) -> Result<(Boot, Option<String>, bool), Failure> {
    let no_program = || {
        let error = anyhow!("only container images start a program of your choice");
        Failure::with_hint(
            error,
            "for a program in a running guest: donjon exec NAME -- COMMAND",
        )
    };
    if let Some(kernel) = &args.kernel {
        let path = |path: &Path| located(path, args.detach);
        let initrd = args.initrd.as_deref().map(path).transpose()?;
        let kernel = path(kernel)?;
        return Ok((Boot::Kernel { kernel, initrd }, None, false));
    }
    let name = args.image.as_deref().unwrap_or("tiny");
    if name == "tiny" {
        return match args.command.is_empty() && args.env.is_empty() {
            true => Ok((Boot::Tiny, None, false)),
            false => Err(no_program()),
        };
    }
    let stored = image::find_or_make(&Store::of_user()?, name)?;
    let boot = match stored.image.kind {
        Kind::System if args.command.is_empty() && args.env.is_empty() => Boot::Disk,
        Kind::System => return Err(no_program()),
        Kind::Container(process) => Boot::Container(Box::new(program(*process, args)?)),
    };
    Ok((boot, Some(stored.image.id), stored.image.cloud_init))
}

/// The program of a container image, as the user wants it.
fn program(image: Process, args: &RunArgs) -> Result<Process, Failure> {
    let mut process = image;
    if let Some(entrypoint) = &args.entrypoint {
        // As with docker: the image's command belongs to its entrypoint.
        process.entrypoint = vec![entrypoint.clone()];
        process.command.clear();
    }
    if !args.command.is_empty() {
        process.command.clone_from(&args.command);
    }
    if process.entrypoint.is_empty() && process.command.is_empty() {
        let error = anyhow!("the image does not say which program to start");
        return Err(Failure::with_hint(
            error,
            "name one behind it: donjon run IMAGE /bin/sh",
        ));
    }
    for variable in &args.env {
        let (name, value) = match variable.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            // As with docker: the value that it has here.
            None => match std::env::var(variable) {
                Ok(value) => (variable.as_str(), value),
                Err(_) => continue,
            },
        };
        if name.is_empty() {
            return Err(Failure::with_hint(
                anyhow!("-e {variable} has no name"),
                "write it as -e NAME=VALUE",
            ));
        }
        let prefix = format!("{name}=");
        process.environment.retain(|v| !v.starts_with(&prefix));
        process.environment.push(prefix + &value);
    }
    if let Some(user) = &args.user {
        process.user.clone_from(user);
    }
    if let Some(directory) = &args.workdir {
        process.directory.clone_from(directory);
    }
    Ok(process)
}

/// Its interfaces: one in user mode if nothing is said.
fn nets(args: &RunArgs) -> Result<Vec<NetSpec>, Failure> {
    let mut nets = args.nets.clone();
    if nets.is_empty() && !args.no_net {
        nets.push(NetSpec::new(Connection::User(UserNet::default())));
    }
    if args.ports.is_empty() {
        return Ok(nets);
    }
    let user = nets.iter_mut().find_map(|n| match &mut n.connection {
        Connection::User(user) => Some(user),
        _ => None,
    });
    let Some(user) = user else {
        let error = anyhow!("-p needs a network in user mode, which leads the host's ports to the guest");
        return Err(Failure::with_hint(error, "add one: --net user"));
    };
    user.forward.extend(args.ports.iter().cloned());
    Ok(nets)
}

/// Who may log in: the user of this host by the keys in ~/.ssh.
fn user(args: &RunArgs) -> Result<Option<User>, Failure> {
    let keys = match &args.ssh_key {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            keys(&text)
        }
        None => default_keys(),
    };
    let name = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_default();
    let proper = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    let named =
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 32 && name.bytes().all(proper);
    let name = if named { name } else { "user".into() };
    Ok(Some(User { name, ssh_keys: keys }))
}

fn default_keys() -> Vec<String> {
    let Some(home) = std::env::var_os("HOME") else {
        return vec![];
    };
    let entries = std::fs::read_dir(Path::new(&home).join(".ssh"))
        .into_iter()
        .flatten()
        .flatten();
    let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "pub"));
    files.sort();
    let texts = files.iter().filter_map(|f| std::fs::read_to_string(f).ok());
    texts.flat_map(|t| keys(&t)).collect()
}

/// The public keys in a file.
fn keys(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn texts<T, U: ToString>(
    specs: &[T],
    make: impl Fn(&T) -> Result<U, Failure>,
) -> Result<Vec<String>, Failure> {
    specs.iter().map(|s| Ok(make(s)?.to_string())).collect()
}

/// A path as it was typed, or, if what it is for is kept, from the root.
fn located(path: &Path, kept: bool) -> Result<PathBuf, Failure> {
    match kept {
        true => absolute(path),
        false => Ok(path.to_owned()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path);
    Ok(absolute.with_context(|| format!("cannot tell where {} is", path.display()))?)
}
