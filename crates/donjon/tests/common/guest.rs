//! A guest whose shell is asked and answers.

use super::place::Place;
use super::{Finished, Running};

/// The image's first words, and its shell's.
const UP: &str = "donjon: tiny image up";
const PROMPT: &str = "tiny:~# ";

/// A running domain with the image `tiny`.
pub struct Guest {
    pub running: Running,
    asked: usize,
    boots: usize,
}

impl Guest {
    /// `donjon run` with these arguments, up to the shell.
    #[track_caller]
    pub fn boot(place: &Place, args: &[&str]) -> Self {
        let mut guest = Self::start(place, args);
        guest.up();
        guest
    }

    /// `donjon run` with these arguments.
    pub fn start(place: &Place, args: &[&str]) -> Self {
        Self::on(Running::start(&mut place.donjon(&[&["run"], args].concat())))
    }

    /// A domain that is running already.
    pub fn on(running: Running) -> Self {
        Self {
            running,
            asked: 0,
            boots: 0,
        }
    }

    /// Waits for the shell, after a start or a reset.
    #[track_caller]
    pub fn up(&mut self) {
        self.boots += 1;
        let boots = self.boots;
        self.running.wait(UP, |out| {
            let (at, _) = out.match_indices(UP).nth(boots - 1)?;
            out[at..].contains(PROMPT).then_some(())
        });
    }

    /// Begins a command. [`Guest::result`] waits for its end.
    pub fn begin(&mut self, command: &str) {
        self.asked += 1;
        let n = self.asked;
        // What is typed is echoed, so the marks are typed in another way than they are printed.
        let line = format!("echo '<'{n}'>'; {{ {command}; }}; echo '<'{n}:$?'>'\n");
        assert!(line.len() < 1000, "too long for the guest's terminal: {line}");
        self.running.send(&line);
    }

    /// What the command has printed so far.
    pub fn printed(&self) -> String {
        printed(&self.running.output(), self.asked)
    }

    /// Waits until what the command has printed contains `what`.
    #[track_caller]
    pub fn until(&mut self, what: &str) {
        let n = self.asked;
        self.running
            .wait(what, |out| printed(out, n).contains(what).then_some(()));
    }

    /// Waits for the end of the command: its exit code and what it has printed.
    #[track_caller]
    pub fn result(&mut self) -> (i32, String) {
        let end = format!("<{}:", self.asked);
        let code = self.running.wait(&end, |out| {
            let (code, _) = out.split_once(&end)?.1.split_once('>')?;
            code.parse().ok()
        });
        (code, self.printed().trim_end().into())
    }

    /// Runs a command, whatever its exit code is.
    #[track_caller]
    pub fn try_sh(&mut self, command: &str) -> (i32, String) {
        self.begin(command);
        self.result()
    }

    /// Runs a command that has to succeed; what it prints.
    #[track_caller]
    pub fn sh(&mut self, command: &str) -> String {
        let (code, text) = self.try_sh(command);
        assert_eq!(code, 0, "{command}:\n{text}");
        text
    }

    /// Waits until something holds for the shell, such as `[ -e /dev/vda ]`.
    #[track_caller]
    pub fn wait(&mut self, condition: &str) {
        self.sh(&format!(
            "n=0; until {condition}; do usleep 20000; n=$((n+1)); [ $n -lt 3000 ] || break; done; {condition}"
        ));
    }

    /// What the guest calls the disk with this serial number, such as `vda`; waits until it has one.
    #[track_caller]
    pub fn disk(&mut self, serial: &str) -> String {
        let files = "/sys/block/*/serial /sys/block/*/device/serial";
        self.wait(&format!("grep -q '^{serial} *$' {files} 2>/dev/null"));
        self.sh(&format!(
            "grep -l '^{serial} *$' {files} 2>/dev/null | cut -d/ -f4"
        ))
    }

    /// Powers it off.
    #[track_caller]
    pub fn off(mut self) -> Finished {
        self.running.send("poweroff\n");
        self.running.close();
        self.running.finish().exits(0)
    }
}

fn printed(output: &str, n: usize) -> String {
    let output = output.replace('\r', "");
    let (start, end) = (format!("<{n}>\n"), format!("<{n}:"));
    let text = output.split_once(&start).map_or("", |(_, rest)| rest);
    text.split_once(&end).map_or(text, |(before, _)| before).into()
}
