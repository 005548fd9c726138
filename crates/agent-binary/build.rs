//! Builds the agent with a cargo of its own: it is linked another way than what carries it, and for the guest's
//! machine whatever the host's is.

use sha2::{Digest, Sha256};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What guests are.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// See the workspace's Cargo.toml.
const PROFILE: &str = "agent";
/// What the outer cargo was told about itself and not about the network: flags for coverage or for other machines,
/// wrappers such as clippy's, profiles.
const KEPT: [&str; 8] = [
    "CARGO",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
];
const DROPPED: [&str; 6] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "LLVM_PROFILE_FILE",
];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = here.join("../..");
    let out = PathBuf::from(variable("OUT_DIR"));
    for part in [
        "Cargo.toml",
        "Cargo.lock",
        "crates/agent/Cargo.toml",
        "crates/agent/src",
        "crates/agent-protocol/Cargo.toml",
        "crates/agent-protocol/src",
        "crates/agent-binary/build.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(part).display());
    }
    let target_dir = out.join("agent");
    build(&workspace, &target_dir);
    let program = target_dir.join(TARGET).join(PROFILE).join("donjon-agent");
    let bytes = std::fs::read(&program).unwrap_or_else(|e| panic!("cannot read {}: {e}", program.display()));
    std::fs::write(out.join("donjon-agent"), &bytes).expect("OUT_DIR can be written");
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    println!("cargo::rustc-env=DONJON_AGENT_SHA256={digest}");
}

fn build(workspace: &Path, target_dir: &Path) {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else {
            continue;
        };
        let kept = |k: &str| name == k || (k.ends_with('_') && name.starts_with(k));
        let of_cargo = name == "CARGO" || name.starts_with("CARGO_");
        if (of_cargo && !KEPT.iter().any(|k| kept(k))) || DROPPED.contains(&name) {
            cargo.env_remove(name);
        }
    }
    // Instead of everything that configuration files say, too.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.args(["build", "--quiet", "--locked", "--package", "donjon-agent"]);
    cargo.args(["--bin", "donjon-agent", "--profile", PROFILE, "--target", TARGET]);
    cargo.arg("--target-dir").arg(target_dir);
    cargo.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    let status = cargo
        .status()
        .unwrap_or_else(|e| panic!("cannot start {cargo:?}: {e}"));
    assert!(
        status.success(),
        "the guest's agent could not be built ({status}); it needs the target and a static C library: \
         `rustup target add {TARGET}`, `apt-get install libc6-dev`"
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
