//! Debian, built from its packages, as its user has it.

mod common;

use common::place::Place;
use common::{Finished, finish, free_port};
use donjon_host::store::Store;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
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
        let _making = store.making("for the tests", || ()).unwrap();
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
        Self::of(host, "debian", name, args)
    }

    #[track_caller]
    fn of(host: &'a Host, image: &str, name: &str, args: &[&str]) -> Self {
        // Several stores' worth of tests share one.
        let name = format!("{name}-{}", std::process::id());
        let all = [&["run", "-d", "--name", &name], args, &[image]].concat();
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

/// Waits until cloud-init has done its work, all of it.
#[track_caller]
fn cloud_init_is_done(host: &Host, domain: &Domain<'_>) {
    let script =
        "cloud-init status --wait >/dev/null; cloud-init status --long; systemctl --failed --no-legend";
    let said = host.exec(&domain.1, script);
    assert!(said.starts_with("status: done\n"), "{said}");
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn cloud_init_sets_a_system_up() {
    let host = Host::new();
    let data =
        "#cloud-config\nhostname: named\nwrite_files:\n- path: /etc/by-cloud-init\n  content: yes it is\n";
    std::fs::write(host.0.path("user-data"), data).unwrap();
    let domain = Domain::run(&host, "cloud", &["--cloud-init", "user-data"]);
    cloud_init_is_done(&host, &domain);
    let done = host.exec(&domain.1, "cat /etc/by-cloud-init; hostname");
    assert_eq!(done, "yes it isnamed\n");
}

/// The image `debian` as others give theirs away: in the only partition of a disk that is larger.
fn stock_image(host: &Host) -> String {
    let inspected = host.ask(&["image", "inspect", "debian"]).exits(0).stdout;
    let image: Value = serde_json::from_str(&inspected).unwrap();
    // An MBR, with a partition of type Linux from 1 MiB on; the rest up to there is empty.
    let sectors = u32::try_from(image["size"].as_u64().unwrap() / 512).unwrap();
    let mut head = vec![0; 1 << 20];
    head[450] = 0x83;
    head[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    head[458..462].copy_from_slice(&sectors.to_le_bytes());
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(host.0.path("head.raw"), head).unwrap();
    // Several files become one disk.
    let disk = image["disk"].as_str().unwrap();
    host.0.host(
        "qemu-img",
        &["convert", "-O", "qcow2", "head.raw", disk, "stock.qcow2"],
    );
    host.0.host("qemu-img", &["resize", "-q", "stock.qcow2", "+1G"]);
    let name = format!("stock-{}", std::process::id());
    host.ask(&["image", "import", "stock.qcow2", "--name", &name])
        .exits(0);
    name
}

#[test]
fn an_imported_system_is_set_up_by_cloud_init() {
    let host = Host::new();
    let image = stock_image(&host);
    std::fs::write(host.0.path("key.pub"), "ssh-ed25519 AAAA ada@host\n").unwrap();
    let domain = Domain::of(&host, &image, "imported", &["--ssh-key", "key.pub"]);
    cloud_init_is_done(&host, &domain);
    assert_eq!(
        host.exec(
            &domain.1,
            "hostname; sudo -u ada sudo -n id -u; cat ~ada/.ssh/authorized_keys"
        ),
        format!("{}\n0\nssh-ed25519 AAAA ada@host\n", domain.1)
    );
    // All of the disk is its.
    let sizes = host.exec(
        &domain.1,
        "lsblk -bno SIZE /dev/vda1; df -B1 --output=size / | tail -n 1",
    );
    let sizes: Vec<u64> = sizes.split_whitespace().map(|s| s.parse().unwrap()).collect();
    assert!(sizes[0] > 17_000 << 20 && sizes[1] > 16_500 << 20, "{sizes:?}");
    drop(domain);
    host.ask(&["image", "rm", &image]).exits(0);
}
