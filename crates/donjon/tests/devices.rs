//! Devices that come and go while a guest runs.

mod common;

use common::guest::Guest;
use common::place::Place;
use std::time::{Duration, Instant};

/// A domain of this name with one disk.
fn domain(place: &Place, name: &str) -> Guest {
    place.image("first.raw", "raw", "8M");
    Guest::boot(
        place,
        &["--name", name, "--no-net", "--disk", "first.raw,format=raw"],
    )
}

/// The disks and network interfaces.
fn names(place: &Place, domain: &str) -> Vec<String> {
    let devices = place.json(&["device", "ls", domain]);
    let devices = devices.as_array().unwrap();
    assert!(devices.is_sorted_by_key(|d| d["slot"].as_u64().unwrap()));
    let comes_and_goes = devices
        .iter()
        .filter(|d| d["kind"] == "disk" || d["kind"] == "net");
    comes_and_goes
        .map(|d| d["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn disks_come_are_used_and_go() {
    let place = Place::new();
    let mut guest = domain(&place, "plug");
    place.image("b.qcow2", "qcow2", "16M");
    for round in 0..10 {
        let done = place
            .ask(&[
                "device",
                "add",
                "plug",
                "--disk",
                "b.qcow2,name=extra,serial=EXTRA",
            ])
            .exits(0);
        assert_eq!(done.stdout, "extra added\n");
        guest.wait("[ -b /dev/vdb ]");
        assert_eq!(guest.sh("cat /sys/block/vdb/serial"), "EXTRA");
        // What the last round wrote is there.
        if round > 0 {
            assert_eq!(guest.sh("head -c 8 /dev/vdb"), format!("round {:02}", round - 1));
        }
        guest.sh(&format!(
            "printf 'round {round:02}' | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null"
        ));
        guest.sh("dd if=/dev/zero of=/dev/vdb bs=64k count=16 seek=16 oflag=direct 2>/dev/null");
        let start = Instant::now();
        let done = place.ask(&["device", "rm", "plug", "extra"]).exits(0);
        assert_eq!(done.stdout, "extra removed\n");
        assert!(
            start.elapsed() < Duration::from_secs(9),
            "the guest did not let go by itself"
        );
        guest.wait("[ ! -e /dev/vdb ]");
        assert_eq!(names(&place, "plug"), ["disk0"]);
        // Nobody holds the image now.
        place.host("qemu-img", &["check", "-q", "b.qcow2"]);
    }
    guest.off();
}

#[test]
fn a_disk_is_pulled_out_under_load() {
    let place = Place::new();
    let mut guest = domain(&place, "pull");
    place.image("b.qcow2", "qcow2", "64M");
    for round in 0..3 {
        place
            .ask(&["device", "add", "pull", "--disk", "b.qcow2,name=extra"])
            .exits(0);
        guest.wait("[ -b /dev/vdb ]");
        guest.sh("(while dd if=/dev/zero of=/dev/vdb bs=256k count=128 oflag=direct 2>/dev/null; do echo one >>/tmp/rounds; done; echo ended >>/tmp/load) & true");
        guest.sh(
            "(while dd if=/dev/vdb of=/dev/null bs=4k count=999 iflag=direct 2>/dev/null; do :; done; echo ended >>/tmp/load) & true",
        );
        guest.wait("[ -s /tmp/rounds ]");
        place.ask(&["device", "rm", "pull", "extra", "--force"]).exits(0);
        // The load fails, the guest does not. Who still had it open would keep its name.
        guest.wait(&format!("[ $(cat /tmp/load | wc -l) = {} ]", 2 * (round + 1)));
        // What dd made of the name when the device had gone is in the way of the next one.
        guest.sh("rm -f /tmp/rounds /dev/vdb; dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null");
        assert_eq!(names(&place, "pull"), ["disk0"]);
        place.ask(&["disk", "check", "b.qcow2"]).exits(0);
        place.host("qemu-img", &["check", "-q", "b.qcow2"]);
    }
    guest.off();
}

#[test]
fn a_disk_is_pulled_out_of_a_guest_that_does_not_let_go() {
    let place = Place::new();
    place.image("a.raw", "raw", "8M");
    place.image("b.qcow2", "qcow2", "64M");
    let deaf = "console=ttyS0 quiet cryptomgr.notests acpiphp.disable=1";
    let disks = ["--disk", "a.raw,format=raw", "--disk", "b.qcow2,name=extra"];
    let mut guest = Guest::boot(
        &place,
        &[&["--name", "deaf", "--no-net", "--append", deaf], &disks[..]].concat(),
    );
    guest.sh("(while dd if=/dev/zero of=/dev/vdb bs=256k count=64 oflag=direct 2>/dev/null; do echo one >>/tmp/rounds; done) & true");
    guest.wait("[ -s /tmp/rounds ]");
    place
        .ask(&["device", "rm", "deaf", "extra"])
        .exits(1)
        .says(&["the guest does not let go of extra", "--force"]);
    assert_eq!(names(&place, "deaf"), ["disk0", "extra"]);
    guest.sh("rm /tmp/rounds");
    guest.wait("[ -s /tmp/rounds ]");
    place.ask(&["device", "rm", "deaf", "extra", "--force"]).exits(0);
    assert_eq!(names(&place, "deaf"), ["disk0"]);
    // Nobody holds the image; what was with the disk is lost to the guest, which goes on.
    place.host("qemu-img", &["info", "b.qcow2"]);
    place.ask(&["disk", "check", "b.qcow2"]).exits(0);
    guest.sh("dd if=/dev/urandom of=/dev/vda bs=64k count=16 oflag=direct 2>/dev/null");
    // It may wait for that disk for ever when it powers off.
    guest.running.signal(rustix::process::Signal::TERM);
    guest.running.finish().exits(128 + 15);
}

#[test]
fn network_interfaces_come_and_go() {
    let place = Place::new();
    let mut guest = domain(&place, "nics");
    for round in 0..4 {
        let nets = [
            ("switch=lan,mac=52:54:00:00:00:0a", "net0"),
            ("none,mac=52:54:00:00:00:0b", "net1"),
        ];
        for (net, name) in nets {
            let done = place.ask(&["device", "add", "nics", "--net", net]).exits(0);
            assert_eq!(done.stdout, format!("{name} added\n"));
        }
        // A driver that is not needed at boot is loaded on demand.
        if round == 0 {
            guest.wait("grep -q 0x0001 /sys/bus/virtio/devices/*/device");
            guest.sh("/etc/devices");
        }
        for mac in ["52:54:00:00:00:0a", "52:54:00:00:00:0b"] {
            guest.wait(&format!("grep -q {mac} /sys/class/net/*/address"));
        }
        guest.sh(
            "ip link set eth0 up; ip addr add 10.0.0.1/24 dev eth0; ping -c 2 -W 1 10.0.0.2 >/dev/null; true",
        );
        place
            .ask(&["device", "set", "nics", "net0", "--link", "down"])
            .exits(0);
        guest.wait("[ $(cat /sys/class/net/eth0/carrier) = 0 ]");
        place
            .ask(&["device", "set", "nics", "net0", "--link", "up"])
            .exits(0);
        guest.wait("[ $(cat /sys/class/net/eth0/carrier) = 1 ]");
        place.ask(&["device", "rm", "nics", "net0"]).exits(0);
        place.ask(&["device", "rm", "nics", "net1"]).exits(0);
        guest.wait("[ ! -e /sys/class/net/eth0 -a ! -e /sys/class/net/eth1 ]");
    }
    assert_eq!(names(&place, "nics"), ["disk0"]);
    guest.off();
}

#[test]
fn what_cannot_be_done_is_explained() {
    let place = Place::new();
    let guest = domain(&place, "wrong");
    place.image("b.qcow2", "qcow2", "8M");
    let table = place.ask(&["device", "ls", "wrong"]).exits(0).stdout;
    assert!(
        table.starts_with("name ") && table.contains("\ndisk0 ") && table.contains("first.raw"),
        "{table}"
    );
    for (args, parts) in [
        (
            &["add", "wrong", "--disk", "b.qcow2,name=disk0"][..],
            &["called disk0 already", "name="][..],
        ),
        (
            &["add", "wrong", "--disk", "missing.qcow2"],
            &["does not exist", "donjon disk create"],
        ),
        (
            &["add", "wrong", "--net", "tap=nosuchtap"],
            &["nosuchtap", "ip tuntap add"],
        ),
        (
            &["rm", "wrong", "disk7"],
            &["no device called \"disk7\"", "disk0"],
        ),
        (&["rm", "wrong", "rng", "--force"], &["belongs to the machine"]),
        (&["set", "wrong", "disk7", "--size", "1G"], &["no device called"]),
        (&["set", "wrong", "disk0", "--link", "up"], &["has no cable"]),
        (
            &["set", "wrong", "rng", "--limit", "bps=1M"],
            &["cannot be limited"],
        ),
        (&["ls", "nobody"], &["no domain named nobody"]),
    ] {
        let done = place.ask(&[&["device"], args].concat()).exits(1).says(parts);
        assert!(
            done.stderr.starts_with("error: ") && done.stdout.is_empty(),
            "{args:?}: {}",
            done.stderr
        );
    }
    // What was refused holds nothing.
    place.host("qemu-img", &["check", "-q", "b.qcow2"]);
    assert_eq!(names(&place, "wrong"), ["disk0"]);
    guest.off();
}

#[test]
fn a_bus_has_an_end() {
    let place = Place::new();
    let guest = domain(&place, "many");
    let mut added = 0;
    let refused = loop {
        let done = place.ask(&["device", "add", "many", "--net", "none"]);
        if !done.status.success() {
            break done;
        }
        added += 1;
        assert!(added < 40);
    };
    let told = refused.exits(1).stderr;
    assert!((20..=31).contains(&added), "{added}: {told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    place.ask(&["device", "rm", "many", "net3", "--force"]).exits(0);
    // The slot and the name are free again.
    let done = place.ask(&["device", "add", "many", "--net", "none"]).exits(0);
    assert_eq!(done.stdout, "net3 added\n");
    guest.off();
}

#[test]
fn a_reset_keeps_devices_where_they_are() {
    let place = Place::new();
    let mut guest = domain(&place, "again");
    for image in ["b.qcow2", "c.qcow2", "d.qcow2"] {
        place.image(image, "qcow2", "8M");
    }
    place
        .ask(&["device", "add", "again", "--disk", "b.qcow2"])
        .exits(0);
    place
        .ask(&[
            "device",
            "add",
            "again",
            "--disk",
            "c.qcow2,name=kept,serial=KEPT",
        ])
        .exits(0);
    guest.wait("[ -b /dev/vdc ]");
    guest.sh("printf survives | dd of=/dev/vdc conv=fsync 2>/dev/null");
    // A gap before it stays one.
    place.ask(&["device", "rm", "again", "disk1"]).exits(0);
    let before = place.json(&["device", "ls", "again"]);
    let path = "readlink -f /sys/block/$(basename $(dirname $(grep -l KEPT /sys/block/*/serial)))/device/..";
    let slot = guest.sh(path);
    for _ in 0..2 {
        guest.running.send("reboot\n");
        guest.up();
        assert_eq!(place.json(&["device", "ls", "again"]), before);
        assert_eq!(guest.sh(path), slot);
        guest.sh("[ -b /dev/vdb -a ! -e /dev/vdc ]");
        assert_eq!(guest.sh("head -c 8 /dev/vdb"), "survives");
    }
    place
        .ask(&["device", "add", "again", "--disk", "d.qcow2"])
        .exits(0);
    guest.wait("[ -b /dev/vdc ]");
    place.ask(&["device", "rm", "again", "kept"]).exits(0);
    guest.wait("[ ! -e /dev/vdb ]");
    guest.off();
}
