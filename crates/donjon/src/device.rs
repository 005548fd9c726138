//! `donjon device`: the devices of a running domain.

use crate::cli::{DeviceAddArgs, DeviceCommand, Format, exit};
use crate::control::run_directory;
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use donjon_control::{Command, DeviceChange, DeviceInfo, DeviceKind, ask};
use serde::de::DeserializeOwned;
use std::path::Path;

/// Runs the command.
pub fn device(command: &DeviceCommand) -> Result<u8, Failure> {
    match command {
        DeviceCommand::Add(args) => add(args),
        DeviceCommand::Rm {
            domain,
            device,
            force,
        } => {
            let request = Command::DeviceRemove {
                name: device.clone(),
                force: *force,
            };
            tell::<bool>(domain, &request)?;
            println!("{device} removed");
            Ok(exit::SUCCESS)
        }
        DeviceCommand::Ls { domain, format } => {
            let devices: Vec<DeviceInfo> = tell(domain.as_deref().unwrap_or_default(), &Command::Devices)?;
            match format {
                Format::Json => println!("{}", serde_json::to_string(&devices)?),
                Format::Table => print!("{}", table(&devices)),
            }
            Ok(exit::SUCCESS)
        }
        DeviceCommand::Set {
            domain,
            device,
            limit,
            link,
            size,
        } => {
            let request = Command::DeviceSet {
                name: device.clone(),
                change: DeviceChange {
                    limit: limit.clone(),
                    link: link.map(|l| l == crate::cli::Link::Up),
                    size: *size,
                },
            };
            let now: DeviceInfo = tell(domain, &request)?;
            print!("{}", table(&[now]));
            Ok(exit::SUCCESS)
        }
    }
}

fn add(args: &DeviceAddArgs) -> Result<u8, Failure> {
    // The domain's process may be somewhere else.
    let absolute = |path: &Path| std::path::absolute(path).context("cannot tell the current directory");
    let (kind, options) = match (&args.disk, &args.net, &args.fs) {
        (Some(disk), None, None) => {
            let mut disk = disk.clone();
            disk.path = absolute(&disk.path)?;
            (DeviceKind::Disk, disk.to_string())
        }
        (None, Some(net), None) => (DeviceKind::Net, net.to_string()),
        (None, None, Some(fs)) => {
            let mut fs = fs.clone();
            fs.path = absolute(&fs.path)?;
            (DeviceKind::Fs, fs.to_string())
        }
        _ => unreachable!("clap asks for one"),
    };
    let new: DeviceInfo = tell(&args.domain, &Command::DeviceAdd { kind, options })?;
    println!("{} added", new.name);
    Ok(exit::SUCCESS)
}

fn tell<T: DeserializeOwned>(domain: &str, command: &Command) -> Result<T, Failure> {
    let directory = run_directory()?;
    let name = directory.find(domain)?;
    ask(&directory.socket(&name), command).map_err(|e| {
        let gone = matches!(e, donjon_control::AskError::Gone);
        let error = anyhow!("{name}: {e}");
        if gone {
            Failure::with_hint(error, "see which domains run: donjon ps")
        } else {
            error.into()
        }
    })
}

fn table(devices: &[DeviceInfo]) -> String {
    let widest = |of: fn(&DeviceInfo) -> usize| devices.iter().map(of).chain([4]).max().unwrap_or(4);
    let (name, kind) = (widest(|d| d.name.len()), widest(|d| d.kind.len()));
    let mut text = format!("{:<name$}  {:<kind$}  slot  options\n", "name", "kind");
    for d in devices {
        let line = format!(
            "{:<name$}  {:<kind$}  {:>4}  {}",
            d.name, d.kind, d.slot, d.options
        );
        text += line.trim_end();
        text += "\n";
    }
    text
}
