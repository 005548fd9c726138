//! Debian, built from its packages, as its user has it.

mod common;

use common::place::Place;
use common::{Finished, finish};
use donjon_host::store::Store;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A place with domains of its own, and a store with an image that all tests here share.
struct Host(Place);

impl Host {
    fn new() -> Self {
        let host = Self(Place::new());
        // The first to come makes it; the others wait.
        let store = Store::at(Self::data().join("donjon"));
        let _making = store.making("for the tests").unwrap();
        if store.image("debian:bookworm").is_err() {
            host.ask(&["image", "build", "debian:bookworm"]).exits(0);
        }
        host
    }

    fn data() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("debian")
    }

    fn donjon(&self, args: &[&str]) -> Command {
        let mut command = self.0.donjon(args);
        command.env("XDG_DATA_HOME", Self::data()).env("USER", "ada");
        command
    }

    fn ask(&self, args: &[&str]) -> Finished {
        finish(&mut self.donjon(args), "")
    }

    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> String {
        self.ask(&["exec", name, "--", "sh", "-c", script])
            .exits(0)
            .stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        let done = self.ask(&[args, &["--format", "json"]].concat()).exits(0);
        serde_json::from_str(&done.stdout).unwrap()
    }
}

/// A domain that goes with the test.
struct Domain<'a>(&'a Host, String);

impl<'a> Domain<'a> {
    #[track_caller]
    fn run(host: &'a Host, name: &str, args: &[&str]) -> Self {
        // Several stores' worth of tests share one.
        let name = format!("{name}-{}", std::process::id());
        let all = [&["run", "-d", "--name", &name], args, &["debian"]].concat();
        host.ask(&all).exits(0);
        let domain = Self(host, name);
        host.ask(&["exec", "--wait", "200", &domain.1, "--", "true"])
            .exits(0);
        domain
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        self.0.ask(&["rm", "--force", &self.1]);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn one_command_gives_a_whole_system() {
    let host = Host::new();
    std::fs::create_dir(host.0.path("share")).unwrap();
    std::fs::write(host.0.path("share/file"), "from the host").unwrap();
    std::fs::write(host.0.path("key.pub"), "ssh-ed25519 AAAA ada@host\n").unwrap();
    let port = free_port();
    let forward = format!("{port}:22");
    let args = [
        "-p",
        &forward,
        "-v",
        "./share:/mnt/my share",
        "--ssh-key",
        "key.pub",
    ];
    let domain = Domain::run(&host, "web", &args);
    let name = &domain.1;
    // Programs, however they end.
    host.ask(&["exec", name, "--", "sh", "-c", "exit 7"]).exits(7);
    host.ask(&["exec", name, "--", "sh", "-c", "kill -9 $$"])
        .exits(137);
    let none = host.ask(&["exec", name, "--", "no-such-program"]).exits(127);
    assert!(none.stderr.contains("no-such-program"), "{}", none.stderr);
    let mut cat = host.donjon(&[
        "exec",
        "-i",
        "-u",
        "ada",
        "-w",
        "/tmp",
        "-e",
        "X=y",
        name,
        "--",
        "sh",
        "-c",
        "cat; id -un; pwd; echo $X",
    ]);
    assert_eq!(
        finish(&mut cat, "typed\n").exits(0).stdout,
        "typed\nada\n/tmp\ny\n"
    );
    // Whoever started it is its user.
    assert_eq!(
        host.exec(
            name,
            "hostname; sudo -u ada sudo -n id -u; cat ~ada/.ssh/authorized_keys"
        ),
        format!("{name}\n0\nssh-ed25519 AAAA ada@host\n")
    );
    // The directory, under a name that needs quoting everywhere.
    assert_eq!(host.exec(name, "until mountpoint -q '/mnt/my share'; do sleep 0.1; done; cd '/mnt/my share'; cat file; echo back > answer"), "from the host");
    assert_eq!(
        std::fs::read_to_string(host.0.path("share/answer")).unwrap(),
        "back\n"
    );
    host.ask(&["cp", "share", &format!("{name}:/root")]).exits(0);
    host.ask(&["cp", &format!("{name}:/root/share/file"), "copy"])
        .exits(0);
    assert_eq!(
        std::fs::read_to_string(host.0.path("copy")).unwrap(),
        "from the host"
    );
    // It starts without complaint.
    assert_eq!(
        host.exec(
            name,
            "systemctl is-system-running --wait; systemctl --failed --no-legend"
        ),
        "running\n"
    );
    let mut ssh = TcpStream::connect(("127.0.0.1", port)).unwrap();
    ssh.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut banner = [0; 8];
    ssh.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    ssh.write_all(b"\r\n").unwrap();
    let listed = host.json(&["ps"]);
    let row = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == json!(name))
        .unwrap();
    assert_eq!(
        (&row["addresses"][0], &row["ports"]),
        (&json!("10.0.2.15"), &json!([forward]))
    );
    // What was written is there after a shutdown.
    host.exec(name, "echo kept > /root/kept");
    let busy = host.ask(&["rm", name]).exits(1);
    assert!(busy.stderr.contains("donjon stop"), "{}", busy.stderr);
    host.ask(&["stop", name]).exits(0);
    let logs = host.ask(&["logs", name]).exits(0).stdout;
    assert!(logs.contains("Power") || logs.contains("power"), "{logs}");
    host.ask(&["start", name]).exits(0);
    host.ask(&[
        "exec",
        "--wait",
        "200",
        name,
        "--",
        "grep",
        "-q",
        "kept",
        "/root/kept",
    ])
    .exits(0);
    // Without the agent the power button does it.
    host.ask(&["exec", name, "--", "systemctl", "stop", "donjon-agent"]);
    host.ask(&["stop", name]).exits(0);
    let image = host.ask(&["image", "rm", "debian"]).exits(1);
    assert!(
        image.stderr.contains(&format!("donjon rm {name}"))
            || image.stderr.contains("disks of these domains"),
        "{}",
        image.stderr
    );
}

#[test]
fn domains_of_one_image_share_its_disk() {
    let host = Host::new();
    let domains: Vec<_> = (0..3)
        .map(|n| Domain::run(&host, &format!("many{n}"), &["--memory", "512M"]))
        .collect();
    let room = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        let disk = Host::data().join("donjon/domains").join(name).join("disk.qcow2");
        std::fs::metadata(disk).unwrap().blocks() * 512
    };
    for (n, domain) in domains.iter().enumerate() {
        host.exec(&domain.1, &format!("echo {n} > /root/n"));
    }
    for (n, domain) in domains.iter().enumerate() {
        assert_eq!(host.exec(&domain.1, "cat /root/n"), format!("{n}\n"));
        assert!(room(&domain.1) < 100 << 20, "{}", room(&domain.1));
    }
    // What must not be shared is not.
    let key = "until [ -s /etc/ssh/ssh_host_ed25519_key.pub ]; do sleep 0.1; done; cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id";
    let mut keys: Vec<_> = domains.iter().map(|d| host.exec(&d.1, key)).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), domains.len());
}

#[test]
fn cloud_init_sets_a_system_up() {
    let host = Host::new();
    let data =
        "#cloud-config\nhostname: named\nwrite_files:\n- path: /etc/by-cloud-init\n  content: yes it is\n";
    std::fs::write(host.0.path("user-data"), data).unwrap();
    let domain = Domain::run(&host, "cloud", &["--cloud-init", "user-data"]);
    let done = host.exec(
        &domain.1,
        "cloud-init status --wait >/dev/null; cat /etc/by-cloud-init; hostname",
    );
    assert_eq!(done, "yes it isnamed\n");
}
