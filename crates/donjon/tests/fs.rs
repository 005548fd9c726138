//! Directories of the host in guests.

mod common;

use common::guest::Guest;
use common::place::Place;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const MOUNT: &str = "mkdir -p /s && mount -t virtiofs work /s";
/// Holds once what has just been plugged in is there.
const MOUNTED: &str = "mkdir -p /l; grep -q ' /l ' /proc/mounts || mount -t virtiofs late /l 2>/dev/null";

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

/// A directory to share with a secret beside it, and a guest that has it at /s.
fn shared(place: &Place, options: &str, more: &[&str]) -> Guest {
    fs::create_dir_all(place.path("work")).unwrap();
    fs::write(place.path("secret"), "secret").unwrap();
    let fs = format!("work,tag=work{options}");
    let mut guest = Guest::boot(place, &[more, &["--fs", &fs]].concat());
    guest.sh(MOUNT);
    guest
}

#[test]
fn host_and_guest_see_the_same_files() {
    let place = Place::new();
    let work = place.path("work");
    fs::create_dir(&work).unwrap();
    let content = noise(20 << 20);
    fs::write(work.join("big"), &content).unwrap();
    let mut guest = shared(&place, "", &["--cpus", "2"]);
    assert!(
        guest
            .sh("grep virtiofs /proc/mounts")
            .starts_with("work /s virtiofs")
    );
    let sum = |place: &Place, file: &str| place.host("sha256sum", &[file])[..64].to_owned();
    assert!(guest.sh("sha256sum /s/big").starts_with(&sum(&place, "work/big")));
    // The other way: copied by the guest.
    guest.sh("cp /s/big /s/copy && dd if=/dev/urandom of=/s/random bs=300k count=40 2>/dev/null");
    assert_eq!(sum(&place, "work/copy"), sum(&place, "work/big"));
    assert!(
        guest
            .sh("sha256sum /s/random")
            .starts_with(&sum(&place, "work/random"))
    );
    // Names, links, permissions, times.
    guest.sh(
        "mkdir -p /s/d/e && echo guest >/s/d/f && mv /s/d/f /s/d/e/g && ln /s/d/e/g /s/h && ln -s d/e/g /s/l",
    );
    assert_eq!(fs::read(work.join("l")).unwrap(), b"guest\n");
    assert_eq!(work.join("h").metadata().unwrap().nlink(), 2);
    guest.sh("chmod 640 /s/h; touch -d @1000000000 /s/h; umask 027; echo >/s/masked");
    let h = work.join("h").metadata().unwrap();
    assert_eq!((h.mode() & 0o777, h.mtime()), (0o640, 1_000_000_000));
    assert_eq!(work.join("masked").metadata().unwrap().mode() & 0o777, 0o640);
    // What the host changes, the guest sees: at once, or when what it knows is a second old.
    fs::write(work.join("d/e/g"), "from the host").unwrap();
    guest.wait("grep -q host /s/h");
    fs::remove_file(work.join("h")).unwrap();
    fs::write(work.join("new"), "x").unwrap();
    guest.sh("[ -e /s/new ]");
    guest.wait("[ ! -e /s/h ]");
    // Many files, at once.
    guest.sh(
        "for p in 1 2 3 4; do (mkdir /s/$p; for i in $(seq 200); do echo $i >/s/$p/$i; done) & done; wait",
    );
    for p in 1..=4 {
        assert_eq!(fs::read_dir(work.join(p.to_string())).unwrap().count(), 200);
        assert_eq!(fs::read(work.join(format!("{p}/200"))).unwrap(), b"200\n");
    }
    assert_eq!(guest.sh("ls /s/1 | wc -l").trim(), "200");
    guest.sh("tar -C /s -cf /tmp/t 1 2 d && mkdir /s/x && tar -C /s/x -xf /tmp/t && diff -r /s/1 /s/x/1");
    guest.sh("rm -r /s/1 /s/2 /s/3 /s/4 /s/x && sync && umount /s");
    assert!(!work.join("x").exists());
    // Mounted again, all is there.
    guest.sh(MOUNT);
    assert!(
        guest
            .sh("sha256sum /s/copy")
            .starts_with(&sum(&place, "work/big"))
    );
    guest.off();
}

#[test]
fn a_read_only_directory_stays_as_it_is() {
    let place = Place::new();
    let work = place.path("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("f"), "content").unwrap();
    let mut guest = shared(&place, ",ro", &[]);
    assert_eq!(guest.sh("cat /s/f"), "content");
    for command in [
        "echo x >/s/f",
        "echo x >>/s/f",
        "touch /s/new",
        "rm -f /s/f",
        "mkdir /s/d",
        "mv /s/f /s/g",
        "ln -s f /s/l",
        "chmod 777 /s/f",
        "truncate -s 0 /s/f",
    ] {
        let (code, said) = guest.try_sh(command);
        assert!(
            code != 0 && said.contains("Read-only file system"),
            "{command}: {said}"
        );
    }
    guest.off();
    assert_eq!(fs::read(work.join("f")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 1);
}

#[test]
fn nothing_beside_the_directory_is_reached() {
    let place = Place::new();
    let mut guest = shared(&place, "", &[]);
    let work = place.path("work");
    symlink("../secret", work.join("relative")).unwrap();
    symlink(place.path("secret"), work.join("absolute")).unwrap();
    symlink("..", work.join("above")).unwrap();
    for path in ["relative", "absolute", "above/secret", "../secret"] {
        let (code, said) = guest.try_sh(&format!("cat /s/{path}"));
        assert!(code != 0 && said.contains("can't open"), "{path}: {said}");
    }
    // Links lead to where they do in the guest.
    guest.sh("echo guest >/secret");
    assert_eq!(guest.sh("cat /s/relative"), "guest");
    guest.sh("ln -s /secret /s/made && echo more >/s/made && mknod /s/fifo p");
    assert_eq!(guest.sh("cat /secret"), "more");
    assert_eq!(fs::read(place.path("secret")).unwrap(), b"secret");
    // A FIFO is the guest's own, and a device is not made.
    guest.sh("(echo through >/s/fifo &) ; [ \"$(cat /s/fifo)\" = through ]");
    let (code, said) = guest.try_sh("mknod /s/null c 1 3");
    assert!(code != 0 && said.contains("not permitted"), "{said}");
    assert!(!work.join("null").exists());
    guest.off();
}

#[test]
fn what_a_guest_has_written_survives_that_donjon_is_killed() {
    let place = Place::new();
    let mut guest = shared(&place, "", &[]);
    guest.sh("mkdir /s/d && seq 100000 >/s/d/new && sync /s/d/new && mv /s/d/new /s/numbers");
    guest.running.kill();
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(place.path("work/numbers")).unwrap() == numbers);
    assert_eq!(fs::read_dir(place.path("work/d")).unwrap().count(), 0);
}

/// FNV-1a, as fsx has it.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn it_is_what_programs_expect_of_a_file_system() {
    let place = Place::new();
    let args = place.with_programs(&["fsx"]);
    let mut more: Vec<_> = args.iter().map(String::as_str).collect();
    more.extend(["--cpus", "2"]);
    let mut guest = shared(&place, "", &more);
    for seed in 1..4 {
        let said = guest.sh(&format!("/fsx file /s/file {seed} 1500"));
        let content = fs::read(place.path("work/file")).unwrap();
        assert_eq!(
            said,
            format!("file {} {:016x}", content.len(), hash(&content)),
            "seed {seed}"
        );
    }
    assert_eq!(guest.sh("mkdir /s/t && /fsx tree /s/t 1 1500 4"), "tree 4");
    guest.off();
}

#[test]
fn directories_come_and_go_while_the_guest_runs() {
    let place = Place::new();
    fs::create_dir(place.path("late")).unwrap();
    fs::write(place.path("late/f"), "later").unwrap();
    let mut guest = Guest::boot(&place, &["--name", "hot"]);
    for _ in 0..3 {
        place
            .ask(&["device", "add", "hot", "--fs", "late,tag=late,name=extra"])
            .exits(0);
        guest.wait(MOUNTED);
        assert_eq!(guest.sh("cat /l/f"), "later");
        guest.sh("echo $RANDOM >/l/g && umount /l");
        place.ask(&["device", "rm", "hot", "extra"]).exits(0);
    }
    // A reset is a new session.
    place
        .ask(&["device", "add", "hot", "--fs", "late,tag=late,ro"])
        .exits(0);
    guest.wait(MOUNTED);
    guest.running.send("cat /l/f; reboot\n");
    guest.up();
    guest.sh("mkdir -p /l && mount -t virtiofs late /l");
    assert_eq!(guest.sh("cat /l/f"), "later");
    let (code, _) = guest.try_sh("touch /l/new");
    assert_ne!(code, 0);
    guest.off();
}

#[test]
fn what_is_wrong_is_said() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    for (options, code, said) in [
        ("nowhere,tag=a", 1, "mkdir nowhere"),
        ("file,tag=a", 1, "file is not a directory"),
        (".", 2, "DIR,tag=TAG"),
        (".,tag=", 2, "1 to 36 bytes"),
        (".,tag=a,rw", 2, "tag, ro, uid, gid, name"),
        (".,tag=a,uid=x", 2, "uid"),
    ] {
        place.ask(&["run", "--fs", options]).exits(code).says(&[said]);
    }
}

#[test]
fn an_ordinary_users_files_are_roots_in_the_guest() {
    let place = Place::new();
    let work = place.path("work");
    let mut guest = shared(&place, ",uid=0,gid=0", &[]);
    guest.sh("echo x >/s/f; mkdir /s/d; ln -s f /s/l");
    assert_eq!(guest.sh("stat -c %u:%g /s/f /s/d /s").trim(), "0:0\n0:0\n0:0");
    // As a database's entry point does.
    guest.sh("chown -R 999:998 /s/d && chmod 700 /s/d");
    assert_eq!(guest.sh("stat -c %u:%g:%a /s/d").trim(), "999:998:700");
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(work.join("d").metadata().unwrap().uid(), me);
    fs::set_permissions(work.join("f"), PermissionsExt::from_mode(0o600)).unwrap();
    guest.wait("[ $(stat -c %a /s/f) = 600 ]");
    guest.off();
}
