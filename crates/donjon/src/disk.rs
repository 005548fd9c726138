//! `donjon disk`: disk images as files.

mod args;
mod show;

pub use args::DiskCommand;

use crate::cli::{Format as Output, exit};
use crate::failure::Failure;
use args::{CheckArgs, ConvertArgs, CreateArgs, InfoArgs, OverlayArgs, ResizeArgs, Size};
use donjon_block::manage::{self, Conversion, Creation};
use donjon_block::{Format, OpenError, Options, open};
use donjon_host::progress::{Console, Progress};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Does what is asked.
pub fn disk(command: &DiskCommand) -> Result<u8, Failure> {
    match command {
        DiskCommand::Create(args) => create(args),
        DiskCommand::Overlay(args) => overlay(args),
        DiskCommand::Info(args) => info(args),
        DiskCommand::Resize(args) => resize(args),
        DiskCommand::Convert(args) => convert(args),
        DiskCommand::Check(args) => check(args),
    }
}

fn create(args: &CreateArgs) -> Result<u8, Failure> {
    let how = Creation {
        format: args.format,
        cluster_size: args.cluster_size,
        preallocation: args.preallocation.into(),
        force: args.force,
        ..Creation::default()
    };
    manage::create(&args.file, args.size, &how)?;
    Ok(exit::SUCCESS)
}

fn overlay(args: &OverlayArgs) -> Result<u8, Failure> {
    let how = Creation {
        cluster_size: args.cluster_size,
        force: args.force,
        ..Creation::default()
    };
    let backing = stored_name(&args.backing, &args.file)?;
    manage::overlay(&args.file, &backing, args.backing_format, args.size, &how)?;
    Ok(exit::SUCCESS)
}

/// What an overlay calls its backing file: just the name if they lie side by side, so that the two can be moved
/// together; else the whole path.
fn stored_name(backing: &Path, overlay: &Path) -> Result<String, Failure> {
    let directory = |path: &Path| -> io::Result<PathBuf> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).canonicalize()
    };
    let gone = |e: io::Error, path: &Path| match e.kind() {
        ErrorKind::NotFound => OpenError::Missing(path.to_owned()),
        _ => OpenError::Io {
            what: "find",
            file: path.to_owned(),
            source: e,
        },
    };
    let beside = directory(backing).map_err(|e| gone(e, backing))?;
    let name = backing.file_name().unwrap_or_default();
    let stored = match directory(overlay) {
        Ok(here) if here == beside => PathBuf::from(name),
        _ => beside.join(name),
    };
    stored.into_os_string().into_string().map_err(|name| {
        anyhow::anyhow!(
            "{} is not UTF-8, which a backing file's name has to be",
            name.display()
        )
        .into()
    })
}

fn info(args: &InfoArgs) -> Result<u8, Failure> {
    let chain = manage::info(&args.file, args.image_format)?;
    match args.format {
        Output::Json => print(&(serde_json::to_string(&chain)? + "\n"))?,
        Output::Table => print(&show::chain(&chain))?,
    }
    Ok(exit::SUCCESS)
}

fn resize(args: &ResizeArgs) -> Result<u8, Failure> {
    let size = match args.size {
        Size::Absolute(size) => size,
        Size::More(_) | Size::Less(_) => {
            let options = Options {
                format: args.image_format,
                read_only: true,
                ..Options::default()
            };
            let now = open(&args.file, &options)?.size();
            args.size
                .applied(now)
                .ok_or_else(|| anyhow::anyhow!("a disk of {now} bytes cannot change by that much"))?
        }
    };
    manage::resize(&args.file, args.image_format, size, args.shrink)?;
    Ok(exit::SUCCESS)
}

fn convert(args: &ConvertArgs) -> Result<u8, Failure> {
    let how = Conversion {
        source_format: args.source_format,
        compress: args.compress.is_some(),
        target: Creation {
            format: args.format,
            cluster_size: args.cluster_size,
            compression: args.compress.unwrap_or_default().into(),
            force: args.force,
            ..Creation::default()
        },
    };
    let console = Console::new();
    console.step(&format!(
        "converting {} to {}",
        args.source.display(),
        args.target.display()
    ));
    manage::convert(&args.source, &args.target, &how, &|done| console.percent(done))?;
    console.finish();
    Ok(exit::SUCCESS)
}

fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let report = manage::check(&args.file, args.image_format, args.repair)?;
    match args.format {
        Output::Json => print(&(serde_json::to_string(&report)? + "\n"))?,
        Output::Table => print(&show::report(&args.file, &report))?,
    }
    Ok(match report.is_damaged() {
        true => exit::ERROR,
        false => exit::SUCCESS,
    })
}

/// A format's name, for the command line.
fn format(text: &str) -> Result<Format, String> {
    text.parse()
}

/// Prints on standard output; nobody has to read it.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
