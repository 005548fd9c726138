//! What the rows print; xtask/bench/cpu/main.c and xtask/bench/io/main.c say how.

/// How one row went.
#[derive(PartialEq, Debug)]
pub enum Outcome {
    /// It did its work.
    Done {
        /// What was measured, without warm-up.
        value: f64,
        /// What belongs to it and is the same wherever it runs: a checksum over its results, or a unit.
        tag: String,
    },
    /// It cannot run there, for this reason, or is not meant to if there is none.
    Skipped(String),
    /// It ended early, for this reason if it gave one.
    Failed(String),
}

/// One run of all rows.
#[derive(Default, Debug)]
pub struct Report {
    /// In their order, by name.
    pub rows: Vec<(String, Outcome)>,
    /// How long they took by their own clock, if they came to their end.
    pub seconds: Option<f64>,
}

/// Whether the first line is there.
pub fn has_begun(console: &str) -> bool {
    complete_lines(console).any(|l| l == "begin")
}

/// Whether the last line is there.
pub fn has_ended(console: &str) -> bool {
    complete_lines(console).any(|l| l.starts_with("end "))
}

fn complete_lines(console: &str) -> impl Iterator<Item = &str> {
    let whole = console.rfind('\n').map_or(0, |at| at + 1);
    console[..whole].lines().map(str::trim_end)
}

impl Report {
    /// Takes the rows from a console, on which a kernel may have spoken too.
    pub fn parse(console: &str) -> Self {
        let mut report = Self::default();
        for line in complete_lines(console).skip_while(|l| *l != "begin") {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                // Until it says more.
                "start" => report
                    .rows
                    .push((name.into(), Outcome::Failed("no result".into()))),
                "row" => {
                    let done = rest.split_once(' ').and_then(|(value, tag)| {
                        let (value, tag) = (value.parse().ok()?, tag.into());
                        Some(Outcome::Done { value, tag })
                    });
                    report.set(
                        name,
                        done.unwrap_or_else(|| Outcome::Failed(format!("{line:?} is no result"))),
                    );
                }
                "skip" => report.set(name, Outcome::Skipped(rest.into())),
                "fail" => report.set(name, Outcome::Failed(rest.into())),
                "end" => report.seconds = name.parse().ok(),
                _ => {}
            }
        }
        report
    }

    /// How that row went.
    pub fn row(&self, name: &str) -> Option<&Outcome> {
        self.rows.iter().find(|r| r.0 == name).map(|r| &r.1)
    }

    fn set(&mut self, name: &str, outcome: Outcome) {
        if let Some(row) = self.rows.iter_mut().find(|r| r.0 == name) {
            row.1 = outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "row early/noise 1 2\r\n\
        begin\r\n\
        start a/done\r\n\
        row a/done 0.250000 00ff\r\n\
        [    1.0] the kernel speaks\r\n\
        start a/skipped\r\n\
        skip a/skipped the CPU lacks it\r\n\
        start a/absent\r\n\
        skip a/absent\r\n\
        start a/failed\r\n\
        fail a/failed signal 4 (Illegal instruction)\r\n\
        start a/garbled\r\n\
        row a/garbled x 1\r\n\
        start a/silent\r\n\
        end 1.500000\r\n\
        partial";

    #[test]
    fn every_kind_of_line_is_understood() {
        let report = Report::parse(CONSOLE);
        let done = Outcome::Done {
            value: 0.25,
            tag: "00ff".into(),
        };
        assert_eq!(report.row("a/done"), Some(&done));
        assert_eq!(
            report.row("a/skipped"),
            Some(&Outcome::Skipped("the CPU lacks it".into()))
        );
        assert_eq!(report.row("a/absent"), Some(&Outcome::Skipped(String::new())));
        let signal = "signal 4 (Illegal instruction)";
        assert_eq!(report.row("a/failed"), Some(&Outcome::Failed(signal.into())));
        assert!(
            matches!(report.row("a/garbled"), Some(Outcome::Failed(why)) if why.contains("a/garbled x 1"))
        );
        assert_eq!(report.row("a/silent"), Some(&Outcome::Failed("no result".into())));
        assert_eq!(report.row("early/noise"), None);
        assert_eq!((report.rows.len(), report.seconds), (6, Some(1.5)));
    }

    #[test]
    fn a_line_counts_when_it_is_complete() {
        assert!(!has_begun("begin") && has_begun("begin\r\n"));
        assert!(!has_ended("begin\nend 1.5") && has_ended("begin\nend 1.5\n"));
        assert_eq!(Report::parse("begin\nend 1.5").seconds, None);
    }
}
