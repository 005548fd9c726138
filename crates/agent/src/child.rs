//! `donjon-agent child`: what a program is started through. Between fork and exec only a program of its own can do,
//! without unsafe code, what has to be done in the new process.

use rustix::fs::Mode;
use rustix::process::{Gid, Uid, chdir, ioctl_tiocsctty, setsid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The exit code of a program that was found and could not be started, as of a shell.
pub const NOT_EXECUTABLE: u8 = 126;
/// The exit code of a program that was not found.
pub const NOT_FOUND: u8 = 127;

/// What the new process becomes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// User, group, and all groups; the agent's own, if not given.
    pub ids: Option<(u32, u32, Vec<u32>)>,
    /// Standard input becomes the controlling terminal.
    pub terminal: bool,
    /// The working directory, made first if it is missing and this says so.
    pub cwd: OsString,
    /// See `cwd`.
    pub make_cwd: bool,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

impl Plan {
    /// The command that becomes it. `helper` is the agent's own binary.
    pub fn command(&self, helper: &Path) -> Command {
        let mut command = Command::new(helper);
        let ids = match &self.ids {
            Some((uid, gid, groups)) => {
                let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
                format!("{uid}:{gid}:{}", groups.join(","))
            }
            None => String::new(),
        };
        let flag = |on| if on { "1" } else { "0" };
        command.args(["child", &ids, flag(self.terminal), flag(self.make_cwd)]);
        command.arg(&self.cwd).args(&self.argv);
        command
    }

    /// Reads it back from the arguments behind `child`.
    fn parse(args: &[OsString]) -> Option<Self> {
        let [ids, terminal, make_cwd, cwd, argv @ ..] = args else {
            return None;
        };
        let ids = match ids.to_str()? {
            "" => None,
            ids => {
                let mut fields = ids.split(':');
                let uid = fields.next()?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                let groups = fields.next()?.split(',').map(|g| g.parse().ok());
                Some((uid, gid, groups.collect::<Option<_>>()?))
            }
        };
        Some(Self {
            ids,
            terminal: terminal == "1",
            cwd: cwd.clone(),
            make_cwd: make_cwd == "1",
            argv: argv.into(),
        })
    }

    /// Becomes the program. Returns what the process exits with if it could not.
    fn become_it(&self) -> (String, u8) {
        let Some((program, rest)) = self.argv.split_first() else {
            return ("there is no program to run".into(), NOT_EXECUTABLE);
        };
        if let Err((what, e)) = self.prepare() {
            return (format!("cannot {what}: {e}"), NOT_EXECUTABLE);
        }
        let error = Command::new(program).args(rest).exec();
        let code = if error.kind() == io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        };
        (format!("cannot run {program:?}: {error}"), code)
    }

    fn prepare(&self) -> Result<(), (String, io::Error)> {
        let what = |what: &str| {
            let what = what.to_owned();
            move |e: rustix::io::Errno| (what, io::Error::from(e))
        };
        setsid().map_err(what("begin a session"))?;
        if self.terminal {
            ioctl_tiocsctty(rustix::stdio::stdin()).map_err(what("get the terminal"))?;
        }
        umask(Mode::from_raw_mode(0o022));
        if self.make_cwd {
            let made = std::fs::create_dir_all(&self.cwd);
            made.map_err(|e| (format!("make the directory {:?}", self.cwd), e))?;
        }
        if let Some((uid, gid, groups)) = &self.ids {
            let groups: Vec<_> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            // This process has one thread.
            set_thread_groups(&groups).map_err(what("take the user's groups"))?;
            set_thread_res_gid(gid, gid, gid).map_err(what("become the group"))?;
            set_thread_res_uid(uid, uid, uid).map_err(what("become the user"))?;
        }
        let cwd: &OsStr = &self.cwd;
        chdir(cwd).map_err(what(&format!("go to the directory {cwd:?}")))
    }
}

/// Does what the arguments behind `child` say. Returns only if that failed: the exit code.
pub fn main(args: &[OsString]) -> u8 {
    let (message, code) = match Plan::parse(args) {
        Some(plan) => plan.become_it(),
        None => ("`child` is for the agent's own use".into(), NOT_EXECUTABLE),
    };
    eprintln!("donjon-agent: {message}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_the_command_line() {
        let plans = [
            Plan {
                ids: Some((1, 2, vec![2, 3])),
                terminal: true,
                cwd: "/".into(),
                make_cwd: false,
                argv: vec!["a".into(), "".into(), "--child".into()],
            },
            Plan {
                make_cwd: true,
                ..Plan::default()
            },
        ];
        for plan in plans {
            let command = plan.command(Path::new("x"));
            let args: Vec<_> = command.get_args().skip(1).map(OsString::from).collect();
            assert_eq!(Plan::parse(&args), Some(plan));
        }
        assert_eq!(Plan::parse(&[]), None);
    }
}
