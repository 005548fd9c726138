//! The name of a domain that this process runs, and what it answers under that.

use crate::devices::Board;
use crate::engine::Current;
use crate::figures;
use anyhow::Result;
use donjon_control::{
    Answers, Claim, DeviceChange, DeviceInfo, DeviceKind, Info, Moved, Name, Refusal, RunDirectory, RunError,
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
    engine: Arc<Current>,
}

impl Answers for Domain {
    fn info(&self) -> Info {
        Info {
            uptime_seconds: self.meter.uptime().as_secs_f64(),
            engine: self.engine.name().into(),
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

    fn set_engine(&self, name: &str) -> Result<Moved, Refusal> {
        self.engine.change(name)
    }

    fn press_power_button(&self) -> Result<(), Refusal> {
        match self.board.devices.press_power_button() {
            true => Ok(()),
            false => Err(Refusal::new("gone", "the domain is not running")),
        }
    }
}

/// Takes a name for the domain. One that the user chose must be had; without one, `usual` or one like it will do, and
/// a host without a place for sockets is none of the guest's concern.
pub fn claim(wanted: Option<&Name>, usual: &str) -> Result<Option<Claim>> {
    if let Some(name) = wanted {
        return Ok(Some(run_directory()?.claim(name)?));
    }
    let claimed = claim_one_like(usual);
    Ok(claimed
        .inspect_err(|e| tracing::warn!("`donjon stats` cannot reach this domain: {e:#}"))
        .ok())
}

/// Answers for the domain until the server is dropped.
pub fn serve(
    claim: Claim,
    info: Info,
    meter: &Arc<Meter>,
    board: &Arc<Board>,
    engine: Arc<Current>,
) -> Result<Server> {
    let name = claim.name().to_string();
    tracing::info!(name, "the domain's name");
    let domain = Domain {
        info: Info { name, ..info },
        meter: meter.clone(),
        board: board.clone(),
        engine,
    };
    Ok(Server::start(claim, Arc::new(domain))?)
}

/// `tiny`, `tiny-2`, `tiny-3`…
pub fn numbered(usual: &str, number: u32) -> String {
    match number {
        1 => usual.to_owned(),
        n => format!("{usual}-{n}"),
    }
}

/// The first of them that is free.
fn claim_one_like(usual: &str) -> Result<Claim> {
    let directory = run_directory()?;
    let mut number = 1;
    loop {
        match directory.claim(&numbered(usual, number).parse()?) {
            Err(RunError::Taken(_)) if number < 10_000 => number += 1,
            other => return Ok(other?),
        }
    }
}
