//! Putting the reports of all machines and runs beside each other.

use super::report::{Outcome, Report};
use crate::bench::statistics::median;

/// Medians of one row; what did not run there is not a number.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// GROUP/NAME.
    pub name: String,
    /// Seconds on each machine, in the order given.
    pub seconds: Vec<f64>,
}

/// All rows.
#[derive(Default, Debug)]
pub struct Compared {
    /// Those that gave the same results everywhere.
    pub rows: Vec<Row>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// Compares machines, given with their names and one report for each run; the first is right.
pub fn compare(machines: &[(&str, &[Report])]) -> Compared {
    let mut compared = Compared::default();
    let Some(model) = machines.first().and_then(|(_, reports)| reports.first()) else {
        return compared;
    };
    for (name, expected) in &model.rows {
        let (notes, problems) = (compared.notes.len(), compared.problems.len());
        let mut row = Row {
            name: name.clone(),
            seconds: vec![],
        };
        for (machine, reports) in machines {
            let mut times = vec![];
            for report in *reports {
                match (report.row(name), expected) {
                    (Some(Outcome::Done { checksum: ours, .. }), Outcome::Done { checksum: right, .. })
                        if ours != right =>
                    {
                        compared.problems.push(format!(
                            "{name} in {machine}: the checksum of its results is {ours}, in {} it was {right}",
                            machines[0].0
                        ));
                    }
                    (Some(Outcome::Done { seconds, .. }), _) => times.push(*seconds),
                    (Some(Outcome::Skipped(why)), _) => {
                        compared
                            .notes
                            .push(format!("{name} in {machine}: skipped: {why}"));
                    }
                    (Some(Outcome::Failed(why)), _) => {
                        compared
                            .problems
                            .push(format!("{name} in {machine}: failed: {why}"));
                    }
                    (None, _) => compared
                        .problems
                        .push(format!("{name} in {machine}: did not run")),
                }
            }
            row.seconds.push(median(times));
        }
        // Once is enough, however many the runs.
        dedup_from(&mut compared.notes, notes);
        dedup_from(&mut compared.problems, problems);
        if compared.problems.len() == problems {
            compared.rows.push(row);
        }
    }
    compared
}

fn dedup_from(lines: &mut Vec<String>, start: usize) {
    let mut fresh = lines.split_off(start);
    fresh.dedup();
    lines.extend(fresh);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str) -> Report {
        let rows = lines.lines().map(|l| {
            let name = l.split(' ').nth(1).unwrap();
            format!("start {name}\n{l}\n")
        });
        Report::parse(&format!("begin\n{}end 1\n", rows.collect::<String>()))
    }

    #[test]
    fn rows_have_the_medians_of_their_runs() {
        let native = [report("row a 1 ff"), report("row a 3 ff"), report("row a 2 ff")];
        let donjon = [report("row a 9 ff"), report("row a 7 ff"), report("row a 8 ff")];
        let compared = compare(&[("native", &native), ("donjon", &donjon)]);
        assert_eq!(
            compared.rows,
            [Row {
                name: "a".into(),
                seconds: vec![2.0, 8.0]
            }]
        );
        assert!(compared.notes.is_empty() && compared.problems.is_empty());
    }

    #[test]
    fn wrong_results_are_told_and_have_no_times() {
        let native = [report("row a 1 ff\nrow b 1 01")];
        let donjon = [report("row a 1 fe\nrow b 1 01"), report("row a 1 fe\nrow b 1 01")];
        let compared = compare(&[("native", &native), ("donjon", &donjon)]);
        assert_eq!(compared.rows.len(), 1);
        assert_eq!(
            compared.problems,
            ["a in donjon: the checksum of its results is fe, in native it was ff"]
        );
    }

    #[test]
    fn what_is_skipped_is_noted_and_what_is_missing_is_wrong() {
        let native = [report("row a 1 ff\nrow b 1 01\nrow c 1 02")];
        let donjon = [report("skip a no AVX\nfail b signal 4")];
        let compared = compare(&[("native", &native), ("donjon", &donjon)]);
        assert_eq!(compared.rows.len(), 1);
        assert!(compared.rows[0].seconds[1].is_nan());
        assert_eq!(compared.notes, ["a in donjon: skipped: no AVX"]);
        assert_eq!(
            compared.problems,
            ["b in donjon: failed: signal 4", "c in donjon: did not run"]
        );
    }
}
