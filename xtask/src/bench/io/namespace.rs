//! A network namespace with a tap interface, where everything runs.

use crate::command::{command, run, succeeds};
use crate::prerequisites::{IP, UNSHARE, need};
use anyhow::{Context, Result};
use std::process::Command;

/// The interface.
pub const TAP: &str = "tap0";
/// The host's address; the guest's is in xtask/bench/io/init.
const ADDRESS: &str = "10.0.77.1/24";

/// Whether one can be made here.
pub fn is_possible() -> Result<bool> {
    need(UNSHARE)?;
    need(IP)?;
    let interface = ["ip", "tuntap", "add", "dev", TAP, "mode", "tap"];
    Ok(succeeds(UNSHARE.0, &[&["--net", "--"], &interface[..]].concat()))
}

/// This command once more, in a namespace of its own, with one more argument. The namespace ends with it.
pub fn again(argument: &str) -> Result<()> {
    let itself = std::env::current_exe().context("cannot find this program")?;
    let mut c = Command::new(UNSHARE.0);
    c.args(["--net", "--"]).arg(itself);
    c.args(std::env::args_os().skip(1)).arg(argument);
    run(&mut c)
}

/// Sets it up, from inside.
pub fn set_up() -> Result<()> {
    let steps: [&[&str]; 4] = [
        &["link", "set", "lo", "up"],
        &["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"],
        &["address", "add", ADDRESS, "dev", TAP],
        &["link", "set", TAP, "up"],
    ];
    steps.iter().try_for_each(|step| run(&mut command(IP.0, step)))
}
