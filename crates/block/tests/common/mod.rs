//! A directory, QEMU's tools in it, and random work.
#![allow(dead_code)]

use donjon_block::{Options, open};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// xorshift64*, so that runs repeat.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Half zeroes, a quarter that compresses well, a quarter that does not.
pub fn content(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for piece in bytes.chunks_mut(24 << 10) {
        match random.below(4) {
            0 => piece.iter_mut().for_each(|b| *b = random.next() as u8),
            1 => piece.fill(random.next() as u8),
            _ => {}
        }
    }
    bytes
}

pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new("qemu-img")
            .args(args)
            .current_dir(self.0.path())
            .output();
        output.expect("qemu-img is installed (Debian: qemu-utils)")
    }

    /// Runs qemu-img; returns what it prints.
    #[track_caller]
    pub fn img(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// qemu-img finds no damage and no leaks, and reads what is expected.
    #[track_caller]
    pub fn same(&self, name: &str, format: &str, model: &[u8]) {
        self.img(&["check", "-q", "-f", format, name]);
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        assert_eq!(
            open(self.path(name), &options).unwrap().size(),
            model.len() as u64
        );
        let expected = format!("{name}.expected");
        std::fs::write(self.path(&expected), model).unwrap();
        self.img(&["compare", "-q", "-f", format, "-F", "raw", name, &expected]);
        std::fs::remove_file(self.path(&expected)).unwrap();
    }

    /// Errors and leaks that qemu-img finds.
    pub fn check(&self, name: &str) -> (u64, u64) {
        let output = self.run(&["check", "--output=json", name]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |key: &str| found[key].as_u64().unwrap_or(0);
        (count("corruptions"), count("leaks"))
    }
}

pub fn img(place: &Place, args: &[&str]) -> String {
    place.img(args)
}

/// Has qemu-io do something to an image.
#[track_caller]
pub fn io(place: &Place, format: &str, name: &str, command: &str) {
    let output = Command::new("qemu-io")
        .args(["-f", format, "-c", command, name])
        .current_dir(place.0.path())
        .output()
        .expect("qemu-io is installed (Debian: qemu-utils)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !text.contains("failed"),
        "{command}: {text}"
    );
}

/// What qemu-img says when it refuses.
#[track_caller]
pub fn img_fails(place: &Place, args: &[&str]) -> String {
    let output = place.run(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn read_all(path: &Path, options: &Options) -> Vec<u8> {
    let image = open(path, options).unwrap();
    let mut out = vec![0; image.size() as usize];
    image.read_bytes(0, &mut out).unwrap();
    out
}

/// Writes, zeroes, discards and reads at random, with what it should have beside it.
pub fn random_steps(path: &Path, model: &mut [u8], random: &mut Random, steps: u64) {
    let image = open(path, &Options::default()).unwrap();
    let size = model.len() as u64;
    assert_eq!(image.size(), size);
    for _ in 0..steps {
        let long = random.below(5) == 0;
        let offset = random.below(size);
        let len = 1 + random.below((size - offset).min(if long { 300_000 } else { 7000 }));
        let range = offset as usize..(offset + len) as usize;
        match random.below(8) {
            0..=3 => {
                model[range.clone()].fill(random.next() as u8);
                image.write_bytes(offset, &model[range]).unwrap();
            }
            4 => {
                model[range].fill(0);
                image.write_zeroes(offset, len, random.below(2) == 0).unwrap();
            }
            5 => {
                image.discard(offset, len).unwrap();
                image.read_bytes(offset, &mut model[range]).unwrap();
            }
            6 => image.flush().unwrap(),
            _ => {
                let mut out = vec![0; len as usize];
                image.read_bytes(offset, &mut out).unwrap();
                assert!(out == model[range]);
            }
        }
    }
    image.close().unwrap();
}

/// A qemu-io that has an image open.
pub struct Holder(Child);

impl Holder {
    pub fn start(place: &Place, format: &str, name: &str, read_only: bool) -> Self {
        let mut command = Command::new("qemu-io");
        command
            .args(["-f", format])
            .args(read_only.then_some("-r"))
            .arg(name);
        command
            .current_dir(place.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("qemu-io is installed (Debian: qemu-utils)");
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        // It answers when the image is open.
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("MiB"), "{line}");
        Self(child)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn stop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Of no consequence if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
