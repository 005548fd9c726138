//! Looking at running domains: names, figures, and names of translated code.

mod common;

use common::{Running, arg, donjon, file, finish};
use donjon_machine::boot::sample::{bzimage, pvh_elf};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// 64-bit code: print `H`, then count for ever. A bzImage is entered in long mode.
const COUNT: &[u8] = b"\x66\xba\xf8\x03\xb0H\xee\x48\xff\xc1\xeb\xfb"; // …; inc rcx; jmp back to inc
/// 32-bit code, which halts after it.
const HALT: &[u8] = b"\x66\xba\xf8\x03\xb0H\xee\xfa\xf4";

/// A place for sockets, with kernels in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        file(directory.path(), "count", &bzimage(COUNT));
        file(directory.path(), "halt", &pvh_elf(HALT));
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn donjon(&self, args: &[&str]) -> Command {
        let mut command = donjon(args);
        command.env("XDG_RUNTIME_DIR", self.path());
        command
    }

    /// A domain that has printed its letter.
    fn domain(&self, kernel: &str, args: &[&str]) -> Running {
        let kernel = self.path().join(kernel);
        let fixed = ["run", "--memory", "16M", "--kernel", arg(&kernel)];
        let mut running = Running::start(&mut self.donjon(&[&fixed[..], args].concat()));
        running.expect("H", 1);
        running
    }

    fn ask(&self, args: &[&str]) -> common::Finished {
        finish(&mut self.donjon(args), "")
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let done = self.ask(args).exits(0);
        assert_eq!(done.stdout.lines().count(), 1);
        serde_json::from_str(&done.stdout).unwrap()
    }
}

#[test]
fn a_busy_domain_shows_what_it_does_now() {
    let place = Place::new();
    let running = place.domain("count", &["--engine", "soft", "--name", "web-server"]);
    let json = ["stats", "web", "--format", "json"];
    let first = place.json(&json);
    std::thread::sleep(Duration::from_millis(300));
    let second = place.json(&json);
    assert_eq!(first["domain"]["name"], "web-server");
    assert_eq!(first["domain"]["pid"], running.child.id());
    let busy = |v: &serde_json::Value| v["total"]["busy_seconds"].as_f64().unwrap();
    // It never halts: only because it was asked it can know.
    assert!(busy(&second) > busy(&first) + 0.05, "{first} {second}");
    let table = place.ask(&["stats"]).exits(0).stdout;
    for part in [
        "web-server: process ",
        "work",
        "TLB",
        "exits",
        "invalidations",
        "vcpu0",
        "total",
    ] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    assert!(place.ask(&["ps"]).exits(0).stdout.contains("web-server"));
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15);
    place
        .ask(&["stats", "web"])
        .exits(1)
        .says(&["no domain runs", "donjon run --name web"]);
}

#[test]
fn halted_vcpus_are_not_busy() {
    let place = Place::new();
    let running = place.domain("halt", &["--cpus", "3", "--name", "idle"]);
    let stats = place.json(&["stats", "idle", "--format", "json"]);
    assert_eq!(stats["vcpus"].as_array().unwrap().len(), 3);
    assert!(stats["total"]["busy_seconds"].as_f64().unwrap() < 1.0, "{stats}");
    assert!(stats["total"]["interpreted"].as_u64().unwrap() >= 5, "{stats}");
    running.signal(Signal::TERM);
}

#[test]
fn a_watcher_ends_with_the_domain() {
    let place = Place::new();
    let running = place.domain("halt", &["--name", "idle"]);
    let mut watcher = Running::start(&mut place.donjon(&["stats", "idle", "--watch", "--format", "json"]));
    watcher.expect("\"vcpus\"", 2);
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15);
    watcher.finish().exits(0);
}

#[test]
fn names_are_unique_and_those_of_the_killed_are_free() {
    let place = Place::new();
    let running = place.domain("halt", &["--name", "one"]);
    let kernel = place.path().join("halt");
    let again = [
        "run",
        "--kernel",
        arg(&kernel),
        "--memory",
        "16M",
        "--name",
        "one",
    ];
    place
        .ask(&again)
        .exits(1)
        .says(&["a domain named one runs already", "donjon stats one", "--name"]);
    place
        .ask(&["stats", "two"])
        .exits(1)
        .says(&["no domain named two runs; there is: one"]);
    running.signal(Signal::KILL);
    drop(running);
    assert!(!place.ask(&["ps"]).exits(0).stdout.contains("one"));
    place.domain("halt", &["--name", "one"]).signal(Signal::TERM);
}

#[test]
fn a_domain_without_a_name_gets_one() {
    let place = Place::new();
    let running = place.domain("halt", &[]);
    let name = format!("domain-{}", running.child.id());
    assert!(place.ask(&["ps"]).exits(0).stdout.contains(&name));
    running.signal(Signal::TERM);
}

#[test]
fn wrong_names_and_places_are_explained() {
    let place = Place::new();
    place
        .ask(&["run", "--name", "../x"])
        .exits(2)
        .says(&["begins with a letter or digit"]);
    // A directory that others can enter is not for sockets; without --name the domain runs all the same.
    let run = place.path().join("donjon");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let kernel = place.path().join("halt");
    place
        .ask(&["run", "--kernel", arg(&kernel), "--memory", "16M", "--name", "a"])
        .exits(1)
        .says(&["chmod 700"]);
    place.ask(&["ps"]).exits(1).says(&["chmod 700"]);
    place.domain("halt", &[]).signal(Signal::TERM);
}

#[test]
fn the_interpreter_counts_everything_and_the_translator_does_not() {
    let place = Place::new();
    let end = |engine| {
        let running = place.domain("count", &["--engine", engine, "--stats"]);
        std::thread::sleep(Duration::from_millis(200));
        running.signal(Signal::TERM);
        running.finish().exits(128 + 15).stderr
    };
    let text = end("soft,interpreter");
    let total = text.lines().find(|l| l.starts_with("total:")).unwrap();
    assert!(
        total.ends_with(" MIPS") && total.contains(" instructions in "),
        "{text}"
    );
    assert!(text.contains("wall: "), "{text}");
    let text = end("soft");
    let total = text.lines().find(|l| l.starts_with("total:")).unwrap();
    // Unless this host cannot translate.
    if !total.ends_with(" MIPS") {
        assert!(total.contains(" interpreted instructions in "), "{text}");
    }
}

#[test]
fn translated_code_gets_names_for_perf() {
    let place = Place::new();
    let mut running = place.domain("count", &["--engine", "soft", "--trace"]);
    std::thread::sleep(Duration::from_millis(300));
    let map = format!("/tmp/perf-{}.map", running.child.id());
    let memory = std::fs::read_to_string(format!("/proc/{}/maps", running.child.id())).unwrap();
    running.close();
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15).says(&[&map]);
    let text = std::fs::read_to_string(&map).unwrap();
    std::fs::remove_file(&map).unwrap();
    let hexadecimal = |s: &str| u64::from_str_radix(s, 16).unwrap_or_else(|_| panic!("{s} in\n{text}"));
    let mut names = vec![];
    for line in text.lines() {
        let [start, size, name] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert!(hexadecimal(start) > 0 && hexadecimal(size) > 0, "{line}");
        names.push(name);
    }
    let doctor = place.ask(&["doctor"]).stdout;
    if doctor.contains("interprets only") {
        assert!(names.is_empty());
        return;
    }
    assert!(names.contains(&"donjon:enter"), "{text}");
    // perf looks names up in memory that belongs to no file, and this is what that is called.
    let shown = |l: &str| l.contains(" r-xs ") && l.contains("/dev/zero");
    assert!(memory.lines().any(shown) && !memory.contains(" rwx"), "{memory}");
    let unit = names
        .iter()
        .find_map(|n| n.strip_prefix("guest:kernel:"))
        .expect("a unit");
    assert_eq!(unit.len(), 16);
    hexadecimal(unit);
}
