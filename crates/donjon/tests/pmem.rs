//! Files as persistent memory of guests that map them without a copy.

mod common;

use common::guest::Guest;
use common::place::Place;
use std::os::unix::fs::PermissionsExt;

const MIB: usize = 1 << 20;

/// An ext4 file system with these files.
fn file_system(place: &Place, image: &str, files: &[(&str, &[u8])]) {
    let root = place.path("root");
    std::fs::create_dir_all(&root).unwrap();
    for (name, content) in files {
        std::fs::write(root.join(name), content).unwrap();
        std::fs::set_permissions(root.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    place.host("mkfs.ext4", &["-q", "-b", "4096", "-d", "root", image, "32M"]);
}

/// A program that says this.
fn program(place: &Place, text: &str) -> Vec<u8> {
    let source = format!("#include <stdio.h>\nint main(void) {{ return puts(\"{text}\") < 0; }}\n");
    std::fs::write(place.path("p.c"), source).unwrap();
    place.host("gcc", &["-O2", "-static", "-o", "p", "p.c"]);
    std::fs::read(place.path("p")).unwrap()
}

/// Bytes that are nowhere else.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 1u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..len / 8).flat_map(|_| next().to_le_bytes()).collect()
}

#[test]
fn a_read_only_file_is_a_root_that_domains_share() {
    let place = Place::new();
    file_system(
        &place,
        "root.ext4",
        &[
            ("data", &noise(5 * MIB)),
            ("hello", &program(&place, "out of the file")),
        ],
    );
    let image = std::fs::read(place.path("root.ext4")).unwrap();
    let sum = place.host("sha256sum", &["root/data"]);
    let sum = sum.split(' ').next().unwrap();
    let args = ["--cpus", "2", "--memory", "256M", "--pmem", "root.ext4,ro"];
    let mut guests = [Guest::boot(&place, &args), Guest::boot(&place, &args)];
    for guest in &mut guests {
        guest.sh("mkdir -p /m; mount -t ext4 -o ro,dax=always /dev/pmem0 /m");
        assert!(guest.sh("grep pmem0 /proc/mounts").contains("dax"));
        assert!(guest.sh("sha256sum /m/data").starts_with(sum));
        assert_eq!(
            guest.sh("for i in 1 2 3; do /m/hello; done | uniq -c").trim(),
            "3 out of the file"
        );
    }
    place
        .ask(&["run", "--pmem", "root.ext4"])
        .exits(1)
        .says(&["root.ext4 is in use by process donjon"]);
    let [mut guest, other] = guests;
    // What is stored is ignored, and said to be lost.
    let (code, said) = guest.try_sh("dd if=/dev/zero of=/dev/pmem0 bs=1M count=8 conv=fsync");
    assert!(code != 0 && said.contains("Input/output error"), "{code}: {said}");
    let (code, said) =
        guest.try_sh("umount /m; mount -t ext4 /dev/pmem0 /m && echo x >/m/new && sync /m/new");
    assert!(code != 0, "{said}");
    guest.off();
    other.off();
    assert!(std::fs::read(place.path("root.ext4")).unwrap() == image);
}

#[test]
fn what_a_guest_makes_last_is_in_the_file() {
    let place = Place::new();
    let (first, second) = (program(&place, "first"), program(&place, "second"));
    file_system(&place, "a.ext4", &[("first", &first), ("second", &second)]);
    let mut guest = Guest::boot(
        &place,
        &["--cpus", "2", "--memory", "256M", "--pmem", "a.ext4,name=data"],
    );
    let devices = place.json(&["device", "ls"]);
    let listed = devices.as_array().unwrap().iter().find(|d| d["name"] == "data");
    assert_eq!(listed.unwrap()["options"], "a.ext4,name=data");
    guest.sh("mkdir -p /m; mount -t ext4 -o dax=always /dev/pmem0 /m; cd /m");
    // Code in the file, which changes there.
    guest.sh("cp first p");
    assert_eq!(
        guest.sh("for i in $(seq 40); do ./p; done | uniq -c").trim(),
        "40 first"
    );
    guest.sh("dd if=second of=p conv=notrunc 2>/dev/null; truncate -s $(stat -c %s second) p");
    assert_eq!(
        guest.sh("for i in $(seq 40); do ./p; done | uniq -c").trim(),
        "40 second"
    );
    let sum = guest.sh("dd if=/dev/urandom of=new bs=100k count=50 2>/dev/null; sync; sha256sum <new");
    guest.sh("cd; mount -o remount,ro /m");
    place.host("e2fsck", &["-fn", "a.ext4"]);
    place.host("debugfs", &["-R", "dump new new", "a.ext4"]);
    let there = place.host("sha256sum", &["new"]);
    assert_eq!(there.split(' ').next(), sum.split(' ').next());
    // A reset maps it again.
    guest.running.send("reboot\n");
    guest.up();
    guest.sh("mkdir -p /m; mount -t ext4 -o dax=always /dev/pmem0 /m");
    assert_eq!(guest.sh("sha256sum </m/new"), sum);
    guest.sh("umount /m");
    place.ask(&["device", "rm", "tiny", "data"]).exits(0);
    guest.sh("! [ -e /dev/pmem0 ]");
    guest.off();
}

#[test]
fn files_that_guests_would_not_take() {
    let place = Place::new();
    let refused = |spec: &str, says: &[&str]| {
        let done = place.ask(&["run", "--pmem", spec]);
        assert!(!done.status.success());
        done.says(says);
    };
    std::fs::write(place.path("odd"), [0; 5000]).unwrap();
    std::fs::write(place.path("empty"), []).unwrap();
    refused("none", &["none does not exist", "truncate -s 1G none"]);
    refused("empty", &["empty is empty", "truncate -s 1G empty"]);
    refused("odd", &["odd has 5000 bytes", "truncate -s %2M odd"]);
    place.host("truncate", &["-s", "%2M", "odd"]);
    assert_eq!(
        std::fs::metadata(place.path("odd")).unwrap().len(),
        2 * MIB as u64
    );
    refused(".", &["a directory"]);
    refused("", &["say which file"]);
    refused("odd,dax", &["ro, name"]);
    place.host("truncate", &["-s", "257G", "huge"]);
    refused("huge", &["at most 256 GiB of persistent memory"]);
}
