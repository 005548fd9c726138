//! What is done in the lab: conversations with its agent, each over a port of its own, one after the other.

use super::machine::{Machine, Spec};
use super::names::Copied;
use anyhow::{Context, Error, Result, anyhow, bail};
use donjon_agent_client::protocol::exit::Exit;
use donjon_agent_client::protocol::{Exec, Terminal, WindowSize};
use donjon_agent_client::{Client, CopyOptions, Event, Local, terminal_size};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// How long the machine may take to answer: many times what a busy host of two cores needs.
const BOOT: Duration = Duration::from_secs(120);
/// How often its socket is looked for.
const PAUSE: Duration = Duration::from_millis(20);
/// Variables of this process that programs get, too.
const PASSED: [&str; 3] = ["RUST_BACKTRACE", "RUST_LOG", "TERM"];
/// A terminal of which nothing is known.
const SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// A lab that runs.
pub struct Lab {
    machine: Machine,
    ports: usize,
    used: usize,
    timeout: Option<Duration>,
}

impl Lab {
    /// Starts one. It is gone when this is dropped, or after `timeout`.
    pub fn start(spec: &Spec, timeout: Option<Duration>) -> Result<Self> {
        Ok(Self {
            machine: Machine::start(spec, timeout)?,
            ports: spec.ports,
            used: 0,
            timeout,
        })
    }

    /// Copies something there.
    pub fn put(&mut self, Copied { host, lab }: &Copied) -> Result<()> {
        let done = self.agent()?.copy_in(host, lab, CopyOptions::default());
        done.with_context(|| format!("cannot copy {} to {lab} in the lab", host.display()))?;
        Ok(())
    }

    /// Copies something from there.
    pub fn get(&mut self, Copied { host, lab }: &Copied) -> Result<()> {
        let done = self.agent()?.copy_out(lab, host, CopyOptions::default());
        done.with_context(|| format!("cannot copy {lab} of the lab to {}", host.display()))?;
        Ok(())
    }

    /// Runs a program with this one's streams.
    pub fn attach(&mut self, command: &[String], stdin: bool, tty: bool) -> Result<Exit> {
        let terminal = tty.then(|| Terminal {
            size: terminal_size(std::io::stdout()).unwrap_or(SIZE),
            term: std::env::var("TERM").unwrap_or_else(|_| "linux".into()),
        });
        let exec = Exec {
            terminal,
            stdin,
            ..program(command)
        };
        let session = self.agent()?.exec(&exec)?;
        Ok(session.attach(Local::stdio(stdin)?, tty)?)
    }

    /// Runs a program and returns what it printed, which is shown as it comes.
    pub fn run(&mut self, command: &[String]) -> Result<(Exit, String)> {
        let mut session = self.agent()?.exec(&program(command))?;
        let mut printed = vec![];
        loop {
            let data = match session.next_event()? {
                Event::Stdout(data) | Event::Stderr(data) => data,
                Event::Exited(exit) => return Ok((exit, String::from_utf8_lossy(&printed).into_owned())),
                Event::Refused(error) => return Err(error.into()),
            };
            std::io::stdout().write_all(data)?;
            printed.extend_from_slice(data);
        }
    }

    /// The error, and why it is one.
    pub fn explain(&self, error: Error) -> Error {
        if let Some(time) = self.timeout.filter(|_| self.machine.timed_out()) {
            return anyhow!("the lab was ended after {} s", time.as_secs());
        }
        match self.machine.last_words() {
            words if words.is_empty() => error,
            words => anyhow!("{error:#}\nThe lab's kernel has said:\n{words}"),
        }
    }

    /// The agent at the next port, as soon as there is a socket.
    fn agent(&mut self) -> Result<Client> {
        assert!(self.used < self.ports, "there are enough ports for everything");
        self.used += 1;
        let until = Instant::now() + BOOT;
        let socket = self.machine.socket(self.used);
        while !socket.exists() {
            if !self.machine.is_alive() || Instant::now() > until {
                bail!("QEMU has not started");
            }
            thread::sleep(PAUSE);
        }
        Ok(Client::new(socket).with_patience(BOOT))
    }
}

/// A program without input.
fn program(command: &[String]) -> Exec {
    let own = PASSED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let env = own.chain([("XDG_RUNTIME_DIR".to_owned(), "/run/user/0".to_owned())]);
    Exec {
        argv: command.to_vec(),
        env: env.collect(),
        cwd: None,
        user: None,
        terminal: None,
        stdin: false,
    }
}
