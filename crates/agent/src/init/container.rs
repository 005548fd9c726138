//! One program as the machine's only purpose.

use super::console::say;
use super::{BINARY, DEFAULTS, network, power, reaper};
use crate::accounts;
use crate::child::Plan;
use crate::guest::mount_share;
use crate::session::Defaults;
use crate::session::PATH;
use donjon_agent_protocol::boot::Container;
use donjon_agent_protocol::exit::Report;
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::RebootCommand;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::fchown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long between two starts of the serving process.
const RESTART: Duration = Duration::from_secs(1);
/// SIGPWR, which signal-hook does not name.
const SIGPWR: i32 = 30;

/// Runs it, and ends the machine.
pub fn run(config: &Container) -> Result<std::convert::Infallible, String> {
    network::set_up(config, say);
    for share in &config.shares {
        mount_share(&share.tag, Path::new(&share.path), share.read_only).map_err(|e| e.message)?;
    }
    let signals = signals()?;
    let command = program(config)?;
    save_defaults(config)?;
    let serving = serve();
    let main = start(command)?;
    let machine = Machine {
        main,
        serving,
        stop_signal: Signal::from_named_raw(config.stop_signal.into()).unwrap_or(Signal::TERM),
        stop_time: Duration::from_secs(config.stop_seconds.into()),
    };
    let (report, how) = machine.watch(&signals);
    if let Err(e) = reaper::tell_host(&report) {
        let exit = match &report {
            Report::Exited(exit) => exit.to_string(),
            Report::Failed(why) => why.clone(),
        };
        say(&format!(
            "the program has ended ({exit}); the host does not want to know: {e}"
        ));
    }
    power::end(how)
}

/// The signals of process 1. They come from one thread that only passes them on.
fn signals() -> Result<Receiver<i32>, String> {
    let caught = [
        SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
    ];
    let failed = |e: std::io::Error| format!("cannot receive signals: {e}");
    let mut signals = Signals::new(caught).map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    let pass_on = move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(pass_on).map_err(failed)?;
    Ok(receiver)
}

/// The program's command.
fn program(config: &Container) -> Result<Command, String> {
    if config.argv.first().is_none_or(String::is_empty) {
        return Err("the image names no program; give one".into());
    }
    let user = if config.user.is_empty() { "0" } else { &config.user };
    let account = accounts::resolve(Path::new("/"), user).map_err(|e| e.message)?;
    let cwd = if config.cwd.is_empty() { "/" } else { &config.cwd };
    let plan = Plan {
        ids: Some((account.uid, account.gid, account.groups)),
        terminal: config.tty,
        cwd: cwd.into(),
        make_cwd: true,
        argv: config.argv.iter().map(Into::into).collect(),
    };
    let mut command = plan.command(Path::new(BINARY));
    command.env_clear().env("PATH", PATH).env("HOME", &account.home);
    if config.tty {
        command.env("TERM", "xterm");
    }
    if !config.hostname.is_empty() {
        command.env("HOSTNAME", &config.hostname);
    }
    command.envs(environment(config));
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        // So that the program can open /dev/stdout, as it could in a container.
        if let Err(e) = fchown(&console, Some(account.uid), Some(account.gid)) {
            say(&format!("cannot give {} the console: {e}", account.name));
        }
        let copies = (console.try_clone(), console.try_clone());
        if let (Ok(out), Ok(err)) = copies {
            command.stdout(out).stderr(err);
        }
        if config.tty {
            command.stdin(console);
        } else {
            command.stdin(Stdio::null());
        }
    }
    Ok(command)
}

fn environment(config: &Container) -> impl Iterator<Item = (String, String)> {
    let split = |v: &String| v.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    config.env.iter().filter_map(split).filter(|(n, _)| !n.is_empty())
}

/// Tells the serving process what programs of the host run as: like this one.
fn save_defaults(config: &Container) -> Result<(), String> {
    let filled = |s: &String| (!s.is_empty()).then(|| s.clone());
    let defaults = Defaults {
        env: environment(config).collect(),
        cwd: filled(&config.cwd),
        user: filled(&config.user),
    };
    fs::write(DEFAULTS, defaults.to_bytes()).map_err(|e| format!("cannot write {DEFAULTS}: {e}"))
}

/// Process IDs come from the kernel; the handle is not needed, since process 1 waits for everybody.
fn start(mut command: Command) -> Result<Pid, String> {
    let child = command
        .spawn()
        .map_err(|e| format!("cannot start a process: {e}"))?;
    Ok(Pid::from_child(&child))
}

fn serve() -> Option<Pid> {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--init"]).env_clear().env("PATH", PATH);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    start(command).map_err(|e| say(&e)).ok()
}

/// The program and the serving process.
struct Machine {
    main: Pid,
    serving: Option<Pid>,
    stop_signal: Signal,
    stop_time: Duration,
}

impl Machine {
    /// Waits until the program has ended.
    fn watch(mut self, signals: &Receiver<i32>) -> (Report, RebootCommand) {
        let mut how = RebootCommand::PowerOff;
        // When it is to be killed.
        let mut deadline = None;
        let mut restart: Option<Instant> = None;
        loop {
            for (pid, exit) in reaper::ended() {
                if pid == self.main {
                    return (Report::Exited(exit), how);
                }
                if Some(pid) == self.serving {
                    self.serving = None;
                    restart = Some(Instant::now() + RESTART);
                }
            }
            let now = Instant::now();
            if deadline.is_some_and(|d| d <= now) {
                let _ = kill_process(self.main, Signal::KILL);
                deadline = None;
            }
            if restart.is_some_and(|r| r <= now) {
                self.serving = serve();
                restart = None;
            }
            let next = [deadline, restart].into_iter().flatten().min();
            let signal = match next {
                None => signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(next) => signals.recv_timeout(next.saturating_duration_since(now)),
            };
            match signal {
                Ok(SIGINT | SIGPWR | SIGTERM | SIGUSR2) => {
                    if signal == Ok(SIGINT) {
                        how = RebootCommand::Restart;
                    }
                    let _ = kill_process(self.main, self.stop_signal);
                    deadline = deadline.or(Some(now + self.stop_time));
                }
                Ok(SIGHUP) => self.pass(Signal::HUP),
                Ok(SIGQUIT) => self.pass(Signal::QUIT),
                Ok(SIGUSR1) => self.pass(Signal::USR1),
                // Somebody has ended, or it is time.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                // The thread never ends.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(RESTART),
            }
        }
    }

    fn pass(&self, signal: Signal) {
        let _ = kill_process(self.main, signal);
    }
}
