//! The machine that the agent runs on.

use crate::system::{Frozen, System};
use crate::{first_boot, freeze};
use donjon_agent_protocol::{Error, ErrorKind, FirstBoot, Shutdown};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The machine.
#[derive(Default)]
pub struct Guest {
    /// The agent is process 1 itself, in another process than this one.
    pub agent_is_init: bool,
}

/// Signals that tell [`crate::init`] to shut down.
pub const POWER_OFF: Signal = Signal::USR2;
/// See [`POWER_OFF`]. SIGINT is what the kernel sends for Ctrl-Alt-Del, too.
pub const REBOOT: Signal = Signal::INT;

fn failed(what: &str) -> impl FnOnce(rustix::io::Errno) -> Error {
    let what = what.to_owned();
    move |e| Error::new(ErrorKind::Failed, format!("cannot {what}: {e}"))
}

impl System for Guest {
    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Error> {
        if self.agent_is_init {
            let signal = match how {
                Shutdown::PowerOff => POWER_OFF,
                Shutdown::Reboot => REBOOT,
            };
            return kill_process(Pid::INIT, signal).map_err(failed("tell process 1"));
        }
        let verb = match how {
            Shutdown::PowerOff => "poweroff",
            Shutdown::Reboot => "reboot",
        };
        // systemd, then whatever else is init.
        for words in [&["systemctl", "--no-block", verb][..], &[verb]] {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if command.status().is_ok_and(|s| s.success()) {
                return Ok(());
            }
        }
        let what = format!("neither `systemctl {verb}` nor `{verb}` works in this guest");
        Err(Error::new(ErrorKind::Unsupported, what))
    }

    fn set_time(&self, time: Duration) -> Result<(), Error> {
        let seconds = i64::try_from(time.as_secs())
            .map_err(|_| Error::new(ErrorKind::Invalid, "there is no such time"))?;
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: time.subsec_nanos().into(),
        };
        clock_settime(ClockId::Realtime, time).map_err(failed("set the clock"))
    }

    fn mount(&self, tag: &str, path: &Path, read_only: bool) -> Result<(), Error> {
        mount_share(tag, path, read_only)
    }

    fn freeze(&self) -> Result<Box<dyn Frozen>, Error> {
        freeze::freeze()
    }

    fn first_boot(&self, what: &FirstBoot) -> Result<(), Error> {
        first_boot::apply(self.root(), what)?;
        match &what.hostname {
            Some(name) => rustix::system::sethostname(name.as_bytes()).map_err(failed("set the host's name")),
            None => Ok(()),
        }
    }
}

/// Mounts the virtiofs share `tag`, and makes the mount point first.
pub(crate) fn mount_share(tag: &str, path: &Path, read_only: bool) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|e| {
        Error::new(
            ErrorKind::Failed,
            format!("cannot make the directory {path:?}: {e}"),
        )
    })?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    let mounted = mount(tag, path, "virtiofs", flags, c"");
    mounted.map_err(failed(&format!("mount the share {tag:?} on {path:?}")))
}
