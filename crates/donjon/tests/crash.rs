//! What a guest was told to be durable survives a donjon that is killed at any moment.
//!
//! A guest writes to a disk (`guest/load.c`) and says what it has flushed; donjon is killed; the image has to be sound
//! and every sector in a state from the last flush on. `DONJON_KILLS=200` kills that often instead of twelve times;
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

const LOAD: &str = include_str!("guest/load.c");
/// Sectors of what is written to.
const SECTORS: u64 = 32768;
/// Kills until it starts with a new image.
const KILLS_PER_IMAGE: u64 = 4;

/// How often each test kills.
fn kills() -> u64 {
    let tests = 4;
    let text = std::env::var("DONJON_KILLS").unwrap_or("12".into());
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

/// Checks the image as a file: nothing wrong, and nothing leaked if it has been opened since the kill.
#[track_caller]
fn check(place: &Place, image: &str, opened: bool) {
    if !image.ends_with(".qcow2") {
        return;
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
}

fn survives(target: &Target<'_>) {
    let place = Place::new();
    let args = place.with_programs(&[("load", LOAD)]);
    let mut before = vec![];
    let mut flushes = 0;
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
        args.extend(["--cpus", target.cpus, "--disk", target.image]);
        let mut guest = Guest::boot(&place, &args);
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
        check(&place, target.image, false);
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
    println!("{} kills, {flushes} writes flushed", kills());
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
