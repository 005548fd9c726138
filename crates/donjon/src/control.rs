//! The name of a domain that this process runs, and what it answers under that.

use crate::figures;
use anyhow::Result;
use donjon_control::{Answers, Claim, Info, Name, RunDirectory, RunError, Server, Stats};
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
}

/// Answers for the domain until the server is dropped. A name that the user chose must be had; without one,
/// `usual` or one like it will do, and a host without a place for sockets is none of the guest's concern.
pub fn serve(wanted: Option<&Name>, usual: &str, info: Info, meter: &Arc<Meter>) -> Result<Option<Server>> {
    let start = |claim: Claim| -> Result<Server> {
        let name = claim.name().to_string();
        tracing::info!(name, "the domain's name");
        let domain = Domain {
            info: Info { name, ..info.clone() },
            meter: meter.clone(),
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
