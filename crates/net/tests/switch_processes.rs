//! Switches between processes, some of which are killed or stopped.

mod common;

use common::{ALL, address, join, next, plain, text, wait};
use donjon_net::{Backend, HEADER, Port};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a child process does: joins, says so, and answers whatever it is sent.
#[test]
#[ignore = "a part of other tests, which run it in processes of their own"]
fn child() {
    let directory = std::env::var_os("SWITCH_DIRECTORY").expect("set by the test that runs this");
    let number: u8 = std::env::var("SWITCH_PORT").unwrap().parse().unwrap();
    let (_switch, port) = join(Path::new(&directory), &format!("child-{number}"));
    println!("\njoined");
    std::io::stdout().flush().unwrap();
    loop {
        let packet = wait(&*port);
        let source = packet[HEADER + 6..HEADER + 12].try_into().unwrap();
        if text(&packet) == "ping" {
            port.send(&&plain(source, address(number), b"pong")[..]).unwrap();
        }
    }
}

struct Process(Child);

impl Process {
    fn start(directory: &Path, number: u8) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("SWITCH_DIRECTORY", directory)
            .env("SWITCH_PORT", number.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|l| l == "joined"), "it joins");
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who answers.
fn answers(port: &dyn Port, expected: usize) -> Vec<u8> {
    port.send(&&plain(ALL, address(0xee), b"ping")[..]).unwrap();
    let mut all: Vec<_> = (0..expected).map(|_| wait(port)[HEADER + 11]).collect();
    all.sort();
    all
}

#[test]
fn a_killed_process_is_gone_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (switch, port) = join(directory.path(), "parent");
    let mut children: Vec<_> = (0..4).map(|n| Process::start(directory.path(), n)).collect();
    assert_eq!(answers(&*port, 4), [0, 1, 2, 3]);
    children[1].kill();
    // It is noticed without anything being sent to it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while switch.peers() > 3 {
        assert!(next(&*port).is_none() && Instant::now() < deadline);
    }
    assert!(
        directory.path().join("lan/child-1").exists(),
        "it could not clean up"
    );
    assert_eq!(answers(&*port, 3), [0, 2, 3]);
    // One of the same name takes its place.
    children[1] = Process::start(directory.path(), 1);
    assert_eq!(answers(&*port, 4), [0, 1, 2, 3]);
    assert_eq!(switch.drops(), Default::default());
}

#[test]
fn a_stopped_process_does_not_disturb_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let (_switch, port) = join(directory.path(), "parent");
    let children: Vec<_> = (0..2).map(|n| Process::start(directory.path(), n)).collect();
    let stopped = rustix::process::Pid::from_child(&children[0].0);
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    rustix::process::waitpid(Some(stopped), rustix::process::WaitOptions::UNTRACED).unwrap();
    // More than it has room for, while the other answers each time; and another one joins.
    for _ in 0..3000 {
        assert_eq!(answers(&*port, 1), [1]);
    }
    let _third = Process::start(directory.path(), 2);
    assert_eq!(answers(&*port, 2), [1, 2]);
    rustix::process::kill_process(stopped, rustix::process::Signal::CONT).unwrap();
    // Pings that were kept for it are answered late; it has also taken in the one that came meanwhile.
    port.send(&&plain(ALL, address(0xee), b"ping")[..]).unwrap();
    while wait(&*port)[HEADER + 11] != 0 {}
}
