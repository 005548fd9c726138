//! Handing over to the system's own init.

use super::{BINARY, RUN};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where systemd looks for units that exist only while the machine runs (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";
const UNIT: &str = "donjon-agent.service";
/// Started as early as possible: the agent needs nothing but vsock. It ends last, so that the host can watch.
const SERVICE: &str = "\
[Unit]
Description=donjon guest agent
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=/run/donjon/agent serve
Restart=always
RestartSec=1
KillMode=process
TasksMax=infinity
";

/// Puts the agent, and a unit for it, where they outlive the initramfs. Nothing on a disk changes.
pub fn install() -> Result<(), String> {
    super::install_binary()?;
    let failed = |e: std::io::Error| format!("cannot write the agent's unit to {UNITS}: {e}");
    let wants = format!("{UNITS}/sysinit.target.wants");
    fs::create_dir_all(&wants).map_err(failed)?;
    fs::write(format!("{UNITS}/{UNIT}"), SERVICE).map_err(failed)?;
    symlink(format!("../{UNIT}"), format!("{wants}/{UNIT}")).map_err(failed)
}

/// Becomes `init`.
pub fn hand_over(init: &str) -> Result<std::convert::Infallible, String> {
    debug_assert!(BINARY.starts_with(RUN));
    let error = Command::new(init).env_clear().envs(kept()).exec();
    Err(format!("cannot run {init} of the root file system: {error}"))
}

/// What the kernel was told for init.
fn kept() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().filter(|(name, _)| name != "OLDPWD")
}
