//! What vCPUs did, as people read it.

use donjon_control::VcpuReport;
use donjon_engine::TranslatorStatistics;
use donjon_vmm::VcpuStats;
use std::fmt::Write;

/// The same as it goes over a domain's socket.
pub fn report(stats: &VcpuStats) -> VcpuReport {
    VcpuReport {
        busy_seconds: stats.busy.as_secs_f64(),
        engine: stats.engine,
    }
}

/// A line for each vCPU and one for all; benchmarks read the rate in the last one.
pub fn lines(vcpus: &[VcpuReport], total: &VcpuReport) -> String {
    let mut text = String::new();
    for (name, r) in named(vcpus, total) {
        let busy = r.busy_seconds;
        let _ = match (r.engine.instructions(), r.mips()) {
            (Some(all), Some(mips)) => {
                writeln!(
                    text,
                    "{name}: {all} instructions in {busy:.3} s busy, {mips:.1} MIPS"
                )
            }
            _ if r.engine.hardware.is_some() && r.engine.interpreted == 0 => {
                let exits = r.engine.hardware.unwrap_or_default().by_reason();
                let all: u64 = exits.iter().map(|(_, n)| n).sum();
                writeln!(text, "{name}: {busy:.3} s busy, {all} exits")
            }
            _ => writeln!(
                text,
                "{name}: {} interpreted instructions in {busy:.3} s busy; those in translated code are counted with --count-instructions",
                r.engine.interpreted
            ),
        };
    }
    text
}

/// The rate of hits among lookups, where those are counted.
fn hits(t: &TranslatorStatistics) -> String {
    let misses = t.page_fills + t.page_refusals;
    match t.lookups.checked_sub(misses) {
        Some(hits) if t.lookups > 0 => format!("{:.3} %", 100.0 * hits as f64 / t.lookups as f64),
        _ => "-".into(),
    }
}

/// Tables with a line for each vCPU and one for all.
pub fn tables(vcpus: &[VcpuReport], total: &VcpuReport) -> String {
    let rows: Vec<_> = named(vcpus, total).collect();
    let mut text = String::new();
    if total.engine.hardware.is_some() {
        table(&mut text, &rows, "exits", |r| {
            let exits = r.engine.hardware.unwrap_or_default().by_reason();
            let mut cells = vec![("busy s", format!("{:.3}", r.busy_seconds))];
            cells.extend(exits.map(|(name, n)| (name, n.to_string())));
            cells
        });
    }
    if total.engine.hardware.is_some() && total.engine.interpreted == 0 {
        // Nothing was ever interpreted or translated.
        return text;
    }
    table(&mut text, &rows, "work", |r| {
        let (e, t) = (&r.engine, &r.engine.translator);
        let unknown = || "-".to_owned();
        vec![
            ("busy s", format!("{:.3}", r.busy_seconds)),
            ("MIPS", r.mips().map_or_else(unknown, |m| format!("{m:.1}"))),
            ("interpreted", e.interpreted.to_string()),
            ("translated", e.translated.map_or_else(unknown, |n| n.to_string())),
            ("units", t.units.to_string()),
            (
                "arena",
                format!("{}K of {}K", t.arena_used >> 10, t.arena_size >> 10),
            ),
            ("emptied", t.arena_emptied.to_string()),
            ("steps", t.steps.to_string()),
        ]
    });
    table(&mut text, &rows, "TLB", |r| {
        let (e, t) = (&r.engine, &r.engine.translator);
        let per = |n: u64, of: f64| {
            if of > 0.0 {
                format!("{:.0}", n as f64 / of)
            } else {
                "-".into()
            }
        };
        let millions = e.instructions().map_or(0.0, |n| n as f64 / 1e6);
        vec![
            ("hits", hits(t)),
            ("filled", t.page_fills.to_string()),
            ("refused", t.page_refusals.to_string()),
            ("walks", e.page_walks.to_string()),
            ("walks/s busy", per(e.page_walks, r.busy_seconds)),
            ("walks/M instructions", per(e.page_walks, millions)),
        ]
    });
    let words =
        |all: &[(&'static str, u64)]| all.iter().map(|(n, v)| (*n, v.to_string())).collect::<Vec<_>>();
    table(&mut text, &rows, "exits", |r| {
        let t = &r.engine.translator;
        [
            vec![("entries", t.entries.to_string())],
            words(&t.exits.by_cause()),
        ]
        .concat()
    });
    table(&mut text, &rows, "invalidations", |r| {
        words(&r.engine.translator.invalidations.by_reason())
    });
    text
}

fn named<'a>(
    vcpus: &'a [VcpuReport],
    total: &'a VcpuReport,
) -> impl Iterator<Item = (String, &'a VcpuReport)> {
    let numbered = vcpus.iter().enumerate().map(|(n, r)| (format!("vcpu{n}"), r));
    numbered.chain([("total".to_owned(), total)])
}

/// Columns as wide as they must be; the first to the left, numbers to the right.
fn table(
    text: &mut String,
    rows: &[(String, &VcpuReport)],
    title: &str,
    cells: impl Fn(&VcpuReport) -> Vec<(&'static str, String)>,
) {
    let rows: Vec<_> = rows.iter().map(|(name, r)| (name, cells(r))).collect();
    let first = rows.iter().map(|r| r.0.len()).chain([title.len()]).max();
    let first = first.unwrap_or(0);
    let columns = rows.first().map_or(0, |r| r.1.len());
    let width = |n: usize| {
        let cells = rows.iter().map(|r| r.1[n].1.len());
        cells.chain([rows[0].1[n].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = write!(text, "{gap}{title:<first$}");
    for (n, w) in widths.iter().enumerate() {
        let _ = write!(text, "  {:>w$}", rows[0].1[n].0);
    }
    text.push('\n');
    for (name, cells) in &rows {
        let _ = write!(text, "{name:<first$}");
        for ((_, cell), w) in cells.iter().zip(&widths) {
            let _ = write!(text, "  {cell:>w$}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(translated: Option<u64>) -> VcpuReport {
        let mut r = VcpuReport {
            busy_seconds: 2.0,
            ..VcpuReport::default()
        };
        (r.engine.interpreted, r.engine.translated) = (1_000_000, translated);
        (r.engine.page_walks, r.engine.translator.exits.guard) = (500, 77);
        r
    }

    #[test]
    fn a_rate_is_told_only_if_all_is_counted() {
        let all = some(Some(2_000_000));
        assert_eq!(
            lines(&[all], &all).lines().last().unwrap(),
            "total: 3000000 instructions in 2.000 s busy, 1.5 MIPS"
        );
        let part = some(None);
        assert_eq!(
            lines(&[], &part),
            "total: 1000000 interpreted instructions in 2.000 s busy; those in translated code are counted with --count-instructions\n"
        );
    }

    #[test]
    fn columns_stand_below_each_other() {
        let r = some(None);
        let text = tables(&[r], &r);
        let of = |title: &str| {
            let lines: Vec<_> = text
                .lines()
                .skip_while(|l| !l.starts_with(title))
                .take(3)
                .collect();
            assert!(
                lines[1].starts_with("vcpu0 ") && lines[2].starts_with("total "),
                "{text}"
            );
            assert_eq!(lines[0].len(), lines[2].len(), "{text}");
            lines.concat()
        };
        assert!(of("exits").contains("77"));
        assert!(of("work").contains("0K of 0K"));
        assert!(of("TLB").contains("250"));
        of("invalidations");
    }
}
