//! `donjon ps`.

use crate::cli::{Format, exit};
use crate::control::run_directory;
use crate::failure::Failure;
use crate::image::age;
use crate::stats::print;
use donjon_agent_client::Client;
use donjon_control::{Command, Info, Name, RunDirectory, ask};
use donjon_host::domains::Domains;
use donjon_host::store::Store;
use std::time::Duration;

/// How long an agent may take to tell its guest's addresses.
const AGENT: Duration = Duration::from_millis(500);

/// A domain in the list.
#[derive(Default, serde::Serialize)]
struct Row {
    name: String,
    image: String,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    cpus: u32,
    memory: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<f64>,
    addresses: Vec<String>,
    ports: Vec<String>,
}

/// Prints which domains run, and with `all` which could.
pub fn ps(all: bool, format: Format) -> Result<u8, Failure> {
    let directory = run_directory()?;
    let mut rows = running(&directory, directory.running()?);
    if all && let Ok(store) = Store::of_user() {
        let domains = Domains::of(&store);
        domains.sweep()?;
        for name in domains.names() {
            if rows.iter().any(|r| r.name == name) {
                continue;
            }
            // One whose record is damaged is there all the same.
            let record = domains.get(&name).map(|d| d.record).ok();
            rows.push(Row {
                name,
                image: record.as_ref().map_or("?".into(), |r| r.image.clone()),
                cpus: record.as_ref().map_or(0, |r| r.cpus),
                memory: record.as_ref().map_or(0, |r| r.memory),
                ..Row::default()
            });
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let text = match format {
        Format::Json => serde_json::to_string(&rows)? + "\n",
        Format::Table => table(&rows),
    };
    print(&text)?;
    Ok(exit::SUCCESS)
}

/// Asks them all at once: one that hangs does not hold up the list.
fn running(directory: &RunDirectory, names: Vec<Name>) -> Vec<Row> {
    std::thread::scope(|scope| {
        let rows: Vec<_> = names
            .into_iter()
            .map(|name| scope.spawn(move || one(directory, &name)))
            .collect();
        rows.into_iter()
            .filter_map(|row| row.join().ok().flatten())
            .collect()
    })
}

fn one(directory: &RunDirectory, name: &Name) -> Option<Row> {
    // It may have ended since.
    let info: Info = ask(&directory.socket(name), &Command::Info).ok()?;
    let vsock = directory.vsock(name);
    let agent = vsock
        .exists()
        .then(|| Client::new(vsock).with_patience(AGENT).info().ok())
        .flatten();
    let addresses = agent
        .into_iter()
        .flat_map(|a| a.interfaces)
        .filter(|i| i.name != "lo");
    let addresses = addresses.flat_map(|i| i.addresses).map(|(address, _)| address);
    // Those of the link alone are of no use elsewhere.
    let useful = addresses.filter(|a| !matches!(a, std::net::IpAddr::V6(a) if a.is_unicast_link_local()));
    Some(Row {
        name: info.name,
        image: info.image,
        running: true,
        pid: Some(info.pid),
        engine: Some(info.engine),
        cpus: info.cpus,
        memory: info.memory,
        uptime_seconds: Some(info.uptime_seconds),
        addresses: useful.map(|a| a.to_string()).collect(),
        ports: info.ports,
    })
}

fn table(rows: &[Row]) -> String {
    let head = [
        "name", "image", "status", "process", "vCPUs", "memory", "engine", "address", "ports",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
        lines.push([
            row.name.clone(),
            or_dash(row.image.clone()),
            match row.uptime_seconds {
                Some(seconds) => format!("up {}", age(seconds as u64)),
                None => "ended".into(),
            },
            or_dash(row.pid.map(|p| p.to_string()).unwrap_or_default()),
            row.cpus.to_string(),
            format!("{}M", row.memory >> 20),
            or_dash(row.engine.clone().unwrap_or_default()),
            or_dash(row.addresses.first().cloned().unwrap_or_default()),
            or_dash(row.ports.join(" ")),
        ]);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String; 9]| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}
