//! Putting the reports of all machines and runs beside each other.

use super::report::{Outcome, Report};
use super::statistics::median;

/// Medians of one row; what did not run there is not a number.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// GROUP/NAME.
    pub name: String,
    /// What was measured on each machine, in the order given.
    pub values: Vec<f64>,
    /// What belongs to it: [`Outcome::Done`].
    pub tag: String,
}

impl Row {
    /// What its name begins with.
    pub fn group(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
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
            values: vec![],
            tag: String::new(),
        };
        for (machine, reports) in machines {
            let mut values = vec![];
            for report in *reports {
                match (report.row(name), expected) {
                    (Some(Outcome::Done { tag: ours, .. }), Outcome::Done { tag: right, .. })
                        if ours != right =>
                    {
                        compared.problems.push(format!(
                            "{name} in {machine}: its result is marked {ours}, in {} it was {right}",
                            machines[0].0
                        ));
                    }
                    (Some(Outcome::Done { value, tag }), _) => {
                        values.push(*value);
                        row.tag.clone_from(tag);
                    }
                    (Some(Outcome::Skipped(why)), _) if why.is_empty() => {}
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
            row.values.push(median(values));
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
                values: vec![2.0, 8.0],
                tag: "ff".into()
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
            ["a in donjon: its result is marked fe, in native it was ff"]
        );
    }

    #[test]
    fn what_is_skipped_is_noted_and_what_is_missing_is_wrong() {
        let native = [report("row a 1 ff\nrow b 1 01\nrow c 1 02")];
        let donjon = [report("skip a no AVX\nfail b signal 4")];
        let compared = compare(&[("native", &native), ("donjon", &donjon)]);
        assert_eq!(compared.rows.len(), 1);
        assert!(compared.rows[0].values[1].is_nan());
        assert_eq!(compared.notes, ["a in donjon: skipped: no AVX"]);
        let meant = compare(&[("native", &[report("skip a ")]), ("donjon", &native)]);
        assert!(meant.notes.is_empty() && meant.problems.is_empty());
        assert_eq!(
            compared.problems,
            ["b in donjon: failed: signal 4", "c in donjon: did not run"]
        );
    }
}
