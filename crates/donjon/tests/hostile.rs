//! Guests that use their devices on purpose as no driver would: donjon goes on, and so does everyone else.

mod common;

use common::guest::Guest;
use common::place::Place;
use std::time::{Duration, Instant};

/// How much memory of its own a donjon may need for all that, beyond what it had, in KiB.
const MEMORY: u64 = 160 << 10;

/// KiB of memory of its own (proc(5), /proc/pid/status).
fn memory(guest: &Guest) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", guest.running.child.id())).expect("it runs");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn threads(guest: &Guest) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", guest.running.child.id()))
        .expect("it runs")
        .count()
}

/// The PCI address of the first device with this number, whose driver then lets go of it.
fn take(guest: &mut Guest, device: &str) -> String {
    let found = guest.sh(&format!(
        "basename $(dirname $(grep -l {device} /sys/bus/pci/devices/*/device))"
    ));
    guest.sh(&format!(
        "echo {found} >/sys/bus/pci/devices/{found}/driver/unbind"
    ));
    found
}

fn give_back(guest: &mut Guest, address: &str, driver: &str) {
    guest.sh(&format!("echo {address} >/sys/bus/pci/drivers/{driver}/bind"));
}

/// A piece of work for a guest and its disk.
fn work(guest: &mut Guest) -> Duration {
    let start = Instant::now();
    guest.sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/vda bs=4k count=1000 oflag=direct 2>/dev/null");
    start.elapsed()
}

#[test]
fn a_hostile_driver_harms_nobody_else() {
    let place = Place::new();
    let boot = place.with_programs(&["virtio", "nvme"]);
    let boot: Vec<_> = boot.iter().map(String::as_str).collect();
    place.image("a.qcow2", "qcow2", "16M");
    place.image("c.qcow2", "qcow2", "16M");
    place.image("b.raw", "raw", "16M");
    let mut other = Guest::boot(&place, &["--name", "other", "--disk", "b.raw,format=raw"]);
    let devices = [
        "--name",
        "evil",
        "--disk",
        "a.qcow2",
        "--net",
        "switch=lan",
        "--disk",
        "c.qcow2,bus=nvme",
        "--vsock",
        "sock",
    ];
    let mut evil = Guest::boot(&place, &[&boot[..], &devices].concat());
    let alone = work(&mut other);
    evil.wait("[ -b /dev/nvme0n1 ]");
    let nvme = evil.sh("cat /sys/class/nvme/nvme0/device/device");
    let (before, tasks) = (memory(&evil), threads(&evil));
    let cases = [
        ("0x1042", "virtio", "virtio-pci"),
        ("0x1041", "virtio", "virtio-pci"),
        ("0x1044", "virtio", "virtio-pci"),
        ("0x1045", "virtio", "virtio-pci"),
        ("0x1053", "virtio", "virtio-pci"),
        (&nvme, "nvme", "nvme"),
    ];
    for (seed, (device, program, driver)) in (1..).zip(cases) {
        let address = take(&mut evil, device);
        evil.begin(&format!("/{program} {address} {seed} 3"));
        // The neighbour keeps its pace: half a core is its own at the least.
        let beside = work(&mut other);
        assert!(
            beside < 4 * alone + Duration::from_secs(5),
            "{device}: {alone:?} alone, {beside:?} beside it"
        );
        // Its own donjon answers.
        assert_eq!(place.json(&["stats", "evil"])["domain"]["name"], "evil");
        place.json(&["device", "ls", "evil"]);
        let (code, text) = evil.result();
        println!("{device}: {text}");
        assert_eq!(code, 0, "{device}: {text}");
        let now = memory(&evil);
        assert!(now < before + MEMORY, "{device}: from {before} to {now} KiB");
        // A reset heals it, and a driver finds nothing amiss.
        give_back(&mut evil, &address, driver);
        assert!(
            threads(&evil) <= tasks + 8,
            "{device}: {tasks} threads became {}",
            threads(&evil)
        );
    }
    evil.sh("dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null");
    for serial in ["disk0", "disk1"] {
        let disk = evil.disk(serial);
        evil.sh(&format!(
            "dd if=/tmp/x of=/dev/{disk} bs=64k conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches"
        ));
        evil.sh(&format!(
            "dd if=/dev/{disk} bs=64k count=64 iflag=direct 2>/dev/null | cmp - /tmp/x"
        ));
    }
    evil.sh("ip link set eth0 up && head -c 16 /dev/hwrng >/dev/null");
    let errors = evil.off().stderr;
    assert!(!errors.contains("panicked"), "{errors}");
    other.off();
    for image in ["a.qcow2", "c.qcow2"] {
        place.ask(&["disk", "check", image]).exits(0);
        place.host("qemu-img", &["check", "-q", image]);
    }
}
