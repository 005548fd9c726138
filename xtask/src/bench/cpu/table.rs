//! The table for people: a line for each row, and the means.

use crate::bench::compare::Row;
use crate::bench::statistics::{geometric_mean, number};
use std::fmt::Write;

/// Indices into [`Row::values`].
const NATIVE: usize = 0;
const DONJON: usize = 1;
const TCG: usize = 2;

/// A column of ratios.
struct Ratio {
    title: &'static str,
    of: usize,
    to: usize,
}

const RATIOS: [Ratio; 3] = [
    Ratio {
        title: "donjon/native",
        of: DONJON,
        to: NATIVE,
    },
    Ratio {
        title: "tcg/native",
        of: TCG,
        to: NATIVE,
    },
    Ratio {
        title: "donjon/tcg",
        of: DONJON,
        to: TCG,
    },
];

impl Ratio {
    fn value(&self, row: &Row) -> f64 {
        row.values[self.of] / row.values[self.to]
    }
}

/// The table, in lines; `tcg` says whether there is such a column.
pub fn table(rows: &[Row], tcg: bool) -> String {
    let ratios = if tcg { &RATIOS[..] } else { &RATIOS[..1] };
    let mut text = String::new();
    line(
        &mut text,
        "row",
        "native ms",
        ratios.iter().map(|r| r.title.into()),
    );
    for row in rows {
        let milliseconds = number(row.values[NATIVE] * 1e3);
        line(
            &mut text,
            &row.name,
            &milliseconds,
            ratios.iter().map(|r| number(r.value(row))),
        );
    }
    let mut mean = |title: &str, rows: &[Row]| {
        // The same rows in every column.
        let complete = rows.iter().filter(|row| row.values.iter().all(|s| s.is_finite()));
        let complete: Vec<_> = complete.collect();
        let values = ratios.iter().map(|r| {
            let values: Vec<_> = complete.iter().map(|row| r.value(row)).collect();
            number(geometric_mean(&values))
        });
        line(&mut text, title, "", values);
    };
    for rows in rows.chunk_by(|a, b| a.group() == b.group()) {
        mean(&format!("mean {}", rows[0].group()), rows);
    }
    mean("mean", rows);
    if tcg {
        let slower = rows.iter().filter(|r| r.values[DONJON] > r.values[TCG]);
        let names: Vec<_> = slower.map(|r| &r.name[..]).collect();
        let _ = match &names[..] {
            [] => writeln!(text, "slower than TCG: none"),
            names => writeln!(text, "slower than TCG ({}): {}", names.len(), names.join(", ")),
        };
    }
    text
}

fn line(text: &mut String, name: &str, time: &str, ratios: impl Iterator<Item = String>) {
    let _ = write!(text, "{name:<20} {time:>10}");
    for ratio in ratios {
        let _ = write!(text, " {ratio:>14}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |name: &str, seconds: [f64; 3]| Row {
            name: name.into(),
            values: seconds.into(),
            tag: String::new(),
        };
        vec![
            row("integer/a", [0.1, 0.2, 0.8]),
            row("simd/b", [0.1, 0.8, 0.4]),
            row("simd/c", [0.1, f64::NAN, 1.6]),
        ]
    }

    #[test]
    fn ratios_and_means_are_in_their_columns() {
        let text = table(&rows(), true);
        let words: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            words[0],
            ["row", "native", "ms", "donjon/native", "tcg/native", "donjon/tcg"]
        );
        assert_eq!(words[1], ["integer/a", "100", "2.00", "8.00", "0.25"]);
        assert_eq!(words[2], ["simd/b", "100", "8.00", "4.00", "2.00"]);
        assert_eq!(words[3], ["simd/c", "100", "-", "16.0", "-"]);
        assert_eq!(words[4], ["mean", "integer", "2.00", "8.00", "0.25"]);
        assert_eq!(words[5], ["mean", "simd", "8.00", "4.00", "2.00"]);
        assert_eq!(words[6], ["mean", "4.00", "5.66", "0.71"]);
        assert_eq!(text.lines().last(), Some("slower than TCG (1): simd/b"));
    }

    #[test]
    fn without_tcg_there_is_one_ratio() {
        let text = table(&rows(), false);
        assert!(!text.contains("tcg") && !text.contains("TCG"), "{text}");
    }
}
