//! One guest, as a command line of each hypervisor.

use crate::command::{cargo, command, run, target_dir};
use crate::prerequisites::QEMU;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

/// What every guest's kernel is told: where the console is, and not to test its own ciphers.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet cryptomgr.notests";

/// What is booted, and on how large a machine.
pub struct Guest {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A newc archive.
    pub initrd: PathBuf,
    /// The kernel's whole command line.
    pub command_line: String,
    /// MiB.
    pub memory: u32,
    /// Virtual CPUs.
    pub cpus: u32,
}

impl Guest {
    /// In donjon; it tells its statistics at the end.
    pub fn donjon(&self) -> Command {
        let mut c = Command::new(target_dir().join("release/donjon"));
        c.args([
            "run",
            "--memory",
            &format!("{}M", self.memory),
            "--cpus",
            &self.cpus.to_string(),
        ]);
        c.args(["--no-reboot", "--stats"]);
        self.files(&mut c, ["--kernel", "--initrd", "--append"]);
        c
    }

    /// In QEMU's TCG.
    pub fn tcg(&self) -> Command {
        let mut c = command(QEMU.0, &["-M", "q35", "-accel", "tcg"]);
        c.args(["-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        c.args(["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]);
        self.files(&mut c, ["-kernel", "-initrd", "-append"]);
        c
    }

    fn files(&self, c: &mut Command, [kernel, initrd, append]: [&str; 3]) {
        c.arg(kernel).arg(&self.kernel);
        c.arg(initrd).arg(&self.initrd);
        c.args([append, &self.command_line]);
    }
}

/// Builds the donjon that [`Guest::donjon`] runs.
pub fn build_donjon() -> Result<()> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "donjon",
    ]))
}

/// Guest instructions, in millions a second, if donjon's statistics tell: without those in translated code,
/// which may not be counted, there is no rate.
pub fn mips(statistics: &str) -> Option<f64> {
    statistics.lines().find_map(|l| {
        let (_, rest) = l.strip_prefix("total:")?.rsplit_once(", ")?;
        rest.strip_suffix(" MIPS")?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_all_processors() {
        let statistics = "vcpu0: 5 instructions in 1.0 s busy, 5.0 MIPS\n\
                          total: 9 instructions in 2.0 s busy, 4.5 MIPS\nwall: 2.0 s\n";
        assert_eq!(mips(statistics), Some(4.5));
        assert_eq!(mips("wall: 2.0 s\n"), None);
        let part = "total: 9 interpreted instructions in 2.0 s busy; those in translated code are counted with --count-instructions\n";
        assert_eq!(mips(part), None);
    }
}
