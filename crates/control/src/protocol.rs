//! What is said on a domain's socket.
//!
//! A request is an object on a line of its own, such as `{"version":1,"command":"stats"}`, and so is the reply:
//! `{"version":1,"result":…}`, or `{"version":1,"error":{"code":"unknown-command","message":"…"}}`. Any number of
//! requests may follow each other on a connection. Fields that a reader does not know are of no interest to it;
//! a change that it must know of gets a new version.

use donjon_engine::Statistics;
use serde::{Deserialize, Serialize};

/// The version spoken here.
pub const VERSION: u32 = 1;
/// Bytes of a request at most, with its newline.
pub const MAX_REQUEST: usize = 4096;
/// Bytes of a reply at most: 64 vCPUs take a twentieth of it.
pub const MAX_REPLY: usize = 1 << 20;

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// What the domain is: [`Info`].
    Info,
    /// What it does: [`Stats`].
    Stats,
}

impl Command {
    const ALL: [Self; 2] = [Self::Info, Self::Stats];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Stats => "stats",
        }
    }
}

/// What a domain is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// The engine that executes it.
    pub engine: String,
    /// vCPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Seconds since it was started.
    pub uptime_seconds: f64,
}

/// What a domain does.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// What it is.
    pub domain: Info,
    /// Each vCPU.
    pub vcpus: Vec<VcpuReport>,
    /// All of them.
    pub total: VcpuReport,
}

/// What a vCPU did since the domain was started.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VcpuReport {
    /// Seconds it was running, as opposed to halted.
    pub busy_seconds: f64,
    /// What its engine counted.
    #[serde(flatten)]
    pub engine: Statistics,
}

impl VcpuReport {
    /// Million instructions a second while it ran, if all instructions are counted.
    pub fn mips(&self) -> Option<f64> {
        let instructions = self.engine.instructions()?;
        Some(if self.busy_seconds > 0.0 {
            instructions as f64 / self.busy_seconds / 1e6
        } else {
            0.0
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Request<'a> {
    pub version: u32,
    #[serde(default)]
    pub command: std::borrow::Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Reply<T> {
    pub version: u32,
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Refusal>,
}

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// The command in a line, or why there is none.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Refusal> {
    let request: Request<'_> = serde_json::from_slice(line).map_err(|e| {
        Refusal::new(
            "bad-request",
            format!("not a request such as {{\"version\":1,\"command\":\"stats\"}}: {e}"),
        )
    })?;
    if request.version != VERSION {
        let message = format!("this donjon speaks version {VERSION}, not {}", request.version);
        return Err(Refusal::new("unknown-version", message));
    }
    let found = Command::ALL.into_iter().find(|c| c.name() == request.command);
    found.ok_or_else(|| Refusal::new("unknown-command", "this donjon knows the commands info and stats"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parse(br#"{"version":1,"command":"stats"}"#), Ok(Command::Stats));
        assert_eq!(
            parse(br#"{"command":"info","new":[1],"version":1}"#),
            Ok(Command::Info)
        );
        let code = |line: &[u8]| parse(line).unwrap_err().code;
        assert_eq!(code(br#"{"version":2,"command":"stats"}"#), "unknown-version");
        assert_eq!(code(br#"{"version":1,"command":"explode"}"#), "unknown-command");
        assert_eq!(code(br#"{"version":1}"#), "unknown-command");
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            b"stats",
            b"\xff\xfe",
            br#"{"version":"1"}"#,
            br#"{"version":-1,"command":"stats"}"#,
        ] {
            assert_eq!(code(bad), "bad-request");
        }
        assert_eq!(code("[".repeat(4000).as_bytes()), "bad-request");
    }

    #[test]
    fn figures_survive_the_way_and_a_newer_writer() {
        let mut report = VcpuReport {
            busy_seconds: 1.5,
            ..VcpuReport::default()
        };
        report.engine.translator.exits.guard = 7;
        report.engine.translated = Some(3);
        let text = serde_json::to_string(&report).unwrap();
        assert!(
            text.contains(r#""busy_seconds":1.5,"interpreted":0,"translated":3"#),
            "{text}"
        );
        let newer = text.replacen('{', r#"{"news":{"a":[1]},"#, 1);
        assert_eq!(serde_json::from_str::<VcpuReport>(&newer).unwrap(), report);
        assert_eq!(
            serde_json::from_str::<VcpuReport>("{}").unwrap(),
            VcpuReport::default()
        );
    }
}
