//! Runs the real binary as its user would.
#![allow(dead_code)]

pub mod guest;
pub mod place;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// More than any guest here needs, on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(240);

/// `donjon` with these arguments.
pub fn donjon(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_donjon"));
    command.args(args).env_remove("RUST_LOG");
    command
}

/// A TCP port of the host that nobody has.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has one").port()
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Checks the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self {
            status,
            stdout,
            stderr,
        } = &self;
        assert_eq!(
            status.code(),
            Some(code),
            "{status}\n── stdout\n{stdout}\n── stderr\n{stderr}"
        );
        self
    }

    /// Checks that standard error has all of these.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        }
        self
    }
}

/// Runs to the end with `input` on standard input, which then ends.
pub fn finish(command: &mut Command, input: &str) -> Finished {
    let mut running = Running::start(command);
    running.send(input);
    running.close();
    running.finish()
}

/// A running donjon.
pub struct Running {
    pub child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    line: String,
}

#[derive(Default)]
struct Output {
    bytes: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Output {
    fn collect(mut from: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let mine = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let n = from.read(&mut buffer).unwrap_or(0);
                let mut held = mine.bytes.lock().unwrap();
                held.0.extend_from_slice(&buffer[..n]);
                held.1 = n == 0;
                mine.more.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        output
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap().0).into_owned()
    }

    fn ended(&self) {
        let held = self.bytes.lock().unwrap();
        drop(
            self.more
                .wait_timeout_while(held, Duration::from_secs(10), |b| !b.1)
                .unwrap(),
        );
    }
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("donjon starts");
        let stdin = child.stdin.take();
        let stdout = Output::collect(child.stdout.take().expect("piped"));
        let stderr = Output::collect(child.stderr.take().expect("piped"));
        Self {
            child,
            stdin,
            stdout,
            stderr,
            line,
        }
    }

    /// Writes to standard input.
    pub fn send(&mut self, text: &str) {
        // A domain that has ended takes nothing.
        let _ = self
            .stdin
            .as_mut()
            .expect("not closed")
            .write_all(text.as_bytes());
    }

    /// Ends standard input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits until standard output has at least `times` times `what`.
    #[track_caller]
    pub fn expect(&mut self, what: &str, times: usize) {
        self.wait(what, |out| (out.matches(what).count() >= times).then_some(()));
    }

    /// Waits until something, `what`, is `found` in standard output.
    #[track_caller]
    pub fn wait<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let ended = start.elapsed() > LIMIT || self.child.try_wait().expect("waits").is_some();
            if ended {
                self.stdout.ended();
            }
            if let Some(it) = found(&self.stdout.text()) {
                return it;
            }
            if ended {
                let (out, err) = (self.stdout.text(), self.stderr.text());
                self.child.kill().ok();
                panic!(
                    "no {what:?} from {}\n── stdout\n{out}\n── stderr\n{err}",
                    self.line
                );
            }
            let held = self.stdout.bytes.lock().unwrap();
            drop(
                self.stdout
                    .more
                    .wait_timeout(held, Duration::from_millis(100))
                    .unwrap(),
            );
        }
    }

    /// Standard output so far.
    pub fn output(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub fn errors(&self) -> String {
        self.stderr.text()
    }

    /// Ends it as a power cut would; what it has written until then.
    pub fn kill(mut self) -> String {
        self.child.kill().expect("it runs");
        self.child.wait().expect("waits");
        self.stdout.ended();
        self.stdout.text()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("waits") {
                Some(status) => break status,
                None if start.elapsed() > LIMIT => {
                    let (out, err) = (self.stdout.text(), self.stderr.text());
                    self.child.kill().ok();
                    panic!("{} does not end\n── stdout\n{out}\n── stderr\n{err}", self.line);
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        self.stdout.ended();
        self.stderr.ended();
        Finished {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// CPU time it has used (proc(5), /proc/pid/stat, fields 14 and 15).
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .expect("a name")
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|f| f.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// CPU time it uses in the next `time`.
    pub fn cpu_time_during(&self, time: Duration) -> Duration {
        let before = self.cpu_time();
        thread::sleep(time);
        self.cpu_time() - before
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of no consequence if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file in `directory`.
pub fn file(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).expect("writes");
    path
}

/// The path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
