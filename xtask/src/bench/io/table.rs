//! The table for people: a line for each row, and the means.

use crate::bench::compare::Row;
use crate::bench::statistics::{geometric_mean, number};
use std::fmt::Write;

/// Indices into [`Row::values`].
const DONJON: usize = 0;
const NATIVE: usize = 1;
const QEMU: usize = 2;

/// How many times as fast as QEMU donjon is.
fn ratio(row: &Row) -> f64 {
    let (ours, theirs) = (row.values[DONJON], row.values[QEMU]);
    match &row.tag[..] {
        // A time, and not a rate.
        "us" => theirs / ours,
        _ => ours / theirs,
    }
}

/// The table, in lines; `qemu` says whether there is such a column.
pub fn table(rows: &[Row], qemu: bool) -> String {
    let mut text = String::new();
    let columns: &[usize] = if qemu {
        &[NATIVE, DONJON, QEMU]
    } else {
        &[NATIVE, DONJON]
    };
    let titles = ["native", "donjon", "qemu", "donjon/qemu"];
    let shown = if qemu { 4 } else { 2 };
    line(
        &mut text,
        "row",
        "unit",
        titles[..shown].iter().map(|t| (*t).into()),
    );
    for row in rows {
        let values = columns.iter().map(|c| number(row.values[*c]));
        let ratio = qemu.then(|| number(ratio(row)));
        line(&mut text, &row.name, &row.tag, values.chain(ratio));
    }
    if !qemu {
        return text;
    }
    let mut mean = |title: &str, rows: &[Row]| {
        let ratios: Vec<_> = rows.iter().map(ratio).filter(|r| r.is_finite()).collect();
        let blank = [const { String::new() }; 3];
        let mean = number(geometric_mean(&ratios));
        line(&mut text, title, "", blank.into_iter().chain([mean]));
    };
    for rows in rows.chunk_by(|a, b| a.group() == b.group()) {
        mean(&format!("mean {}", rows[0].group()), rows);
    }
    mean("mean", rows);
    let slower: Vec<_> = rows
        .iter()
        .filter(|r| ratio(r) < 1.0)
        .map(|r| &r.name[..])
        .collect();
    let _ = match &slower[..] {
        [] => writeln!(text, "slower than QEMU: none"),
        names => writeln!(text, "slower than QEMU ({}): {}", names.len(), names.join(", ")),
    };
    text
}

fn line(text: &mut String, name: &str, unit: &str, values: impl Iterator<Item = String>) {
    let _ = write!(text, "{name:<28} {unit:>9}");
    for value in values {
        let _ = write!(text, " {value:>11}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |name: &str, tag: &str, values: [f64; 3]| Row {
            name: name.into(),
            values: values.into(),
            tag: tag.into(),
        };
        vec![
            row("blk/a", "us", [10.0, 5.0, 40.0]),
            row("blk/b", "MiB/s", [1000.0, f64::NAN, 1000.0]),
            row("net/c", "IOPS", [100.0, 400.0, 200.0]),
            row("net/d", "us", [f64::NAN, 400.0, 200.0]),
        ]
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|l| l.split_whitespace().collect()).collect()
    }

    #[test]
    fn more_is_better_in_ratios_of_every_unit() {
        let text = table(&rows(), true);
        let words = words(&text);
        assert_eq!(
            words[0],
            ["row", "unit", "native", "donjon", "qemu", "donjon/qemu"]
        );
        assert_eq!(words[1], ["blk/a", "us", "5.00", "10.0", "40.0", "4.00"]);
        assert_eq!(words[2], ["blk/b", "MiB/s", "-", "1000", "1000", "1.00"]);
        assert_eq!(words[3], ["net/c", "IOPS", "400", "100", "200", "0.50"]);
        assert_eq!(words[4], ["net/d", "us", "400", "-", "200", "-"]);
        assert_eq!(words[5], ["mean", "blk", "2.00"]);
        assert_eq!(words[6], ["mean", "net", "0.50"]);
        assert_eq!(words[7], ["mean", "1.26"]);
        assert_eq!(text.lines().last(), Some("slower than QEMU (1): net/c"));
    }

    #[test]
    fn without_qemu_there_is_no_ratio() {
        let rows: Vec<_> = rows()
            .into_iter()
            .map(|mut r| {
                r.values.truncate(2);
                r
            })
            .collect();
        let text = table(&rows, false);
        assert_eq!(words(&text)[1], ["blk/a", "us", "5.00", "10.0"]);
        assert!(!text.to_lowercase().contains("qemu"), "{text}");
    }
}
