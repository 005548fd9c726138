//! Domains that go from one engine to another while they work.

mod common;

use common::free_port;
use common::guest::Guest;
use common::place::Place;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Times that the domain moves; `DONJON_MOVES` asks for more.
const MOVES: u32 = 12;

/// Whether this host's KVM is worth using.
fn has_kvm(place: &Place) -> bool {
    let doctor = place.ask(&["doctor"]).stdout;
    let found = doctor.starts_with("engine: kvm");
    if !found {
        println!("SKIPPED: this host has no KVM that runs kernels fast; cargo xtask test --lab has one");
    }
    found
}

// What the guest does all at once; it says BAD (which is typed in another way) when it notices anything: its clocks, a disk that it writes and
// compares, numbers that it sends.
const CLOCK: &str = "(last=0; while :; do now=$(cut -d' ' -f1 /proc/uptime | tr -d .); [ $now -lt $last ] && echo B'AD' \
                     clock $last $now; last=$now; done) & true";
const DATE: &str = "(last=0; while :; do now=$(date +%s); [ $now -lt $last ] && echo B'AD' date $last $now; last=$now; \
                    usleep 50000; done) & true";
const DISK: &str = "(n=0; while :; do dd if=/ref of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo 3 > \
                    /proc/sys/vm/drop_caches; head -c 1048576 /dev/vda | cmp - /ref || echo B'AD' disk $n; n=$((n+1)); \
                    echo $n > /rounds; done) & true";
const STREAM: &str = "(while :; do seq 1 1000000000 | nc -l -p 7777 >/dev/null 2>&1; done) & true";

#[test]
fn a_guest_at_work_does_not_notice() {
    let place = Place::new();
    if !has_kvm(&place) {
        return;
    }
    let moves = std::env::var("DONJON_MOVES").map_or(MOVES, |n| n.parse().expect("DONJON_MOVES is a number"));
    let port = free_port();
    let disk = place.image("disk.raw", "raw", "16M");
    let disk = format!("{},format=raw", disk.display());
    let net = format!("user,forward={port}:7777");
    let mut guest = Guest::boot(
        &place,
        &[
            "--name", "mover", "--engine", "kvm", "--cpus", "2", "--disk", &disk, "--net", &net,
        ],
    );
    guest.wait("[ -b /dev/vda ]");
    guest.sh("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2");
    guest.sh("head -c 1048576 /dev/urandom > /ref");
    for work in [CLOCK, DATE, DISK, STREAM] {
        guest.sh(work);
    }
    let numbers = connect(port);
    let told = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let told = told.clone();
        move || in_sequence(numbers, &told)
    });
    let (mut rounds, mut engine) = (0u64, "kvm");
    let mut pause = 1u64;
    for n in 0..moves {
        // Not always at the same moment of what the guest does.
        pause = (pause * 48_271) % 0x7fff_ffff;
        thread::sleep(Duration::from_millis(100 + pause % 700));
        engine = if engine == "kvm" { "soft" } else { "kvm" };
        let moved = place.ask(&["engine", "mover", engine]).exits(0);
        assert!(moved.stdout.starts_with(engine), "{}", moved.stdout);
        assert_eq!(place.ask(&["engine", "mover"]).stdout.trim(), engine);
        let output = guest.running.output();
        assert!(!output.contains("BAD"), "after {} moves: {output}", n + 1);
        if n % 4 == 3 {
            // The disk goes on being written, on either engine.
            guest.wait(&format!("[ $(cat /rounds || echo 0) -gt {rounds} ]"));
            rounds = guest.sh("cat /rounds").parse().unwrap();
        }
    }
    told.store(true, SeqCst);
    guest.sh("killall nc");
    let received = reader.join().unwrap();
    assert!(received > 1000, "{received} numbers");
    let output = guest.running.output();
    assert!(!output.contains("BAD"), "{output}");
    println!("{moves} moves, {rounds} rounds of the disk, {received} numbers");
    guest.off().exits(0);
}

/// Connects to the guest's port as soon as somebody there sends.
fn connect(port: u16) -> BufReader<TcpStream> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .map(BufReader::new)
            .unwrap();
        // The host takes connections before the guest does.
        match stream.fill_buf() {
            Ok([_, ..]) => return stream,
            _ if Instant::now() > end => panic!("the guest sends nothing"),
            _ => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Reads lines with 1, 2, 3 … until the connection ends, which is to be when it was `told` to; how many.
fn in_sequence(from: BufReader<TcpStream>, told: &AtomicBool) -> u64 {
    let mut count = 0;
    for line in from.lines() {
        let Ok(line) = line else { break };
        if line.parse() != Ok(count + 1) {
            // The end may be in the middle of a line.
            assert!(
                (count + 1).to_string().starts_with(&line),
                "{line:?} after {count}"
            );
            break;
        }
        count += 1;
    }
    assert!(told.load(SeqCst), "the connection ended after {count}");
    count
}

#[test]
fn an_engine_that_cannot_have_the_domain_leaves_it_where_it_is() {
    let place = Place::new();
    let mut guest = Guest::boot(&place, &["--name", "stays", "--engine", "soft", "--no-net"]);
    place.ask(&["engine", "stays", "soft,interpreter"]).exits(0);
    assert_eq!(guest.sh("echo still here"), "still here");
    // Its processor has all that a model may have, and its counter a frequency that few hosts have.
    let refused = place.ask(&["engine", "stays", "kvm"]);
    if refused.status.success() {
        println!("SKIPPED: this host's KVM has all that the domain has");
    } else {
        assert!(refused.stderr.contains("kvm"), "{}", refused.stderr);
        assert_eq!(place.ask(&["engine", "stays"]).stdout.trim(), "soft");
    }
    assert_eq!(guest.sh("echo and here"), "and here");
    guest.off().exits(0);
}

#[test]
fn an_unknown_engine_is_named_with_those_there_are() {
    let place = Place::new();
    let done = place.ask(&["engine", "nobody", "tcg"]).exits(2);
    assert!(
        done.stderr.contains("kvm") && done.stderr.contains("soft"),
        "{}",
        done.stderr
    );
    // Nobody answers to that name.
    place.ask(&["engine", "nobody"]).exits(1).says(&["nobody"]);
}
