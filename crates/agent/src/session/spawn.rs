//! Starting a program.

use super::Agent;
use crate::accounts::{self, Account};
use crate::child::Plan;
use donjon_agent_protocol::{Error, ErrorKind, Exec, Terminal, WindowSize};
use rustix::fs::{Mode, OFlags, fchmod, fchown, fcntl_getfl, fcntl_setfl, open};
use rustix::process::{Gid, Pid, PidfdFlags, Uid, geteuid, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// PATH where nobody says otherwise.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that runs, and our ends of its streams, none of which blocks.
pub struct Running {
    pub child: Child,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Process and session.
    pub pid: Pid,
    pub stdin: Option<File>,
    /// The terminal, if it has one.
    pub stdout: File,
    pub stderr: Option<File>,
    pub terminal: bool,
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

fn failed(what: &str, e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot {what}: {e}"))
}

/// Starts it.
pub fn spawn(agent: &Agent, exec: &Exec) -> Result<Running, Error> {
    let zero = |s: &String| s.contains('\0');
    if exec.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("there is no program to run"));
    }
    if exec.argv.iter().chain(&exec.cwd).any(zero) {
        return Err(invalid("the command has a zero byte in it"));
    }
    let user = exec.user.as_ref().or(agent.defaults.user.as_ref());
    let account = accounts::resolve(agent.system.root(), user.map_or("0", |u| u))?;
    let env = environment(agent, exec, &account)?;
    let cwd = exec.cwd.as_ref().or(agent.defaults.cwd.as_ref());
    let cwd = match cwd {
        Some(cwd) => agent.path(cwd)?,
        None => Some(agent.path(&account.home)?)
            .filter(|home| home.is_dir())
            .unwrap_or_else(|| agent.system.root().into()),
    };
    let plan = Plan {
        ids: ids(&account)?,
        terminal: exec.terminal.is_some(),
        cwd: cwd.into(),
        make_cwd: false,
        argv: exec.argv.iter().map(Into::into).collect(),
    };
    let mut command = plan.command(&agent.helper);
    command.env_clear().envs(env);
    match &exec.terminal {
        Some(terminal) => on_terminal(command, terminal, &account),
        None => on_pipes(command, exec.stdin),
    }
}

/// An agent that is not root has no choice.
fn ids(account: &Account) -> Result<Option<(u32, u32, Vec<u32>)>, Error> {
    let own = geteuid();
    if own.is_root() {
        return Ok(Some((account.uid, account.gid, account.groups.clone())));
    }
    if account.uid != own.as_raw() {
        let what = format!(
            "the agent does not run as root and cannot become {}",
            account.name
        );
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(None)
}

fn environment(agent: &Agent, exec: &Exec, account: &Account) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    for (name, value) in [
        ("HOME", &*account.home),
        ("LOGNAME", &account.name),
        ("PATH", PATH),
        ("SHELL", &account.shell),
        ("USER", &account.name),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    if let Some(terminal) = &exec.terminal {
        env.insert("TERM".into(), terminal.term.clone());
    }
    env.extend(agent.defaults.env.iter().cloned());
    env.extend(exec.env.iter().cloned());
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "{name:?} cannot be in an environment with this value"
            )));
        }
    }
    Ok(env)
}

fn start(mut command: Command) -> Result<(Child, Pid, OwnedFd), Error> {
    let mut child = command.spawn().map_err(|e| failed("start a process", e))?;
    let pid = Pid::from_child(&child);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((child, pid, pidfd)),
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(failed("watch a process", e))
        }
    }
}

fn on_pipes(mut command: Command, stdin: bool) -> Result<Running, Error> {
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, pid, pidfd) = start(command)?;
    let stdin = child.stdin.take().map(|s| File::from(OwnedFd::from(s)));
    let stdout = child.stdout.take().map(|s| File::from(OwnedFd::from(s)));
    let stderr = child.stderr.take().map(|s| File::from(OwnedFd::from(s)));
    let unblocked = [&stdin, &stdout, &stderr]
        .into_iter()
        .flatten()
        .try_for_each(unblock);
    match (unblocked, stdout) {
        (Ok(()), Some(stdout)) => Ok(Running {
            child,
            pidfd,
            pid,
            stdin,
            stdout,
            stderr,
            terminal: false,
        }),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            Err(failed("use the program's pipes", "fcntl failed"))
        }
    }
}

fn on_terminal(mut command: Command, terminal: &Terminal, account: &Account) -> Result<Running, Error> {
    let no_terminal = |e| failed("make a terminal; is devpts mounted on /dev/pts?", e);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(no_terminal)?;
    grantpt(&master)
        .and_then(|()| unlockpt(&master))
        .map_err(no_terminal)?;
    let name = ptsname(&master, vec![]).map_err(no_terminal)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(&name, flags, Mode::empty()).map_err(no_terminal)?;
    if geteuid().is_root() {
        // As login(1) does, so that the user may open it again and others may not.
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        fchown(&slave, Some(uid), Some(gid)).map_err(no_terminal)?;
        fchmod(&slave, Mode::from_raw_mode(0o620)).map_err(no_terminal)?;
    }
    resize(&master, terminal.size).map_err(no_terminal)?;
    unblock(&master).map_err(no_terminal)?;
    let master = File::from(master);
    let copies = slave
        .try_clone()
        .and_then(|out| Ok((out, slave.try_clone()?, master.try_clone()?)));
    let (out, err, input) = copies.map_err(|e| failed("make a terminal", e))?;
    command.stdin(slave).stdout(out).stderr(err);
    let (child, pid, pidfd) = start(command)?;
    Ok(Running {
        child,
        pidfd,
        pid,
        stdin: Some(input),
        stdout: master,
        stderr: None,
        terminal: true,
    })
}

fn unblock(file: impl AsFd) -> rustix::io::Result<()> {
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)
}

/// Sets a terminal's size.
pub fn resize(master: impl AsFd, size: WindowSize) -> rustix::io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size)
}
