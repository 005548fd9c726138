//! Both sides of a socket, and callers that are not what they should be.

use donjon_control::{
    Answers, AskError, Command, DeviceChange, DeviceInfo, DeviceKind, Info, Moved, Refusal, RunDirectory,
    Server, Stats, VcpuReport, ask,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Fixed;

impl Answers for Fixed {
    fn info(&self) -> Info {
        Info {
            name: "web".into(),
            pid: 7,
            cpus: 64,
            ..Info::default()
        }
    }

    fn stats(&self) -> Stats {
        let busy = VcpuReport {
            busy_seconds: 1.0,
            ..VcpuReport::default()
        };
        Stats {
            domain: self.info(),
            vcpus: vec![busy; 64],
            total: busy,
        }
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        vec![DeviceInfo {
            name: "disk0".into(),
            ..DeviceInfo::default()
        }]
    }

    fn add_device(&self, kind: DeviceKind, options: &str) -> Result<DeviceInfo, Refusal> {
        Ok(DeviceInfo {
            name: format!("{kind:?} {options}"),
            ..DeviceInfo::default()
        })
    }

    fn remove_device(&self, name: &str, force: bool) -> Result<(), Refusal> {
        match force {
            true => Ok(()),
            false => Err(Refusal::new("failed", format!("{name} is in use"))),
        }
    }

    fn set_device(&self, name: &str, change: &DeviceChange) -> Result<DeviceInfo, Refusal> {
        Ok(DeviceInfo {
            name: name.into(),
            options: format!("{:?}", change.link),
            ..DeviceInfo::default()
        })
    }

    fn press_power_button(&self) -> Result<(), Refusal> {
        Err(Refusal::new("gone", "there is none"))
    }

    fn set_engine(&self, name: &str) -> Result<Moved, Refusal> {
        Ok(Moved {
            engine: name.into(),
            pause_seconds: 0.5,
        })
    }
}

fn server(directory: &Path) -> (Server, RunDirectory, PathBuf) {
    let run = RunDirectory::at(directory.join("donjon"));
    let name = "web".parse().unwrap();
    let server = Server::start(run.claim(&name).unwrap(), Arc::new(Fixed)).unwrap();
    let socket = run.socket(&name);
    (server, run, socket)
}

/// What comes back for these bytes before the connection is closed.
fn raw(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // It may be closed before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut all = String::new();
    let _ = stream.read_to_string(&mut all);
    all
}

#[test]
fn devices_are_asked_for_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, _, socket) = server(directory.path());
    let all: Vec<DeviceInfo> = ask(&socket, &Command::Devices).unwrap();
    assert_eq!(all, Fixed.devices());
    let add = Command::DeviceAdd {
        kind: DeviceKind::Disk,
        options: "/a,ro".into(),
    };
    assert_eq!(ask::<DeviceInfo>(&socket, &add).unwrap().name, "Disk /a,ro");
    let remove = |force| Command::DeviceRemove {
        name: "disk0".into(),
        force,
    };
    assert!(ask::<bool>(&socket, &remove(true)).unwrap());
    let refused = ask::<bool>(&socket, &remove(false)).unwrap_err().to_string();
    assert_eq!(refused, "disk0 is in use");
    let set = Command::DeviceSet {
        name: "net0".into(),
        change: DeviceChange {
            link: Some(false),
            ..DeviceChange::default()
        },
    };
    assert_eq!(ask::<DeviceInfo>(&socket, &set).unwrap().options, "Some(false)");
}

#[test]
fn questions_are_answered_until_the_domain_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (server, run, socket) = server(directory.path());
    assert_eq!(ask::<Info>(&socket, &Command::Info).unwrap(), Fixed.info());
    assert_eq!(ask::<Stats>(&socket, &Command::Stats).unwrap(), Fixed.stats());
    drop(server);
    assert!(matches!(
        ask::<Info>(&socket, &Command::Info),
        Err(AskError::Gone)
    ));
    assert!(run.running().unwrap().is_empty());
}

#[test]
fn several_questions_go_on_one_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, _, socket) = server(directory.path());
    let info = "{\"version\":1,\"command\":\"info\"}\n";
    let answers = raw(&socket, format!("{info}nonsense\n{info}").as_bytes());
    let lines: Vec<_> = answers.lines().collect();
    assert_eq!(lines.len(), 3, "{answers}");
    assert!(
        lines[0].starts_with(r#"{"version":1,"result":{"name":"web","pid":7,"#),
        "{answers}"
    );
    assert!(
        lines[1].starts_with(r#"{"version":1,"error":{"code":"bad-request","#),
        "{answers}"
    );
    assert_eq!(lines[0], lines[2]);
}

#[test]
fn too_long_a_line_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, _, socket) = server(directory.path());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&[b' '; 4096]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("too-long") && answer.lines().count() == 1,
        "{answer}"
    );
    ask::<Info>(&socket, &Command::Info).unwrap();
}

#[test]
fn half_a_line_and_bytes_at_random_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, _, socket) = server(directory.path());
    assert_eq!(raw(&socket, b"{\"version\":1"), "");
    let mut seed = 1u64;
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .collect();
        for line in raw(&socket, &bytes).lines() {
            assert!(line.contains("bad-request"), "{line}");
        }
    }
    ask::<Info>(&socket, &Command::Info).unwrap();
}

#[test]
fn those_who_hold_connections_open_keep_nobody_out_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, _, socket) = server(directory.path());
    let mut held: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // The ninth is told so.
    let mut line = String::new();
    BufReader::new(UnixStream::connect(&socket).unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("busy"), "{line}");
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut all = vec![];
        stream.read_to_end(&mut all).unwrap();
        assert!(all.is_empty());
    }
    ask::<Info>(&socket, &Command::Info).unwrap();
}
