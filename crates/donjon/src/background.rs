//! Domains in the background: starting, ending and removing them, and what they wrote.

use crate::cli::exit;
use crate::control::run_directory;
use crate::failure::Failure;
use crate::log;
use anyhow::{Context, anyhow};
use donjon_agent_client::protocol::Shutdown;
use donjon_agent_client::{Client, ClientError};
use donjon_control::{Command as Ask, Info, Name, RunDirectory, ask};
use donjon_host::domains::{Domain, Domains};
use donjon_host::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a domain may take until it answers. Its kernel may have to be fetched.
const START: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(20);
/// How long a process may take to end that was told to.
const END: Duration = Duration::from_secs(20);
/// How long an agent may take to be reached.
const AGENT: Duration = Duration::from_secs(3);

/// Starts a process for a domain of the store and waits until that answers.
pub fn start(domain: &Domain) -> Result<u8, Failure> {
    let name: Name = domain.name.parse()?;
    let socket = run_directory()?.socket(&name);
    let errors = domain.file("vmm.log");
    let file = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut child = Command::new(program)
        .args(["vmm", name.as_str()])
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("cannot start a process for the domain")?;
    let until = Instant::now() + START;
    while ask::<Info>(&socket, &Ask::Info).is_err() {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            // A program that is quick may have done its work already.
            if status.success() {
                break;
            }
            let said = said.trim().trim_start_matches("error: ");
            return Err(anyhow!("{name} did not start: {said}").into());
        }
        if Instant::now() > until {
            let _ = child.kill();
            return Err(anyhow!("{name} does not answer; look at {}", errors.display()).into());
        }
        std::thread::sleep(PAUSE);
    }
    println!("{name}");
    Ok(exit::SUCCESS)
}

/// `donjon start`.
pub fn start_again(names: &[String]) -> Result<u8, Failure> {
    let domains = Domains::of(&Store::of_user()?);
    for name in names {
        let domain = domains.get(name)?;
        let name: Name = domain.name.parse()?;
        if run_directory()?.running()?.contains(&name) {
            let error = anyhow!("{name} runs already");
            return Err(Failure::with_hint(
                error,
                format!("to start it anew: donjon stop {name}, then donjon start {name}"),
            ));
        }
        start(&domain)?;
    }
    Ok(exit::SUCCESS)
}

/// `donjon stop`.
pub fn stop(names: &[String], patience: Duration, force: bool) -> Result<u8, Failure> {
    let directory = run_directory()?;
    let mut found = vec![];
    for name in names {
        found.push(directory.find(name)?);
    }
    // All at once, so that they take no longer than the slowest.
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let stops: Vec<_> = found
            .iter()
            .map(|name| scope.spawn(|| stop_one(&directory, name, patience, force)))
            .collect();
        stops
            .into_iter()
            .map(|s| s.join().unwrap_or_else(|_| Err(anyhow!("internal error").into())))
            .collect()
    });
    for (name, result) in found.iter().zip(results) {
        result?;
        println!("{name}");
    }
    Ok(exit::SUCCESS)
}

fn stop_one(directory: &RunDirectory, name: &Name, patience: Duration, force: bool) -> Result<(), Failure> {
    let info: Info = match ask(&directory.socket(name), &Ask::Info) {
        Ok(info) => info,
        Err(_) if gone(directory, name, Duration::ZERO)? => return Ok(()),
        Err(e) => return Err(anyhow!("{name}: {e}").into()),
    };
    if !force {
        ask_to_shut_down(directory, name)?;
        if gone(directory, name, patience)? {
            return Ok(());
        }
        eprintln!(
            "donjon: {name} has not shut down within {} s; it is ended",
            patience.as_secs()
        );
    }
    let pid = i32::try_from(info.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow!("{name} names no process"))?;
    for signal in [Signal::TERM, Signal::KILL] {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(anyhow!("cannot end process {} of {name}: {e}", info.pid).into()),
        }
        if gone(directory, name, END)? {
            return Ok(());
        }
    }
    Err(anyhow!("process {} of {name} does not end", info.pid).into())
}

/// By the agent, which every system understands, or else by the power button.
fn ask_to_shut_down(directory: &RunDirectory, name: &Name) -> Result<(), Failure> {
    let agent = Client::new(directory.vsock(name)).with_patience(AGENT);
    match agent.shutdown(Shutdown::PowerOff) {
        // It goes faster than it can answer.
        Ok(()) | Err(ClientError::Gone) => return Ok(()),
        Err(e) => tracing::debug!("no shutdown by the agent: {e}"),
    }
    match ask::<bool>(&directory.socket(name), &Ask::PowerButton) {
        Ok(_) => Ok(()),
        Err(_) if gone(directory, name, Duration::ZERO)? => Ok(()),
        Err(e) => Err(anyhow!("{name}: {e}").into()),
    }
}

/// Waits until a domain runs no more.
fn gone(directory: &RunDirectory, name: &Name, patience: Duration) -> Result<bool, Failure> {
    let until = Instant::now() + patience;
    loop {
        if !directory.running()?.contains(name) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// `donjon rm`.
pub fn remove(names: &[String], force: bool) -> Result<u8, Failure> {
    let (domains, directory) = (Domains::of(&Store::of_user()?), run_directory()?);
    for name in names {
        if let Ok(running) = name.parse::<Name>()
            && directory.running()?.contains(&running)
        {
            if !force {
                let hint = format!("end it first: donjon stop {name}, or do both: donjon rm --force {name}");
                return Err(Failure::with_hint(anyhow!("{name} is running"), hint));
            }
            stop_one(&directory, &running, Duration::ZERO, true)?;
            if domains.get(name).is_err() {
                // It went with its process: --rm.
                println!("{name}");
                continue;
            }
        }
        domains.remove(name)?;
        println!("{name}");
    }
    domains.sweep()?;
    Ok(exit::SUCCESS)
}

/// `donjon logs`.
pub fn logs(name: &str, follow: bool) -> Result<u8, Failure> {
    let domain = Domains::of(&Store::of_user()?).get(name)?;
    let directory = run_directory()?;
    let running: Name = domain.name.parse()?;
    let mut out = io::stdout().lock();
    let path = domain.log();
    for old in [log::older(&path)] {
        if let Ok(mut old) = File::open(old) {
            io::copy(&mut old, &mut out)?;
        }
    }
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let error = anyhow!("{name} has written nothing that is kept");
            return Err(Failure::with_hint(
                error,
                "only domains in the background keep it: donjon run -d",
            ));
        }
        Err(e) => return Err(anyhow!("cannot read {}: {e}", path.display()).into()),
    };
    let mut at = 0;
    loop {
        let alive = follow && directory.running()?.contains(&running);
        at += match io::copy(&mut file, &mut out).and_then(|n| out.flush().map(|()| n)) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(exit::SUCCESS),
            other => other?,
        };
        if !alive {
            return Ok(exit::SUCCESS);
        }
        std::thread::sleep(PAUSE);
        // It may have become the older one.
        if File::open(&path)?.metadata()?.len() < at {
            let mut rest = vec![];
            file.read_to_end(&mut rest)?;
            out.write_all(&rest)?;
            file = File::open(&path)?;
            at = file.seek(SeekFrom::Start(0))?;
        }
    }
}
