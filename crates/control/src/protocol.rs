//! What is said on a domain's socket.
//!
//! A request is an object on a line of its own, such as `{"version":1,"command":"stats"}`, and so is the reply:
//! `{"version":1,"result":…}`, or `{"version":1,"error":{"code":"unknown-command","message":"…"}}`. Any number of
//! requests may follow each other on a connection. Fields that a reader does not know are of no interest to it;
//! a change that it must know of gets a new version.

use donjon_engine::Statistics;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// The version spoken here.
pub const VERSION: u32 = 1;
/// Bytes of a request at most, with its newline.
pub const MAX_REQUEST: usize = 4096;
/// Bytes of a reply at most: 64 vCPUs take a twentieth of it.
pub const MAX_REPLY: usize = 1 << 20;

/// What can be asked. Parameters are fields beside `command`, such as in
/// `{"version":1,"command":"device-add","kind":"disk","options":"/data.qcow2"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// What the domain is: [`Info`].
    Info,
    /// What it does: [`Stats`].
    Stats,
    /// Its devices: a list of [`DeviceInfo`].
    Devices,
    /// Plug one in: the [`DeviceInfo`] it got.
    DeviceAdd {
        /// Of what kind.
        kind: DeviceKind,
        /// Its options, as on the command line; paths are absolute.
        options: String,
    },
    /// Have the guest let go of one, and remove it: nothing.
    DeviceRemove {
        /// Its name.
        name: String,
        /// If the guest does not let go, pull it out.
        #[serde(default)]
        force: bool,
    },
    /// Change one: the [`DeviceInfo`] it has then.
    DeviceSet {
        /// Its name.
        name: String,
        /// How.
        #[serde(flatten)]
        change: DeviceChange,
    },
    /// Press the power button, which asks the guest to shut down: nothing.
    PowerButton,
    /// Go on with another engine: [`Moved`].
    Engine {
        /// Its name, as on the command line.
        name: String,
    },
}

/// What going on with another engine was like.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Moved {
    /// The engine that the domain has now.
    pub engine: String,
    /// Seconds that the guest did not run.
    pub pause_seconds: f64,
}

/// What kinds of devices can be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A disk.
    Disk,
    /// A network interface.
    Net,
    /// A shared directory.
    Fs,
}

/// What can be changed in a device while the guest runs. What is not there stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceChange {
    /// What it may do, as on the command line; empty for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Whether its cable is plugged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// Bytes it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A device of a domain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// `disk`, `net`, or what else it is.
    pub kind: String,
    /// Its slot on PCI bus 0.
    pub slot: u8,
    /// Its options, as on the command line.
    pub options: String,
}

impl Command {
    const NAMES: [&'static str; 8] = [
        "info",
        "stats",
        "devices",
        "device-add",
        "device-remove",
        "device-set",
        "power-button",
        "engine",
    ];

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        match self {
            // Guests finish what they do with a device first.
            Self::DeviceRemove { .. } => REMOVAL + Duration::from_secs(5),
            // The host may be busy, and is asked twice if the engine would not have the domain.
            Self::Engine { .. } => Duration::from_secs(30),
            _ => Duration::from_secs(5),
        }
    }
}

/// How long a guest has to let go of a device.
pub const REMOVAL: Duration = Duration::from_secs(10);

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
    /// The image it was started from.
    pub image: String,
    /// Ports of the host that lead to its own, as on the command line.
    pub ports: Vec<String>,
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

#[derive(Serialize)]
pub(crate) struct Request {
    pub version: u32,
    #[serde(flatten)]
    pub command: Command,
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
    /// With a code that programs know and a message for people.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// The command in a line, or why there is none.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Refusal> {
    let bad = |e: serde_json::Error| {
        let message = format!("not a request such as {{\"version\":1,\"command\":\"stats\"}}: {e}");
        Refusal::new("bad-request", message)
    };
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        #[serde(default)]
        command: String,
    }
    let request: Value = serde_json::from_slice(line).map_err(bad)?;
    let head = Head::deserialize(&request).map_err(bad)?;
    if head.version != VERSION {
        let message = format!("this donjon speaks version {VERSION}, not {}", head.version);
        return Err(Refusal::new("unknown-version", message));
    }
    if !Command::NAMES.contains(&&*head.command) {
        let message = format!("this donjon knows the commands {}", Command::NAMES.join(", "));
        return Err(Refusal::new("unknown-command", message));
    }
    Command::deserialize(request).map_err(bad)
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
        assert_eq!(
            parse(br#"{"version":1,"command":"device-set","name":"a","link":false}"#),
            Ok(Command::DeviceSet {
                name: "a".into(),
                change: DeviceChange {
                    link: Some(false),
                    ..DeviceChange::default()
                }
            })
        );
        for bad in [
            br#"{"version":1,"command":"device-add","kind":"disk"}"#,
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
    fn every_command_is_known_by_its_name() {
        let name = String::from("a");
        let all = [
            Command::Info,
            Command::Stats,
            Command::Devices,
            Command::DeviceAdd {
                kind: DeviceKind::Net,
                options: "none".into(),
            },
            Command::DeviceRemove {
                name: name.clone(),
                force: true,
            },
            Command::DeviceSet {
                name,
                change: DeviceChange {
                    size: Some(7),
                    ..DeviceChange::default()
                },
            },
            Command::PowerButton,
            Command::Engine { name: "kvm".into() },
        ];
        assert_eq!(all.len(), Command::NAMES.len());
        for command in all {
            let request = Request {
                version: VERSION,
                command: command.clone(),
            };
            assert_eq!(parse(&serde_json::to_vec(&request).unwrap()), Ok(command));
        }
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
