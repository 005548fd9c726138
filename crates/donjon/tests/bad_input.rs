//! Everything a user can get wrong: each a clear error that names the fix.

mod common;

use common::{Finished, arg, donjon, file, finish};
use std::os::unix::fs::PermissionsExt;

fn run(args: &[&str]) -> Finished {
    finish(&mut donjon(&[&["run"], args].concat()), "")
}

#[test]
fn files_that_are_missing_or_no_files() {
    run(&["--kernel", "/no/such/kernel"]).exits(1).says(&[
        "error: cannot read kernel /no/such/kernel: No such file",
        "hint: check the name: ls -l /no/such/kernel",
    ]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    run(&["--kernel", arg(path)])
        .exits(1)
        .says(&["is a directory, not a file"]);
    run(&["--kernel", "/dev/null"])
        .exits(1)
        .says(&["is a device, not a file"]);
    let empty = file(path, "empty", b"");
    run(&["--kernel", arg(&empty)])
        .exits(1)
        .says(&["empty is empty", "hint: "]);
    let kernel = file(path, "kernel", &donjon_machine::boot::sample::pvh_elf(b"\xf4"));
    run(&["--kernel", arg(&kernel), "--initrd", "/no/such"])
        .exits(1)
        .says(&["cannot read initrd /no/such"]);
    run(&["--kernel", arg(&kernel), "--initrd", arg(&empty)])
        .exits(1)
        .says(&["initrd ", "is empty"]);
}

#[test]
fn a_file_that_may_not_be_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let secret = file(directory.path(), "secret", b"x");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    // Root may read everything, so somebody else has to try, with a copy of the program that they can reach.
    let program = directory.path().join("donjon");
    std::fs::copy(env!("CARGO_BIN_EXE_donjon"), &program).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut setpriv = std::process::Command::new("setpriv");
        setpriv
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program);
        setpriv
    } else {
        std::process::Command::new(&program)
    };
    finish(command.args(["run", "--kernel"]).arg(&secret), "")
        .exits(1)
        .says(&[
            "cannot read kernel",
            "Permission denied",
            "hint: copy it to a file you may read: sudo install",
        ]);
}

#[test]
fn files_of_the_wrong_kind() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = |name: &str, content: &[u8]| {
        let kernel = file(directory.path(), name, content);
        run(&["--kernel", arg(&kernel)]).exits(1)
    };
    kernel("vmlinux.gz", b"\x1f\x8b\x08\0\0\0\0\0")
        .says(&["gzip-compressed", "hint: unpack it first: gunzip -c"]);
    kernel("initrd", b"070701000000").says(&["an initramfs", "hint: pass it with --initrd"]);
    kernel("text", b"hello\n").says(&["a text file"]);
    let mut arm = vec![0; 100];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    kernel("Image", &arm).says(&["a kernel for arm64", "hint: "]);
    // This program is an ELF file for x86-64, but no kernel.
    let program = std::fs::read(env!("CARGO_BIN_EXE_donjon")).unwrap();
    kernel("program", &program).says(&["a 64-bit ELF file without a PVH note", "hint: use its bzImage"]);
    let mut elf32 = vec![0; 52 + 32 + 4];
    elf32[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    (elf32[16], elf32[18], elf32[28], elf32[42], elf32[44]) = (2, 3, 52, 32, 1);
    // One segment of four bytes at 1 MiB.
    (
        elf32[52],
        elf32[56],
        elf32[52 + 14],
        elf32[52 + 16],
        elf32[52 + 20],
    ) = (1, 84, 0x10, 4, 4);
    kernel("vmlinux32", &elf32).says(&["a 32-bit ELF file without a PVH note", "hint: "]);
}

#[test]
fn impossible_machines() {
    for cpus in ["0", "1000"] {
        run(&["--cpus", cpus])
            .exits(2)
            .says(&["1 to 64 vCPUs", "--cpus 2"]);
    }
    run(&["--memory", "1M"]).exits(2).says(&["at least 16M"]);
    run(&["--memory", "512"]).exits(2).says(&["did you mean 512M?"]);
    run(&["--memory", "lots"]).exits(2).says(&["write 512M"]);
    run(&["--memory", "900T"])
        .exits(1)
        .says(&["more than this host's", "hint: give the domain less: --memory"]);
    run(&["--memory", "17M", "--huge-pages", "--no-net"])
        .exits(1)
        .says(&["2 MiB pages", "--huge-pages"]);
    run(&["--cpu-model", "pentium"])
        .exits(2)
        .says(&["x86-64-v2", "x86-64-v3"]);
    run(&["--engine", "tcg"]).exits(2).says(&["soft,interpreter"]);
    run(&["--translation-arena", "1"]).exits(2).says(&["1M to 1G"]);
}

#[test]
fn memory_too_small_for_the_kernel_says_how_much_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let mut big = donjon_machine::boot::sample::bzimage(b"\xf4");
    big[0x260..0x264].copy_from_slice(&(100u32 << 20).to_le_bytes());
    let kernel = file(directory.path(), "big", &big);
    run(&["--kernel", arg(&kernel), "--memory", "64M"])
        .exits(1)
        .says(&[
            "needs 101M of guest memory, the domain has 64M",
            "hint: give the domain more: --memory 256M",
        ]);
}

#[test]
fn arguments_that_do_not_go_together() {
    run(&["--initrd", "disk"])
        .exits(2)
        .says(&["needs a kernel: donjon run --kernel FILE --initrd disk"]);
    run(&["fedora"])
        .exits(1)
        .says(&["there is no image fedora", "donjon image ls"]);
    run(&["tiny", "echo"]).exits(1).says(&["donjon exec NAME"]);
    run(&["--no-net", "-p", "80:80"])
        .exits(2)
        .says(&["cannot be used with"]);
    run(&["tiny", "--kernel", "k"])
        .exits(2)
        .says(&["cannot be used with"]);
}

#[test]
fn no_apt_on_the_host() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = donjon(&["run"]);
    command
        .env("XDG_CACHE_HOME", cache.path())
        .env("PATH", "/nonexistent");
    finish(&mut command, "")
        .exits(1)
        .says(&["apt-get", "donjon run --kernel"]);
}

#[test]
fn no_network_and_an_empty_cache() {
    let cache = tempfile::tempdir().unwrap();
    // Nothing listens on the discard port.
    let nowhere = "http://127.0.0.1:9";
    let mut command = donjon(&["run"]);
    command
        .env("XDG_CACHE_HOME", cache.path())
        .env("http_proxy", nowhere)
        .env("https_proxy", nowhere);
    finish(&mut command, "")
        .exits(1)
        .says(&["error: ", "donjon run --kernel"]);
}

#[test]
fn a_cache_that_cannot_be_written() {
    let mut command = donjon(&["run"]);
    command.env("XDG_CACHE_HOME", "/proc/no-cache-here");
    finish(&mut command, "")
        .exits(1)
        .says(&["error: ", "/proc/no-cache-here"]);
}

#[test]
fn doctor_names_the_engine_and_why() {
    let done = finish(&mut donjon(&["doctor"]), "").exits(0);
    assert!(
        done.stdout.contains("soft") && done.stdout.contains("kvm"),
        "{}",
        done.stdout
    );
}
