//! The first program of a guest: `donjon-agent init`.
//!
//! In the initramfs it inserts modules and mounts the root file system, as [`BootConfig`] says. Then it either hands
//! over to the system's own init, or stays process 1 and runs one program.

mod console;
mod container;
pub mod mounts;
mod network;
mod power;
mod reaper;
mod root;
mod switch;

pub use console::note;
use donjon_agent_protocol::boot::{self, BootConfig, Start};
use donjon_agent_protocol::exit::Report;
pub use root::insert;
use std::fs;

/// Where the agent's binary and what it has to know are while the guest runs.
pub(crate) const RUN: &str = "/run/donjon";
/// The agent's binary there.
pub(crate) const BINARY: &str = "/run/donjon/agent";
/// What programs that are run for the host get if it does not say.
pub(crate) const DEFAULTS: &str = "/run/donjon/defaults";

/// Does it all. Never returns: process 1 must not end.
pub fn main() -> ! {
    let error = match boot() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    console::say(&format!("cannot start this machine: {error}"));
    // The cause may be that the host is not reachable.
    let _ = reaper::tell_host(&Report::Failed(error));
    power::end(rustix::system::RebootCommand::PowerOff)
}

fn boot() -> Result<std::convert::Infallible, String> {
    mounts::basic()?;
    let config =
        fs::read(boot::PATH).map_err(|e| format!("cannot read {} in the initramfs: {e}", boot::PATH))?;
    let config = BootConfig::parse(&config).map_err(|e| format!("{} makes no sense: {e}", boot::PATH))?;
    for module in &config.modules {
        root::insert(module)?;
    }
    root::mount(&config.root)?;
    match &config.start {
        Start::SwitchRoot {
            init,
            first_boot,
            shares,
        } => {
            if let Some(what) = first_boot {
                switch::first_boot(what);
            }
            switch::install()?;
            switch::mount_shares(shares)?;
            root::enter()?;
            switch::hand_over(init)
        }
        Start::Container(container) => {
            install_binary()?;
            root::enter()?;
            mounts::container()?;
            container::run(container)
        }
    }
}

/// Copies the agent to where it stays when the initramfs is gone.
fn install_binary() -> Result<(), String> {
    let copied = fs::create_dir_all(RUN).and_then(|()| fs::copy("/proc/self/exe", BINARY));
    copied.map_err(|e| format!("cannot copy the agent to {BINARY}: {e}"))?;
    Ok(())
}
