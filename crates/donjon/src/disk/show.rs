//! What is known of images, as text.

use donjon_block::manage::{CheckReport, ExtentInfo, Info, Snapshot};
use std::fmt::Write;
use std::path::Path;

/// An image and what lies below it.
pub fn chain(chain: &[Info]) -> String {
    let mut text = String::new();
    for (depth, info) in chain.iter().enumerate() {
        if depth > 0 {
            text += "\nbelow it:\n";
        }
        one(&mut text, info);
    }
    text
}

fn one(text: &mut String, info: &Info) {
    let mut row = |name: &str, value: String| {
        // A string takes everything.
        let _ = writeln!(text, "{name:<13} {}", printable(&value));
    };
    row("file", info.file.display().to_string());
    row("format", info.format.to_string());
    row("size", bytes(info.virtual_size));
    row("allocated", bytes(info.allocated));
    if let Some(holder) = &info.in_use_by {
        row("in use by", holder.clone());
    }
    if let Some(vmdk) = &info.vmdk {
        row("type", vmdk.create_type.clone());
        for extent in &vmdk.extents {
            row("extent", one_extent(extent, &info.file));
        }
    }
    let Some(qcow2) = &info.qcow2 else {
        return;
    };
    row("version", qcow2.version.to_string());
    row("cluster size", bytes(qcow2.cluster_size));
    row("refcounts", format!("{} bits", qcow2.refcount_bits));
    if !qcow2.features.is_empty() {
        row("features", qcow2.features.join(", "));
    }
    if let Some(file) = &qcow2.data_file {
        row("data file", file.clone());
    }
    if let Some(backing) = &qcow2.backing {
        let format = qcow2
            .backing_format
            .as_ref()
            .map_or(String::new(), |f| format!(" ({f})"));
        row("backing file", format!("{backing}{format}"));
    }
    match (qcow2.corrupt, qcow2.dirty, &info.in_use_by) {
        (true, ..) => row(
            "state",
            "damaged; repair it: donjon disk check --repair FILE".into(),
        ),
        (_, true, None) => row(
            "state",
            "not closed properly; repaired when it is next used".into(),
        ),
        _ => {}
    }
    for snapshot in &qcow2.snapshots {
        row("snapshot", one_snapshot(snapshot));
    }
}

/// `SPARSE, 2G (2147483648 bytes), grains of 64K (65536 bytes), compressed, in disk-s001.vmdk`.
fn one_extent(extent: &ExtentInfo, image: &Path) -> String {
    let mut text = format!("{}, {}", extent.kind, bytes(extent.size));
    if let Some(size) = extent.grain_size {
        text += &format!(", grains of {}", bytes(size));
    }
    if extent.compressed {
        text += ", compressed";
    }
    match extent.file.as_deref().filter(|file| *file != image) {
        Some(file) => text + &format!(", in {}", file.display()),
        None => text,
    }
}

fn one_snapshot(snapshot: &Snapshot) -> String {
    let size = snapshot.size.map_or(String::new(), |s| format!(", {}", bytes(s)));
    let state = match snapshot.vm_state {
        0 => String::new(),
        n => format!(", with {} of a running machine's state", bytes(n)),
    };
    format!("{} ({}{size}{state})", snapshot.name, snapshot.id)
}

/// Names in an image may have anything in them, but do not get to the terminal's controls.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `10G`, or with a digit behind the point if it is not whole.
fn bytes(n: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match units.iter().find(|(_, shift)| n >> shift > 0) {
        None => format!("{n} bytes"),
        Some((unit, shift)) if n.is_multiple_of(1 << shift) => format!("{}{unit} ({n} bytes)", n >> shift),
        Some((unit, shift)) => format!("{:.1}{unit} ({n} bytes)", n as f64 / (1u64 << shift) as f64),
    }
}

/// What a check found.
pub fn report(file: &Path, report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text += &printable(finding);
        text += "\n";
    }
    let told = report.findings.len() as u64;
    if report.errors + report.leaks > told {
        let _ = writeln!(text, "… and {} more", report.errors + report.leaks - told);
    }
    let file = file.display();
    let count = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let repaired = report.errors_repaired + report.leaks_repaired > 0;
    let _ = match (
        report.errors - report.errors_repaired,
        report.leaks - report.leaks_repaired,
    ) {
        (0, 0) if repaired => writeln!(
            text,
            "{file}: repaired: {}, {}",
            count(report.errors_repaired, "error"),
            count(report.leaks_repaired, "leaked cluster")
        ),
        (0, 0) => writeln!(text, "{file}: no errors"),
        (0, leaks) => writeln!(
            text,
            "{file}: no errors; {}, which only cost room; give it back: donjon disk check --repair {file}",
            count(leaks, "leaked cluster")
        ),
        (errors, leaks) if repaired => writeln!(
            text,
            "{file}: {} could not be repaired, {}; save what can be read: donjon disk convert {file} NEW.qcow2",
            count(errors, "error"),
            count(leaks, "leaked cluster")
        ),
        (errors, leaks) => writeln!(
            text,
            "{file}: {}, {}; make a copy of it, then: donjon disk check --repair {file}",
            count(errors, "error"),
            count(leaks, "leaked cluster")
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(10 << 30), "10G (10737418240 bytes)");
        assert_eq!(bytes(1536), "1.5K (1536 bytes)");
        assert_eq!(bytes(5), "5 bytes");
    }

    #[test]
    fn controls_do_not_get_through() {
        assert_eq!(printable("a\x1b[2J"), "a\u{fffd}[2J");
    }
}
