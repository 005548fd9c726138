//! Running a program that may hang, and looking at what it prints as it comes.

use crate::command::shown;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A guest that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(300);
/// Lines of a console that an error shows.
const TAIL: usize = 40;

/// A program that has ended well.
pub struct Ended {
    /// From its start.
    pub took: Duration,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

/// Killed when dropped, so that no error leaves a guest behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end. Whenever there is more output, `look` gets all there is so far, the time since the start
/// and the program's input. An error if the program fails or takes too long.
pub fn watch(
    command: Command,
    look: impl FnMut(&str, Duration, &mut ChildStdin) -> Result<()>,
) -> Result<Ended> {
    watch_for(LIMIT, command, look)
}

fn watch_for(
    limit: Duration,
    mut command: Command,
    mut look: impl FnMut(&str, Duration, &mut ChildStdin) -> Result<()>,
) -> Result<Ended> {
    let line = shown(&command);
    let start = Instant::now();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start: {line}"))?;
    let mut child = Killed(child);
    let mut stdin = child.0.stdin.take().expect("piped");
    let output = pieces(child.0.stdout.take().expect("piped"));
    let errors = pieces(child.0.stderr.take().expect("piped"));
    let mut seen = String::new();
    loop {
        match output.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(piece) => seen += &String::from_utf8_lossy(&piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("no end within {} s of: {line}\n{}", limit.as_secs(), tail(&seen));
            }
        }
        look(&seen, start.elapsed(), &mut stdin)?;
    }
    let status = child.0.wait()?;
    let took = start.elapsed();
    let errors = String::from_utf8_lossy(&errors.iter().flatten().collect::<Vec<_>>()).into_owned();
    if !status.success() {
        bail!("{status} from: {line}\n{}\n{errors}", tail(&seen));
    }
    Ok(Ended {
        took,
        output: seen,
        errors,
    })
}

/// What `source` gives, as it comes.
fn pieces(mut source: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = source.read(&mut buffer)
            && sender.send(buffer[..n].to_vec()).is_ok()
        {}
    });
    receiver
}

/// The last lines of a console, without what would command a terminal.
pub fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    tail.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    }

    #[test]
    fn output_comes_as_it_is_printed_and_input_gets_there() {
        let mut told = false;
        let ended = watch(
            sh("echo ready; read word; echo got $word; echo bad >&2"),
            |seen, _, stdin| {
                if !told && seen.contains("ready") {
                    told = true;
                    std::io::Write::write_all(stdin, b"this\n")?;
                }
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(ended.output, "ready\ngot this\n");
        assert_eq!(ended.errors, "bad\n");
    }

    #[test]
    fn a_failure_shows_both_streams() {
        let error = watch(sh("echo here; echo there >&2; exit 3"), |_, _, _| Ok(()))
            .err()
            .unwrap()
            .to_string();
        for part in ["3", "sh -c", "here", "there"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn what_hangs_is_ended_and_shows_what_it_said() {
        let limit = Duration::from_millis(500);
        let start = Instant::now();
        let error = watch_for(limit, sh("echo here; exec sleep 60"), |_, _, _| Ok(()))
            .err()
            .unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(error.to_string().ends_with("\nhere"), "{error}");
    }

    #[test]
    fn the_tail_is_the_end() {
        let console: String = (0..100).map(|n| format!("line \x1b{n}\r\n")).collect();
        let tail = tail(&console);
        assert!(
            tail.starts_with("line 60\n") && tail.ends_with("line 99"),
            "{tail}"
        );
    }
}
