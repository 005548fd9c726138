//! `cargo xtask fuzz`: libFuzzer targets built by stable cargo.
//!
//! cargo-fuzz wants a nightly compiler for the sanitizers. Coverage feedback needs none: LLVM's
//! SanitizerCoverage pass (clang.llvm.org/docs/SanitizerCoverage) runs when it is named with `-C passes`.

mod vmdk;

use crate::command::{cargo, root, run, target_dir};
use crate::prerequisites;
use anyhow::{Context, Result, bail};
use donjon_agent_protocol::exit::Exit;
use donjon_agent_protocol::frame::FrameWriter;
use donjon_agent_protocol::{Exec, FirstBoot, Reply, Request, User, copy};
use donjon_machine::boot::sample;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Every target. The name is that of its file in fuzz/src.
const TARGETS: [&str; 12] = [
    "agent", "boot", "cpu", "fs", "layer", "net", "nvme", "oci", "qcow2", "user_net", "virtio", "vmdk",
];

/// What `cargo fuzz` passes too, less the sanitizer.
const COVERAGE: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Named so that build scripts and macros are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub struct Args {
    /// Which target; each in turn if none is named.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long, for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Fuzzes.
pub fn fuzz(args: &Args) -> Result<()> {
    prerequisites::install()?;
    match &args.target {
        Some(target) => one(target, args.seconds),
        None => all(args.seconds),
    }
}

/// Each target for `seconds`.
pub fn all(seconds: u64) -> Result<()> {
    TARGETS.iter().try_for_each(|target| one(target, seconds))
}

fn one(target: &str, seconds: u64) -> Result<()> {
    let directory = target_dir().join("fuzz");
    // Grows from run to run.
    let (corpus, artifacts) = (
        directory.join("corpus").join(target),
        directory.join("artifacts").join(target),
    );
    std::fs::create_dir_all(&artifacts).with_context(|| format!("cannot make {}", artifacts.display()))?;
    std::fs::create_dir_all(&corpus)?;
    for (name, seed) in seeds(target) {
        std::fs::write(corpus.join(name), seed)?;
    }
    build(target)?;
    let binary = directory.join(HOST).join("release").join(target);
    println!(
        "fuzzing {target} for {seconds} s; inputs that fail go to {}",
        artifacts.display()
    );
    let output = Command::new(&binary)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // An input that takes seconds is a hang; one that takes a gigabyte has no bound.
        .args([
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=8192",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .current_dir(root())
        .stderr(std::process::Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        println!("{log}");
        bail!(
            "{target}: {}; run the input again: {} {}/FILE",
            output.status,
            binary.display(),
            artifacts.display()
        );
    }
    report(target, &log, &corpus)
}

/// Says what was done, and makes sure that something was.
fn report(target: &str, log: &str, corpus: &Path) -> Result<()> {
    let stat = |name: &str| {
        let line = log
            .lines()
            .find_map(|l| l.strip_prefix(&format!("stat::{name}:")));
        line.and_then(|v| v.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let (runs, units) = (
        stat("number_of_executed_units"),
        std::fs::read_dir(corpus)?.count(),
    );
    println!(
        "{target}: {runs} inputs, {} a second, {units} in the corpus",
        stat("average_exec_per_sec")
    );
    if runs == 0 {
        bail!("{target} executed nothing");
    }
    // The seeds alone would mean that no coverage comes back.
    if units < 20 {
        bail!(
            "{target}: the corpus does not grow; is the code instrumented? see COVERAGE in xtask/src/fuzz.rs"
        );
    }
    Ok(())
}

/// Inputs to start from.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let code = b"\xf4\xeb\xfd";
    match target {
        // Who hears it comes first: see fuzz/src/agent.rs.
        "agent" => agent(),
        // The first byte says whether there is an initrd.
        "boot" => [("bzimage", sample::bzimage(code)), ("elf", sample::pvh_elf(code))]
            .into_iter()
            .flat_map(|(name, file)| {
                [0, 1].map(|initrd| (format!("{name}-{initrd}"), [&[initrd], &file[..]].concat()))
            })
            .collect(),
        // Mode, options and sixteen bytes for the registers come first.
        "cpu" => (0..4u8)
            .flat_map(|mode| {
                let code: [(&str, &[u8]); 6] = [
                    // add; imul; rep movsb; push; pop; ret
                    ("integer", b"\x01\xd8\x0f\xaf\xc3\xf3\xa4\x50\x5b\xc3"),
                    // lock cmpxchg8b [esi]; xadd; bts
                    ("locked", b"\xf0\x0f\xc7\x0e\x0f\xc1\xd8\x0f\xab\xc3"),
                    // mov eax, cr0; mov cr0, eax; lidt [esi]; wrmsr; cpuid; invlpg [esi]
                    ("system", b"\x0f\x20\xc0\x0f\x22\xc0\x0f\x01\x1e\x0f\x30\x0f\xa2\x0f\x01\x3e"),
                    // addps; pshufb; aesenc; fld tbyte [esi]; fsin; fxsave [esi]
                    ("vector", b"\x0f\x58\xc1\x66\x0f\x38\x00\xc1\x66\x0f\x38\xdc\xc1\xdb\x2e\xd9\xfe\x0f\xae\x06"),
                    // vfmadd231ps ymm; vpgatherdd; andn; mulx
                    ("avx", b"\xc4\xe2\x75\xb8\xc2\xc4\xe2\x75\x90\x04\x0e\xc4\xe2\x78\xf2\xc3\xc4\xe2\x7b\xf6\xc3"),
                    // int 0x80; iret; ljmp; sysenter; syscall
                    ("gates", b"\xcd\x80\xcf\xff\x2e\x0f\x34\x0f\x05"),
                ];
                code.map(|(name, code)| {
                    (format!("{name}-{mode}"), [&[mode, 8], &b"\x01\x05\x09\x0d\x13\x17\x1b\x1f\x20\x25\x2a\x2f\x31\x35\x39\x3d"[..], code].concat())
                })
            })
            .collect(),
        // Options, then operation, node, length and arguments of each request: see fuzz/src/fs.rs.
        "fs" => fs_sessions()
            .into_iter()
            .flat_map(|(name, requests)| [0u8, 1, 2].map(|options| (format!("{name}-{options}"), [&[options], &requests[..]].concat())))
            .collect(),
        // Where the second layer begins comes first, in blocks.
        "layer" => {
            let (directory, file, link) = (tar(b'5', "d/", b""), tar(b'0', "d/f", b"content"), tar(b'1', "d/l", b""));
            let pax = tar(b'x', "pax", b"23 path=long/name/file\n30 SCHILY.xattr.user.name=abc\n19 mtime=12.345678\n");
            let sparse = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=9\n";
            let map = [&b"1\n0\n7\n"[..], &[0; 506], b"content"].concat();
            [
                ("tree", [&[2][..], &directory, &file, &link, &tar(b'0', "d/.wh.f", b"")].concat()),
                ("opaque", [&[3][..], &directory, &file, &tar(b'0', "d/.wh..wh..opq", b"")].concat()),
                ("nodes", [&[9][..], &tar(b'2', "s", b""), &tar(b'3', "s/c", b""), &tar(b'6', "p", b"")].concat()),
                ("pax", [&[9][..], &pax, &file].concat()),
                ("gnu", [&[9][..], &tar(b'L', "L", b"long/name\0"), &tar(b'K', "K", b"d/f\0"), &link].concat()),
                ("sparse", [&[9][..], &tar(b'x', "pax", sparse), &tar(b'0', "f", &map)].concat()),
            ]
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .into()
        }
        // What the receiver takes comes first: nothing, the checksum, everything.
        "net" => [0u8, 1, 0xff]
            .into_iter()
            .flat_map(|accepted| {
                // TCP over IPv4 and UDP over IPv6, to be cut up into segments of 2 and 3 bytes.
                let packets: [(&str, &[u8]); 2] = [
                    (
                        "tcp4",
                        b"\x01\x01\x36\0\x02\0\x22\0\x10\0\0\0\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0\
                          \x45\0\0\x2f\0\0\0\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02\
                          \0\x50\x04\0\0\0\0\x01\0\0\0\x01\x50\x19\x01\0\0\0\0\0payload",
                    ),
                    (
                        "udp6",
                        b"\x01\x05\x3e\0\x03\0\x36\0\x06\0\0\0\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x86\xdd\
                          \x60\0\0\0\0\x0f\x11\x40\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\
                          \xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\x35\x04\0\0\x0f\0\0payload",
                    ),
                ];
                packets.map(|(name, packet)| (format!("{name}-{accepted}"), [&[accepted], packet].concat()))
            })
            .collect(),
        // What the guest takes undone, and steps; see `step` in fuzz/src/user_net.rs.
        "user_net" => {
            // A frame behind half its length; its IPv4 header checksum is put in by the target.
            let frame = |bytes: &[u8]| {
                let pad = &[0][..bytes.len() % 2];
                [&[0, bytes.len().div_ceil(2) as u8], bytes, pad].concat()
            };
            let ipv4 = |protocol: u8, to: [u8; 4], payload: &[u8]| {
                let [high, low] = (20 + payload.len() as u16).to_be_bytes();
                let head = [8, 0, 0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15];
                frame(&[&[0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 1], &head[..], &to, payload].concat())
            };
            let dns = b"\x0b\xb8\0\x35\0\x1d\0\0\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03www\0\0\x01\0\x01";
            let solicitation = b"\x52\x55\x0a\0\x02\x02\x02\0\0\0\0\x01\x86\xdd\x60\0\0\0\0\x20\x3a\xff\
                \xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x15\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\
                \x87\0\0\0\0\0\0\0\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x01\x01\x02\0\0\0\0\x01";
            let mut dhcp = b"\0\x44\0\x43\0\xfc\0\0\x01\x01\x06\0abcd".to_vec();
            dhcp.resize(8 + 236, 0);
            dhcp[36..42].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            dhcp.extend(b"\x63\x82\x53\x63\x35\x01\x01\xff");
            let packets = [
                ("dns", ipv4(17, [10, 0, 2, 3], dns)),
                ("echo", ipv4(1, [10, 0, 2, 2], b"\x08\0\0\0\0\x07\0\x01data")),
                ("fragment", ipv4(17, [192, 0, 2, 1], b"\x0b\xb8\0\x07\0\x10\0\0datadata")),
                ("solicitation", frame(solicitation)),
                ("dhcp", ipv4(17, [255; 4], &dhcp)),
                // A connection, data, the other end's, and an end.
                ("tcp", vec![1, 2, 0, 0, 0, 2, 4, 1, 0x10, 0, 0, 0, 1, 0x18, 0, 0, 50, 2, 4, 1, 0x11, 0, 0, 0, 2, 9]),
                ("reset", vec![1, 2, 0, 0, 0, 2, 4, 1, 0x10, 0, 0, 0, 1, 0x18, 1, 0, 50, 1, 4, 0, 0, 0]),
            ];
            packets.into_iter().flat_map(|(name, steps)| {
                [0u8, 0xff].map(|accepted| (format!("{name}-{accepted}"), [&[accepted], &steps[..]].concat()))
            }).collect()
        }
        // Eight bytes for each step; see `step` in fuzz/src/nvme.rs.
        "nvme" => {
            let steps: [(&str, &[[u8; 8]]); 5] = [
                // A write of two pages and a flush; a read.
                ("write", &[[2, 12, 0, 0, 15, 0, 0, 0], [3, 1, 1, 8, 1, 0, 0, 0], [3, 0, 2, 0, 2, 0, 0, 0]]),
                ("read", &[[3, 2, 1, 0, 1, 0, 0, 0], [1, 3, 0, 0, 1, 0, 0, 0]]),
                // Identify, Get Log Page, Asynchronous Event Request, shadow doorbells.
                ("admin", &[[3, 6, 0, 1, 1, 0, 0, 0], [3, 2, 0, 2, 2, 0, 0, 0], [3, 12, 0, 0, 3, 0, 0, 0], [3, 0x7c, 0, 0, 4, 0, 0, 0]]),
                // Deallocation by a list in RAM; deletion of a queue.
                ("trim", &[[4, 0, 0x40, 0, 0, 0, 0, 0], [2, 11, 0, 0, 4, 0, 0, 0], [3, 9, 1, 0, 1, 0, 0, 0], [3, 0, 0, 1, 2, 0, 0, 0]]),
                // Saved and damaged; bus mastering off; reset.
                ("life", &[[6, 0, 0, 0, 0, 0, 0, 0], [6, 0, 9, 4, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0, 0, 0]]),
            ];
            steps.map(|(name, steps)| (name.to_owned(), steps.concat())).into()
        }
        "oci" => {
            let digest = format!("sha256:{}", "ab".repeat(32));
            let blob = |kind: &str| {
                format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":9}}"#)
            };
            let index = blob("manifest.v1+json").replace('}', r#","platform":{"os":"linux","architecture":"amd64"}}"#);
            [
                ("name", format!("docker://localhost:5000/group/name:tag@{digest}")),
                ("digest", digest.clone()),
                (
                    "manifest",
                    format!(
                        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                        blob("config.v1+json"),
                        blob("layer.v1.tar+gzip")
                    ),
                ),
                ("index", format!(r#"{{"schemaVersion":2,"manifests":[{index}]}}"#)),
                (
                    "config",
                    format!(
                        r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["a"],"Volumes":{{"/a":{{}}}}}},
                        "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
                    ),
                ),
            ]
            .map(|(name, text)| (name.to_owned(), text.into_bytes()))
            .into()
        }
        // Device, options, features; then eight bytes for each step: see `step` in fuzz/src/virtio.rs.
        "virtio" => {
            let devices: [(u8, &str, &[[u8; 8]]); 6] = [
                (0, "rng", &[[4, 0, 0, 0, 0, 3, 0, 0]]),
                // Read, write, flush, discard.
                (1, "blk", &[[4, 0, 0, 1, 0, 16, 1, 0], [4, 0, 1, 1, 0, 16, 2, 0], [4, 0, 4, 0, 0, 0, 2, 0], [4, 0, 11, 1, 0, 0, 2, 0]]),
                // DEVICE_READY, PORT_READY and PORT_OPEN; input and output; a resize.
                (2, "console", &[[4, 3, 0, 0, 1, 0, 2, 0], [4, 2, 0, 0, 0, 9, 0, 0], [4, 3, 1, 3, 1, 0, 2, 0], [4, 3, 1, 6, 1, 0, 2, 0], [9, 1, 1, 0, 0, 0, 0, 0], [9, 1, 0, 7, 9, 0, 0, 0], [4, 4, 0, 0, 0, 9, 0, 0], [4, 5, 1, 2, 3, 9, 2, 0], [9, 0, 3, 80, 25, 0, 0, 0]]),
                // Pages, statistics, reporting.
                (3, "balloon", &[[9, 64, 0, 0, 0, 0, 0, 0], [4, 0, 0x60, 0x61, 0x62, 0, 2, 0], [4, 2, 4, 0, 9, 0, 2, 0], [9, 0, 0, 0, 0, 0, 0, 0], [4, 4, 0, 0, 0, 200, 0, 0]]),
                // A connection of the guest's with data both ways; one of the host's.
                (4, "vsock", &[[4, 1, 1, 9, 1, 0, 2, 0], [12, 0, 0, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 255, 0, 0], [4, 1, 5, 9, 1, 2, 2, 0], [4, 1, 4, 9, 1, 0, 3, 0], [9, 0, 2, 65, 1, 0, 0, 0]]),
                // INIT, LOOKUP, OPEN, READ; OPENDIR, READDIRPLUS, FORGET.
                (7, "fs", &[[4, 1, 26, 0, 0, 4, 1, 0], [4, 1, 1, 1, 0, 4, 1, 0], [4, 1, 14, 2, 0, 4, 1, 1], [4, 1, 15, 2, 0, 2, 1, 3], [4, 1, 27, 1, 0, 4, 1, 1], [4, 1, 44, 1, 0, 16, 1, 5], [4, 0, 2, 2, 0, 0, 2, 3]]),
            ];
            let life = [[10, 0, 0, 0, 0, 0, 0, 0], [11, 0, 0, 0, 0, 0, 0, 0], [15, 0, 1, 0, 0, 0, 0, 0]];
            devices
                .into_iter()
                // Without and with another processor that changes what the device reads.
                .flat_map(|(n, name, steps)| {
                    let all = [steps, &life, steps].concat().concat();
                    [0, 1].map(|options| (format!("{name}-{options}"), [&[n, options, 0, 0], &all[..]].concat()))
                })
                .collect()
        }
        // The steps come first: how many bytes of them, then three for each.
        "qcow2" => [2u8, 3]
            .into_iter()
            .flat_map(|version| {
                let image = qcow2(version);
                let steps: [(&str, &[u8]); 3] = [
                    ("read", b"\x06\0\0\xff\0\x40\xff"),
                    ("write", b"\x09\x01\0\x20\x05\0\0\0\0\xff"),
                    ("discard", b"\x0c\x02\0\xff\x05\0\0\x01\x10\xff\x03\x20\x80"),
                ];
                steps.map(|(name, steps)| (format!("{name}-{version}"), [steps, &image].concat()))
            })
            .collect(),
        "vmdk" => vmdk::seeds(),
        _ => vec![],
    }
}

/// What guests ask of a shared directory. The nodes 2 to 5 are two files, a directory and a link; handles count from 1.
fn fs_sessions() -> Vec<(&'static str, Vec<u8>)> {
    let request = |op: u8, node: u8, numbers: &[u64], text: &[u8]| {
        let body = [
            numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
            text.to_vec(),
        ]
        .concat();
        [&[op, node, body.len() as u8], &body[..]].concat()
    };
    // Two halves of a number of 64 bits.
    let pair = |low: u64, high: u64| low | high << 32;
    let again = vec![255, 0, 0];
    vec![
        (
            "names",
            [
                request(1, 4, &[], b"c\0"),
                request(9, 4, &[pair(0o755, 0)], b"e\0"),
                request(12, 1, &[4], b"a\0z\0"),
                request(45, 4, &[1, 2], b"z\0b\0"),
                request(13, 4, &[2], b"link\0"),
                request(6, 1, &[], b"new\0../secret\0"),
                request(5, 5, &[], b""),
                again.clone(),
                request(10, 4, &[], b"z\0"),
                request(11, 4, &[], b"e\0"),
                request(2, 2, &[1], b""),
                request(42, 0, &[1, 3, 1], b""),
            ]
            .concat(),
        ),
        (
            "files",
            [
                request(14, 2, &[2], b""),
                request(35, 1, &[pair(2, 0o644), 0], b"made\0"),
                request(15, 2, &[1, 100, 200, 0, 0], b""),
                request(16, 2, &[1, 10, 4, 0, 0], b"data"),
                request(46, 2, &[1, 0, 4], b""),
                request(43, 2, &[1, 0, 4096, 3], b""),
                request(47, 2, &[1, 0, 6, 2, 0, 100, 0], b""),
                again.clone(),
                request(20, 2, &[1, 1], b""),
                request(3, 2, &[1, 1], b""),
                request(4, 2, &[0x4b, 1, 3, 0, 0, 0, 0, 0, pair(0, 0o600), 0, 0], b""),
                request(18, 2, &[1, 0, 0], b""),
            ]
            .concat(),
        ),
        (
            "directories",
            [
                request(27, 4, &[0], b""),
                request(28, 4, &[1, 0, 300, 0, 0], b""),
                request(44, 4, &[1, 0, 4000, 0, 0], b""),
                request(27, 1, &[0], b""),
                request(44, 1, &[2, 0, 4000, 0, 0], b""),
                request(30, 4, &[1, 0], b""),
                again,
                request(29, 4, &[1, 0, 0], b""),
                request(17, 1, &[], b""),
            ]
            .concat(),
        ),
        (
            "attributes",
            [
                request(21, 2, &[5], b"user.a\0value"),
                request(22, 2, &[100], b"user.a\0"),
                request(23, 2, &[0], b""),
                request(24, 2, &[], b"user.a\0"),
                request(4, 2, &[6, 0, 0, 0, 0, 0, 0, 0, 0, pair(0, 5), 6], b""),
                request(8, 1, &[0o010_644, 0], b"fifo\0"),
                request(38, 0, &[], b""),
                request(26, 0, &[pair(7, 38), 0], b""),
            ]
            .concat(),
        ),
    ]
}

/// Messages of both sides, and an archive.
fn agent() -> Vec<(String, Vec<u8>)> {
    fn framed(messages: &[impl serde::Serialize]) -> Vec<u8> {
        let mut writer = FrameWriter::new(vec![]);
        for message in messages {
            // Those here are short.
            let _ = writer.send(message);
        }
        writer.get_ref().clone()
    }
    let mut archive = vec![];
    let path = root().join("crates/agent-binary");
    let _ = copy::send(&path, copy::Kind::Directory, &mut archive);
    archive.truncate(4096);
    let exec = Request::Exec(Exec {
        argv: vec!["true".into()],
        stdin: true,
        ..Exec::default()
    });
    let source = copy::Source::named(Path::new("/x"), copy::Kind::Directory);
    let (path, options) = ("/y".to_owned(), copy::Options::default());
    let copy_in = Request::CopyIn {
        path,
        source,
        options,
    };
    let copy_out = Request::CopyOut {
        path: "/".into(),
        follow: true,
    };
    let time = Duration::from_secs(1);
    let first_boot = Request::FirstBoot(FirstBoot {
        hostname: Some("h".into()),
        user: Some(User {
            name: "u".into(),
            ssh_keys: vec!["k".into()],
            ..User::default()
        }),
        timezone: Some("UTC".into()),
    });
    let simple = [
        Request::Ping,
        Request::Info,
        Request::Freeze(time),
        Request::Thaw,
        Request::SetTime(time),
    ];
    let data = [copy_in, Request::Data(&archive), Request::End];
    let input = [exec, Request::Stdin(b"in"), Request::Signal(1), Request::StdinEof];
    let sent = [
        Reply::Source(copy::Kind::Directory),
        Reply::Data(&archive),
        Reply::Copied(copy::Report::default()),
    ];
    let output = [
        Reply::Started(1),
        Reply::Stdout(b"out"),
        Reply::StdinCredit(9),
        Reply::Exited(Exit::Code(1)),
    ];
    [
        ("messages", 0, framed(&simple)),
        ("archive", 1, archive.clone()),
        ("simple", 2, framed(&simple)),
        ("exec", 2, framed(&input)),
        ("copy-in", 2, framed(&data)),
        ("copy-out", 2, framed(&[copy_out])),
        ("first-boot", 2, framed(&[first_boot])),
        ("copied-out", 3 | 1 << 2, framed(&sent)),
        ("output", 3 | 5 << 2, framed(&output)),
    ]
    .map(|(name, who, bytes)| (name.to_owned(), [&[who], &bytes[..]].concat()))
    .into()
}

/// A member of a tar archive; its link leads to `d/f`.
fn tar(kind: u8, path: &str, content: &[u8]) -> Vec<u8> {
    let mut member = vec![0; 512];
    member[..path.len()].copy_from_slice(path.as_bytes());
    member[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    member[156] = kind;
    member[157..160].copy_from_slice(b"d/f");
    member[257..265].copy_from_slice(b"ustar\x0000");
    member[148..156].fill(b' ');
    let sum: u32 = member.iter().map(|b| u32::from(*b)).sum();
    member[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// A disk of 64 KiB with two clusters of 512 bytes in use and one that is zeroes.
fn qcow2(version: u8) -> Vec<u8> {
    let mut image = vec![0; 7 * 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0");
    put(7, &[version]);
    let numbers: [(usize, u64); 6] = [
        (16, 9),
        (24, 65536),
        (32, 2),
        (40, 1536),
        (48, 512),
        (56, 1 << 32),
    ];
    for (at, number) in numbers {
        put(at, &number.to_be_bytes());
    }
    if version == 3 {
        put(96, b"\0\0\0\x04\0\0\0\x68");
    }
    // Refcount table, refcount block, L1 table, L2 table, data.
    put(512, &1024u64.to_be_bytes());
    put(1024, &[0, 1].repeat(7));
    put(1536, &(1 << 63 | 2048u64).to_be_bytes());
    put(2048, &(1 << 63 | 2560u64).to_be_bytes());
    put(2056, &(1 << 63 | 3072u64).to_be_bytes());
    put(2064, &u64::from(version == 3).to_be_bytes());
    put(2560, &[0x55; 1024]);
    image
}

fn build(target: &str) -> Result<()> {
    let mut command = cargo(&["build", "--quiet", "--release", "--target", HOST]);
    command
        .args(["--manifest-path", "fuzz/Cargo.toml", "--bin", target])
        .env("CARGO_TARGET_DIR", target_dir().join("fuzz"))
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command)
}
