//! What a guest was told to be durable survives a donjon that is killed at any moment.
//!
//! A guest writes to a disk (`guest/load.c`) and says what it has flushed; donjon is killed; the image has to be sound
//! and every sector in a state from the last flush on. `DONJON_KILLS=200` kills that often instead of fifteen times;
//! for more, run it without nextest's time limit: `DONJON_KILLS=500 cargo test -p donjon --test crash`.

mod common;
#[path = "crash/replay.rs"]
mod replay;

use common::guest::Guest;
use common::place::Place;
use donjon_block::{Options, open};
use replay::{Load, SECTOR};
use std::path::Path;
use std::time::Duration;

/// Sectors of what is written to.
const SECTORS: u64 = 32768;
/// Kills until it starts with a new image.
const KILLS_PER_IMAGE: u64 = 4;

/// How often each test kills.
fn kills() -> u64 {
    let tests = 5;
    let text = std::env::var("DONJON_KILLS").unwrap_or("15".into());
    let kills: u64 = text.parse().expect("DONJON_KILLS is a number");
    kills.div_ceil(tests)
}

/// Random numbers for when to kill. Nothing else depends on them.
fn random() -> u64 {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("random numbers");
    u64::from_le_bytes(bytes)
}

/// What is written to, and how to see it from outside.
struct Target<'a> {
    /// The image's name.
    image: &'a str,
    bus: &'a str,
    cpus: &'a str,
    /// The load's arguments in the guest, and what has to be done before.
    file: &'a str,
    prepare: &'a str,
    mode: &'a str,
    /// Makes a new image.
    make: &'a dyn Fn(&Place),
    /// What is written to, from the whole disk's content, which it may change.
    extract: &'a dyn Fn(&Place, &Path) -> Vec<u8>,
}

/// Checks the image as a file: nothing wrong, and nothing leaked if it has been opened since the kill. How many clusters
/// are.
#[track_caller]
fn check(place: &Place, image: &str, opened: bool) -> u64 {
    if !image.ends_with(".qcow2") {
        return 0;
    }
    let report = place.json(&["disk", "check", image]);
    assert_eq!(report["errors"], 0, "{report}");
    let output = place.try_host("qemu-img", &["check", "--output=json", image]);
    let code = output.status.code();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if opened {
        assert_eq!(report["leaks"], 0, "{report}");
        assert_eq!(code, Some(0), "{text}");
    } else {
        // 3: leaks and nothing else (qemu-img(1)).
        assert!(matches!(code, Some(0 | 3)), "{code:?}: {text}");
    }
    report["leaks"].as_u64().expect("a number")
}

fn survives(target: &Target<'_>) {
    let place = Place::new();
    let args = place.with_programs(&["load"]);
    let mut before = vec![];
    let (mut flushes, mut leaks) = (0, 0);
    for kill in 0..kills() {
        if kill % KILLS_PER_IMAGE == 0 {
            (target.make)(&place);
            before = content(&place, target);
        }
        let load = Load {
            seed: kill + 1,
            threads: 4,
        };
        let mut args: Vec<_> = args.iter().map(String::as_str).collect();
        let disk = format!("{},bus={}", target.image, target.bus);
        args.extend(["--cpus", target.cpus, "--disk", &disk]);
        let mut guest = Guest::boot(&place, &args);
        guest.disk("disk0");
        guest.begin(&format!(
            "{} /load {} {} {SECTORS} {} {}",
            target.prepare, target.file, load.seed, load.threads, target.mode
        ));
        // Some flushes, and a little more.
        let enough = 1 + (random() % 60) as usize;
        guest
            .running
            .wait("D", |out| (out.matches("\nD ").count() >= enough).then_some(()));
        std::thread::sleep(Duration::from_micros(random() % 20_000));
        let output = guest.running.kill();
        assert!(!output.contains("\nE "), "{output}");

        let durable = load.durable(&output);
        flushes += durable.iter().sum::<u64>();
        leaks += check(&place, target.image, false);
        let now = content(&place, target);
        if let Err(what) = load.check(target.mode == "device", &durable, &before, &now) {
            panic!("after kill {kill}, {durable:?} durable: {what}");
        }
        before = now;
        let options = Options {
            lock: true,
            ..Options::default()
        };
        drop(open(place.path(target.image), &options).expect("it opens"));
        check(&place, target.image, true);
    }
    assert!(flushes > 0);
    println!(
        "{} kills, {flushes} writes flushed, {leaks} clusters leaked and given back",
        kills()
    );
}

/// What is written to, as donjon and QEMU see it alike.
#[track_caller]
fn content(place: &Place, target: &Target<'_>) -> Vec<u8> {
    let raw = [
        "disk",
        "convert",
        target.image,
        "now.raw",
        "--format",
        "raw",
        "--force",
    ];
    place.ask(&raw).exits(0);
    place.host("qemu-img", &["compare", target.image, "now.raw"]);
    let content = (target.extract)(place, &place.path("now.raw"));
    assert_eq!(content.len() as u64, SECTORS * SECTOR as u64);
    content
}

fn whole(_: &Place, raw: &Path) -> Vec<u8> {
    std::fs::read(raw).unwrap()
}

const DEVICE: Target<'_> = Target {
    image: "disk.raw",
    bus: "virtio",
    cpus: "1",
    file: "/dev/vda",
    prepare: "",
    mode: "device",
    make: &|_| {},
    extract: &whole,
};

fn remove(place: &Place, image: &str) {
    let _ = std::fs::remove_file(place.path(image));
}

#[test]
fn a_raw_image_keeps_what_was_flushed() {
    survives(&Target {
        make: &|place| {
            remove(place, "disk.raw");
            place.image("disk.raw", "raw", "16M");
        },
        ..DEVICE
    });
}

#[test]
fn a_qcow2_image_keeps_what_was_flushed() {
    survives(&Target {
        image: "disk.qcow2",
        cpus: "2",
        make: &|place| {
            remove(place, "disk.qcow2");
            place.image("disk.qcow2", "qcow2", "16M");
        },
        ..DEVICE
    });
}

#[test]
fn an_nvme_disk_keeps_what_was_flushed() {
    survives(&Target {
        image: "disk.qcow2",
        bus: "nvme",
        file: "/dev/nvme0n1",
        make: &|place| {
            remove(place, "disk.qcow2");
            place.image("disk.qcow2", "qcow2", "16M");
        },
        ..DEVICE
    });
}

#[test]
fn an_overlay_keeps_what_was_flushed() {
    survives(&Target {
        image: "disk.qcow2",
        make: &|place| {
            let base = Load { seed: 0, threads: 0 }.base(SECTORS);
            common::file(place.as_ref(), "base.raw", &base);
            remove(place, "disk.qcow2");
            // Small clusters: copying on write, and tables that grow, all the time.
            let overlay = [
                "disk",
                "overlay",
                "base.raw",
                "disk.qcow2",
                "--backing-format",
                "raw",
                "--cluster-size",
                "4K",
            ];
            place.ask(&overlay).exits(0);
        },
        ..DEVICE
    });
}

#[test]
fn a_file_system_keeps_what_was_flushed() {
    survives(&Target {
        image: "disk.qcow2",
        file: "/mnt/data",
        prepare: "mount -t ext4 /dev/vda /mnt &&",
        mode: "file",
        make: &|place| {
            remove(place, "fs.raw");
            common::file(place.as_ref(), "data", &vec![0; SECTORS as usize * SECTOR]);
            place.host("mkfs.ext4", &["-q", "-J", "size=4", "fs.raw", "48M"]);
            place.host("debugfs", &["-w", "-R", "write data data", "fs.raw"]);
            place
                .ask(&["disk", "convert", "fs.raw", "disk.qcow2", "--force"])
                .exits(0);
        },
        extract: &|place, raw| {
            // What the guest would do when it mounts it; then nothing is left to repair.
            let journal = place.try_host("e2fsck", &["-y", "-E", "journal_only", common::arg(raw)]);
            assert!(matches!(journal.status.code(), Some(0 | 1)), "{journal:?}");
            place.host("e2fsck", &["-f", "-n", common::arg(raw)]);
            place.host("debugfs", &["-R", "dump data out", common::arg(raw)]);
            std::fs::read(place.path("out")).unwrap()
        },
        ..DEVICE
    });
}

#[test]
fn the_check_finds_what_is_lost_old_torn_or_wrong() {
    let load = Load { seed: 7, threads: 3 };
    let before = Load { seed: 6, threads: 0 }.base(SECTORS);
    let durable = [150, 0, 90];
    let now = load.disk(&durable, &before);
    load.check(true, &durable, &before, &now)
        .expect("nothing is wrong");
    // More than was flushed is as good; less is not.
    load.check(true, &[100, 0, 90], &before, &now)
        .expect("more is there");
    let less = load.disk(&[140, 0, 90], &before);
    load.check(true, &durable, &before, &less)
        .expect_err("flushed writes are missing");
    let changed: Vec<_> = (0..SECTORS as usize)
        .map(|s| s * SECTOR)
        .filter(|s| now[*s..s + SECTOR] != before[*s..s + SECTOR])
        .collect();
    for at in [changed[0], changed[changed.len() / 2]] {
        for damage in [
            &before[at..at + SECTOR],
            &before[at..at + SECTOR / 2],
            &[0xa5],
            &now[..SECTOR],
        ] {
            let mut bad = now.clone();
            bad[at..at + damage.len()].copy_from_slice(damage);
            if bad != now {
                load.check(true, &durable, &before, &bad)
                    .expect_err("it is damaged");
            }
        }
    }
}
