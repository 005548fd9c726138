//! Running rows on several machines, alternating.

use super::report::{Report, has_begun, has_ended};
use super::watch::{tail, watch};
use crate::command::shown;
use anyhow::{Result, bail};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// The environment variable that selects rows.
pub const WORDS: &str = "BENCH_ROWS";
/// How far the guest's clock may be from the host's: this part of it, and a constant for the console's delay.
const CLOCK_ERROR: (f64, f64) = (0.05, 0.25);

/// Words that select rows, as an argument. It goes through a kernel's command line.
pub fn words(text: &str) -> Result<String, String> {
    let proper = |c: char| c.is_ascii_alphanumeric() || "/-,".contains(c);
    if text.chars().all(proper) && text.split(',').all(|word| !word.is_empty()) {
        Ok(text.into())
    } else {
        Err("parts of names of rows, separated by commas, such as integer,memcpy or blk,tcp".into())
    }
}

/// An error unless each word selects something from the list of all rows.
pub fn check_words(words: &str, list: &str) -> Result<()> {
    match words
        .split(',')
        .find(|w| !list.lines().any(|row| row.contains(w)))
    {
        Some(word) => bail!("no row's name contains {word}; they are:\n{}", list.trim_end()),
        None => Ok(()),
    }
}

/// Something the rows run on.
pub struct Machine<'a> {
    name: &'static str,
    command: Box<dyn Fn() -> Result<Command> + 'a>,
    reports: Vec<Report>,
}

impl<'a> Machine<'a> {
    /// One that `command` starts, after putting in order what the rows before have changed.
    pub fn new(name: &'static str, command: impl Fn() -> Result<Command> + 'a) -> Self {
        Self {
            name,
            command: Box::new(command),
            reports: vec![],
        }
    }

    /// Its name and a report for each run, for [`super::compare::compare`].
    pub fn reports(&self) -> (&'static str, &[Report]) {
        (self.name, &self.reports)
    }
}

/// Has each machine run all rows so many times. `heard` gets what was said on standard error.
pub fn alternate(machines: &mut [Machine<'_>], runs: u32, mut heard: impl FnMut(&str)) -> Result<()> {
    for n in 1..=runs {
        print!("run {n}:");
        for machine in &mut *machines {
            // A minute may pass before the next word.
            std::io::stdout().flush()?;
            // The error gets a line of its own.
            let measured = (machine.command)().and_then(measure);
            let (report, took, errors) = measured.inspect_err(|_| println!())?;
            print!(" {} {:.1} s", machine.name, took.as_secs_f64());
            machine.reports.push(report);
            heard(&errors);
        }
        println!();
    }
    Ok(())
}

/// One run of all rows; the time that everything took, and what was said on standard error.
fn measure(command: Command) -> Result<(Report, Duration, String)> {
    let line = shown(&command);
    let (mut begin, mut end) = (None, None);
    let ended = watch(command, |seen, elapsed, _| {
        if begin.is_none() && has_begun(seen) {
            begin = Some(elapsed);
        }
        if end.is_none() && has_ended(seen) {
            end = Some(elapsed);
        }
        Ok(())
    })?;
    let report = Report::parse(&ended.output);
    let (Some(begin), Some(end), Some(claimed)) = (begin, end, report.seconds) else {
        bail!(
            "the rows did not run to their end in: {line}\n{}\n{}",
            tail(&ended.output),
            ended.errors
        );
    };
    let passed = (end - begin).as_secs_f64();
    if !is_right(claimed, passed) {
        bail!("no time can be trusted: {claimed:.2} s by the clock in there were {passed:.2} s, in: {line}");
    }
    Ok((report, ended.took, ended.errors))
}

/// Whether a clock that claims so many seconds can be trusted: one that is slow makes a guest look fast.
fn is_right(claimed: f64, passed: f64) -> bool {
    (passed - claimed).abs() <= passed * CLOCK_ERROR.0 + CLOCK_ERROR.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parts_of_names() {
        assert_eq!(words("integer/,x87").as_deref(), Ok("integer/,x87"));
        for wrong in ["", "a,", "a b", "a=b", "\"a"] {
            assert!(words(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_word_that_selects_nothing_is_an_error() {
        let list = "blk/read\nnet/echo\n";
        assert!(check_words("read,net/", list).is_ok());
        let error = check_words("echo,write", list).unwrap_err().to_string();
        assert!(error.contains("write") && error.contains("net/echo"), "{error}");
    }

    #[test]
    fn each_machine_runs_in_turn() {
        let rows = |value: &str| {
            let mut c = Command::new("sh");
            let script = format!("printf 'begin\nstart a/b\nrow a/b {value} us\nend 0.0\n'");
            c.args(["-c", &script]);
            Ok(c)
        };
        let mut machines = [
            Machine::new("one", || rows("1")),
            Machine::new("two", || rows("2")),
        ];
        let mut heard = 0;
        alternate(&mut machines, 2, |_| heard += 1).unwrap();
        assert_eq!(heard, 4);
        for (machine, name) in machines.iter().zip(["one", "two"]) {
            assert_eq!((machine.reports().0, machine.reports().1.len()), (name, 2));
        }
        let cut = || Ok(Command::new("true"));
        let error = alternate(&mut [Machine::new("cut", cut)], 1, |_| {}).unwrap_err();
        assert!(error.to_string().contains("did not run to their end"), "{error}");
    }

    #[test]
    fn a_clock_that_is_slow_or_fast_is_noticed() {
        assert!(is_right(10.0, 10.0) && is_right(10.0, 10.4) && is_right(0.0, 0.2));
        assert!(!is_right(5.0, 10.0) && !is_right(20.0, 10.0));
    }
}
