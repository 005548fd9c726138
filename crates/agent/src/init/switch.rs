//! Handing over to the system's own init.

use super::{console, root};
use donjon_agent_protocol::FirstBoot;
use donjon_agent_protocol::boot::Share;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Where systemd looks for units that exist only while the machine runs (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";
const UNIT: &str = "donjon-agent.service";
/// In the root file system: it was set up.
const DONE: &str = "var/lib/donjon/first-boot";
/// Started as early as possible: the agent needs nothing but vsock. Nothing stops it before everything is stopped, so
/// that the host can watch a system that does not shut down.
const SERVICE: &str = "\
[Unit]
Description=donjon guest agent
DefaultDependencies=no
IgnoreOnIsolate=yes

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

/// Sets a new system up, once. A system that it does not suit starts all the same.
pub fn first_boot(what: &FirstBoot) {
    let root = Path::new(root::NEW);
    let done = root.join(DONE);
    if done.exists() {
        return;
    }
    if let Err(e) = crate::first_boot::apply(root, what) {
        return console::say(&format!(
            "this system's user and name are not as asked for: {}",
            e.message
        ));
    }
    let noted =
        fs::create_dir_all(root.join(DONE).parent().unwrap_or(root)).and_then(|()| fs::write(&done, ""));
    if let Err(e) = noted {
        console::say(&format!("cannot write /{DONE}: {e}"));
    }
}

/// Has systemd mount shares, before anything that wants local file systems.
pub fn mount_shares(shares: &[Share]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot write units for shared directories to {UNITS}: {e}");
    let wants = format!("{UNITS}/local-fs.target.wants");
    for share in shares {
        let unit = format!("{}.mount", escape(&share.path));
        let options = if share.read_only { "ro" } else { "rw" };
        let text = format!(
            "[Unit]\nDescription={0} of the host\nBefore=local-fs.target\n\n[Mount]\nWhat={1}\nWhere={0}\nType=virtiofs\n\
             Options={options}\n",
            share.path, share.tag
        );
        fs::create_dir_all(&wants).map_err(failed)?;
        fs::write(format!("{UNITS}/{unit}"), text).map_err(failed)?;
        symlink(format!("../{unit}"), format!("{wants}/{unit}")).map_err(failed)?;
    }
    Ok(())
}

/// A path as the name of a unit (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
fn escape(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty()).collect();
    let mut name = String::new();
    for (at, byte) in parts.join("/").bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name += "\\x2e",
            b'.' | b'_' | b':' => name.push(byte.into()),
            b if b.is_ascii_alphanumeric() => name.push(b.into()),
            b => name += &format!("\\x{b:02x}"),
        }
    }
    if name.is_empty() { "-".into() } else { name }
}

/// Becomes `init`.
pub fn hand_over(init: &str) -> Result<std::convert::Infallible, String> {
    let error = Command::new(init).exec();
    Err(format!("cannot run {init} of the root file system: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names_as_systemd_escape_makes_them() {
        assert_eq!(escape("/mnt/data"), "mnt-data");
        assert_eq!(escape("//srv/my-web/"), r"srv-my\x2dweb");
        assert_eq!(escape("/.hidden/a.b"), r"\x2ehidden-a.b");
        assert_eq!(escape("/"), "-");
        assert_eq!(escape("/ä"), r"\xc3\xa4");
    }
}
