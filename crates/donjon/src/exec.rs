//! `donjon exec` and `donjon cp`.

use crate::cli::{ExecArgs, exit};
use crate::control::run_directory;
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use donjon_agent_client::protocol::{Exec, Terminal, WindowSize};
use donjon_agent_client::{Client, CopyOptions, Local, terminal_size};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

/// A terminal of which nothing is known.
const SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// The agent of a running domain.
fn agent(name: &str, wait: u64) -> Result<Client, Failure> {
    let directory = run_directory()?;
    let client = Client::new(directory.vsock(&directory.find(name)?));
    if wait > 0 {
        client.wait_ready(Duration::from_secs(wait))?;
    }
    Ok(client)
}

/// Runs a program in a guest; its exit code.
pub fn exec(args: &ExecArgs) -> Result<u8, Failure> {
    let env = args.env.iter().map(|variable| match variable.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::with_hint(
            anyhow!("-e {variable} is no variable"),
            "write it as -e NAME=VALUE",
        )),
    });
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        let error = anyhow!("-t with -i needs a terminal, and standard input is none");
        return Err(Failure::with_hint(error, "leave -t out"));
    }
    let terminal = args.tty.then(|| Terminal {
        size: terminal_size(io::stdout()).unwrap_or(SIZE),
        term: std::env::var("TERM").unwrap_or_else(|_| "xterm".into()),
    });
    let session = agent(&args.name, args.wait)?.exec(&Exec {
        argv: args.command.clone(),
        env: env.collect::<Result<_, _>>()?,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        terminal,
        stdin: args.interactive,
    })?;
    let local = Local::stdio(args.interactive).context("cannot use standard input and output")?;
    Ok(session.attach(local, args.tty)?.code())
}

/// Copies between here and a guest.
pub fn copy(from: &str, to: &str, follow: bool, preserve: bool) -> Result<u8, Failure> {
    let options = CopyOptions { follow, preserve };
    match (in_guest(from), in_guest(to)) {
        (None, Some((name, path))) => agent(name, 0)?.copy_in(Path::new(from), path, options)?,
        (Some((name, path)), None) => agent(name, 0)?.copy_out(path, Path::new(to), options)?,
        (None, None) => {
            let error = anyhow!("neither {from} nor {to} is in a guest");
            return Err(Failure::with_hint(
                error,
                "write files of a guest as NAME:PATH, such as web:/etc/hosts",
            ));
        }
        (Some(_), Some(_)) => {
            let error = anyhow!("{from} and {to} are both in guests");
            return Err(Failure::with_hint(
                error,
                "copy to this host first, and from there",
            ));
        }
    };
    Ok(exit::SUCCESS)
}

/// `NAME:PATH`; a path of this host with a colon is written `./a:b`.
fn in_guest(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    let named = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    named.then_some((name, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_guests_are_told_from_those_here() {
        assert_eq!(in_guest("web:/etc"), Some(("web", "/etc")));
        assert_eq!(in_guest("web:a:b"), Some(("web", "a:b")));
        for here in ["file", "/a:b", "./a:b", ":b", "../x:y"] {
            assert_eq!(in_guest(here), None, "{here}");
        }
    }
}
