//! The name of a domain that this process runs, and what it answers under that.

use crate::devices::Board;
use crate::figures;
use anyhow::Result;
use donjon_control::{
    Answers, Claim, DeviceChange, DeviceInfo, DeviceKind, Info, Name, Refusal, RunDirectory, RunError,
    Server, Stats,
};
use donjon_host::cache::Cache;
use donjon_vmm::{Meter, VcpuStats};
use std::sync::Arc;

/// Where the domains of this user have their sockets.
pub fn run_directory() -> Result<RunDirectory, RunError> {
    let cache = Cache::of_user().ok();
    RunDirectory::of_user(cache.as_ref().map(Cache::root))
}

/// What a domain answers.
struct Domain {
    info: Info,
    meter: Arc<Meter>,
    board: Arc<Board>,
}

impl Answers for Domain {
    fn info(&self) -> Info {
        Info {
            uptime_seconds: self.meter.uptime().as_secs_f64(),
            ..self.info.clone()
        }
    }

    fn stats(&self) -> Stats {
        let vcpus = self.meter.read();
        Stats {
            domain: self.info(),
            total: figures::report(&VcpuStats::sum(&vcpus)),
            vcpus: vcpus.iter().map(figures::report).collect(),
        }
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        self.board.list()
    }

    fn add_device(&self, kind: DeviceKind, options: &str) -> Result<DeviceInfo, Refusal> {
        self.board.plug(kind, options)
    }

    fn remove_device(&self, name: &str, force: bool) -> Result<(), Refusal> {
        self.board.unplug(name, force)
    }

    fn set_device(&self, name: &str, change: &DeviceChange) -> Result<DeviceInfo, Refusal> {
        self.board.change(name, change)
    }

    fn press_power_button(&self) -> Result<(), Refusal> {
        match self.board.devices.press_power_button() {
            true => Ok(()),
            false => Err(Refusal::new("gone", "the domain is not running")),
        }
    }
}

/// Answers for the domain until the server is dropped. A name that the user chose must be had; without one,
/// `usual` or one like it will do, and a host without a place for sockets is none of the guest's concern.
pub fn serve(
    wanted: Option<&Name>,
    usual: &str,
    info: Info,
    meter: &Arc<Meter>,
    board: &Arc<Board>,
) -> Result<Option<Server>> {
    let start = |claim: Claim| -> Result<Server> {
        let name = claim.name().to_string();
        tracing::info!(name, "the domain's name");
        let domain = Domain {
            info: Info { name, ..info.clone() },
            meter: meter.clone(),
            board: board.clone(),
        };
        Ok(Server::start(claim, Arc::new(domain))?)
    };
    let served = match wanted {
        Some(name) => return Ok(Some(start(run_directory()?.claim(name)?)?)),
        None => claim_one_like(usual).and_then(start),
    };
    Ok(served
        .inspect_err(|e| tracing::warn!("`donjon stats` cannot reach this domain: {e:#}"))
        .ok())
}

/// `tiny`, or the first of `tiny-2`, `tiny-3`… that is free.
fn claim_one_like(usual: &str) -> Result<Claim> {
    let directory = run_directory()?;
    let mut number = 1;
    loop {
        let name = match number {
            1 => usual.parse()?,
            n => format!("{usual}-{n}").parse()?,
        };
        match directory.claim(&name) {
            Err(RunError::Taken(_)) if number < 10_000 => number += 1,
            other => return Ok(other?),
        }
    }
}
