//! `donjon engine`: which engine runs a domain, and having it go on with another.

use crate::cli::exit;
use crate::control::run_directory;
use crate::failure::Failure;
use anyhow::anyhow;
use donjon_control::{Command, Info, Moved, Refusal, ask};
use donjon_host::engines::{self, EngineChoice, Wanted};
use donjon_vmm::{Handle, MoveError};
use std::sync::{Arc, Mutex, PoisonError};

/// Shows a running domain's engine, or changes it.
pub fn engine(name: &str, to: Option<EngineChoice>) -> Result<u8, Failure> {
    let directory = run_directory()?;
    let name = directory.find(name)?;
    let socket = directory.socket(&name);
    let failed = |e| Failure::with_hint(anyhow!("{name}: {e}"), "see which domains run: donjon ps");
    match to {
        None => {
            let info: Info = ask(&socket, &Command::Info).map_err(failed)?;
            println!("{}", info.engine);
        }
        Some(to) => {
            let command = Command::Engine {
                name: to.name().into(),
            };
            let moved: Moved = ask(&socket, &command).map_err(failed)?;
            println!(
                "{} (the guest was paused for {:.1} ms)",
                moved.engine,
                moved.pause_seconds * 1e3
            );
        }
    }
    Ok(exit::SUCCESS)
}

/// The engine of the domain that this process runs.
pub struct Current {
    handle: Arc<Handle>,
    wanted: Wanted,
    name: Mutex<&'static str>,
}

impl Current {
    /// The one it starts with, chosen by what the user wants of engines.
    pub fn new(handle: Arc<Handle>, wanted: Wanted, name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            handle,
            wanted,
            name: Mutex::new(name),
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the domain go on with another.
    pub fn change(&self, to: &str) -> Result<Moved, Refusal> {
        let failed = |e: &dyn std::fmt::Display| Refusal::new("failed", e.to_string());
        let engine: EngineChoice = to.parse().map_err(|e| failed(&e))?;
        let wanted = Wanted {
            engine,
            ..self.wanted.clone()
        };
        let selected = engines::select(&wanted).map_err(|e| failed(&e))?;
        // Held, so that of two changes the last one's name is kept.
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = selected.engine.name();
        let moved = self.handle.move_to(selected.engine).map_err(|e| match e {
            MoveError::NotRunning => Refusal::new("gone", e.to_string()),
            MoveError::Engine(_) => failed(&e),
        })?;
        *name = engine;
        Ok(Moved {
            engine: engine.into(),
            pause_seconds: moved.pause.as_secs_f64(),
        })
    }
}
