//! Disks as a guest uses them, and as the host sees them meanwhile.

mod common;

use common::guest::Guest;
use common::place::Place;
use common::{Running, arg};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Each format on each bus: names and images.
const FOUR: [(&str, &str); 4] = [("a", "a.raw"), ("b", "b.qcow2"), ("c", "c.raw"), ("d", "d.qcow2")];

/// Makes their images; the arguments that make them disks.
fn four(place: &Place, size: &str) -> [&'static str; 8] {
    for (_, image) in FOUR {
        let format = image.split_once('.').expect("a name with its format").1;
        place.image(image, format, size);
    }
    [
        "--disk",
        "a.raw,name=a,format=raw",
        "--disk",
        "b.qcow2,name=b",
        "--disk",
        "c.raw,name=c,format=raw,bus=nvme",
        "--disk",
        "d.qcow2,name=d,bus=nvme",
    ]
}

#[test]
fn every_format_holds_a_file_system() {
    let place = Place::new();
    place.image("a.raw", "raw", "32M");
    place.host("mkfs.ext4", &["-q", "ext4.raw", "32M"]);
    place.ask(&["disk", "convert", "ext4.raw", "b.qcow2"]).exits(0);
    place.ask(&["disk", "overlay", "b.qcow2", "c.qcow2"]).exits(0);
    let base = std::fs::read(place.path("b.qcow2")).unwrap();
    // The overlay uses b.qcow2, so another copy is the disk.
    place.ask(&["disk", "convert", "ext4.raw", "d.qcow2"]).exits(0);
    place.image("e.qcow2", "qcow2", "32M");
    let mut guest = Guest::boot(
        &place,
        &[
            "--cpus",
            "2",
            "--disk",
            "a.raw,format=raw,serial=SN-0815,queues=2",
            "--disk",
            "d.qcow2,name=data,queues=1",
            "--disk",
            "c.qcow2",
            "--disk",
            "e.qcow2,bus=nvme,serial=FLASH",
            "--disk",
            "ext4.raw,format=raw,ro",
        ],
    );
    let mut disks = vec![];
    for (serial, queues, ro) in [
        ("SN-0815", 2, 0),
        ("data", 1, 0),
        ("disk1", 2, 0),
        ("FLASH", 2, 0),
        ("disk3", 2, 1),
    ] {
        let disk = guest.disk(serial);
        let said = guest.sh(&format!(
            "cd /sys/block/{disk}; cat size ro queue/logical_block_size; ls mq | wc -l; cd"
        ));
        assert_eq!(said, format!("65536\n{ro}\n512\n{queues}"), "{serial}: {disk}");
        disks.push(disk);
    }
    let read_only = disks.pop().expect("five");
    for disk in [&disks[0], &disks[3]] {
        guest.sh(&format!("mke2fs -q /dev/{disk} >/dev/null"));
    }
    let mut sums = vec![];
    for disk in &disks {
        guest.sh(&format!(
            "mkdir -p /m/{disk}; mount -t ext4 /dev/{disk} /m/{disk}; cd /m/{disk}"
        ));
        guest.sh("for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=f$i bs=100k count=$((i*i)) 2>/dev/null; done; rm f3");
        let sum = guest.sh("sha256sum f* | sha256sum");
        // Not out of the guest's cache.
        guest.sh(&format!(
            "cd; umount /m/{disk}; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/{disk} /m/{disk}"
        ));
        assert_eq!(guest.sh(&format!("cd /m/{disk}; sha256sum f* | sha256sum")), sum);
        sums.push(sum);
    }
    let refused = guest.try_sh(&format!("cd; dd if=/dev/zero of=/dev/{read_only} bs=4k count=1"));
    assert_ne!(refused.0, 0, "{}", refused.1);
    guest.sh(&format!(
        "mount -t ext4 -o ro /dev/{read_only} /mnt && ls -d /mnt/lost+found"
    ));
    guest.off();

    // The host's tools find the same, and no damage.
    for (image, sum) in ["a.raw", "d.qcow2", "c.qcow2", "e.qcow2"].iter().zip(&sums) {
        place.host("qemu-img", &["convert", "-O", "raw", image, "out.raw"]);
        place.host("e2fsck", &["-f", "-n", "out.raw"]);
        place.host("debugfs", &["-R", "dump f5 f5", "out.raw"]);
        assert_eq!(
            std::fs::metadata(place.path("f5")).unwrap().len(),
            25 * 100 * 1024
        );
        let script = format!("mkdir -p x && debugfs -R 'rdump / x' {}", "out.raw");
        place.host("sh", &["-c", &format!("rm -rf x; {script}")]);
        assert_eq!(
            place.host("sh", &["-c", "cd x; sha256sum f* | sha256sum"]).trim(),
            sum.trim()
        );
        if image.ends_with("qcow2") {
            place.host("qemu-img", &["check", "-q", image]);
        }
    }
    assert!(
        std::fs::read(place.path("b.qcow2")).unwrap() == base,
        "the backing file was written to"
    );
}

#[test]
fn discarded_and_zeroed_room_goes_back_to_the_host() {
    let place = Place::new();
    let disks = four(&place, "32M");
    let boot = place.with_programs(&["zero"]);
    let mut args: Vec<_> = boot.iter().map(String::as_str).collect();
    args.extend(disks);
    let mut guest = Guest::boot(&place, &args);
    for (name, image) in FOUR {
        let disk = guest.disk(name);
        guest.sh(&format!(
            "dd if=/dev/urandom of=/dev/{disk} bs=1M count=16 oflag=direct conv=fsync 2>/dev/null"
        ));
        let full = place.allocated(image);
        assert!(full >= 16 * MIB, "{image}: {full}");
        // Zeroes that stay allocated, then such that do not.
        guest.sh(&format!("/zero /dev/{disk} keep $((1<<20)) $((2<<20))"));
        guest.sh(&format!("/zero /dev/{disk} unmap $((4<<20)) $((4<<20))"));
        let zeroes =
            format!("dd if=/dev/{disk} iflag=direct bs=1M skip=S count=N 2>/dev/null | tr -d '\\0' | wc -c");
        let zeroes = |skip: &str, count: &str| zeroes.replace('S', skip).replace('N', count);
        assert_eq!(guest.sh(&zeroes("1", "2")), "0");
        assert_eq!(guest.sh(&zeroes("4", "4")), "0");
        assert_ne!(guest.sh(&zeroes("0", "1")), "0");
        // Over NVMe it is for the driver to decide whether it asks for that, and Linux 6.1 does not.
        let back = if disk.starts_with("nvme") { 0 } else { 3 * MIB };
        let less = place.allocated(image);
        assert!(
            less + back <= full + MIB && less + 10 * MIB >= full,
            "{image}: {full} to {less}"
        );
        guest.sh(&format!(
            "blkdiscard /dev/{disk} && dd if=/dev/null of=/dev/{disk} conv=notrunc,fsync 2>/dev/null"
        ));
        let none = place.allocated(image);
        assert!(none < MIB, "{image}: {none} after a discard of everything");
        // And through a file system.
        guest.sh(&format!(
            "mke2fs -q /dev/{disk} >/dev/null && mount -t ext4 -o nodelalloc /dev/{disk} /mnt"
        ));
        guest.sh("dd if=/dev/urandom of=/mnt/big bs=1M count=12 conv=fsync 2>/dev/null");
        let used = place.allocated(image);
        assert!(used >= 12 * MIB, "{image}: {used}");
        guest.sh("rm /mnt/big && sync && fstrim /mnt && umount /mnt");
        let trimmed = place.allocated(image);
        assert!(trimmed < 3 * MIB, "{image}: {used} to {trimmed}");
    }
    guest.off();
    for image in ["b.qcow2", "d.qcow2"] {
        place.host("qemu-img", &["check", "-q", image]);
    }
}

#[test]
fn a_disk_grows_while_it_is_used() {
    let place = Place::new();
    place.image("a.raw", "raw", "16M");
    place.image("b.qcow2", "qcow2", "16M");
    let mut guest = Guest::boot(
        &place,
        &[
            "--name",
            "grows",
            "--disk",
            "a.raw,format=raw",
            "--disk",
            "b.qcow2",
        ],
    );
    for (disk, image, name) in [("vda", "a.raw", "disk0"), ("vdb", "b.qcow2", "disk1")] {
        guest.sh(&format!(
            "mke2fs -q /dev/{disk} >/dev/null && mount -t ext2 /dev/{disk} /mnt && echo here >/mnt/f"
        ));
        let done = place
            .ask(&["device", "set", "grows", name, "--size", "40M"])
            .exits(0);
        assert!(done.stdout.contains(name), "{}", done.stdout);
        guest.sh(&format!(
            "until [ $(cat /sys/block/{disk}/size) = 81920 ]; do usleep 10000; done"
        ));
        guest.sh("cat /mnt/f; umount /mnt");
        guest.sh(&format!(
            "echo end | dd of=/dev/{disk} bs=512 seek=81919 conv=sync,fsync 2>/dev/null"
        ));
        assert_eq!(
            guest.sh(&format!(
                "dd if=/dev/{disk} bs=512 skip=81919 iflag=direct 2>/dev/null | head -c 3"
            )),
            "end"
        );
        place
            .ask(&["device", "set", "grows", name, "--size", "16M"])
            .exits(1)
            .says(&["can only grow", "donjon disk resize"]);
        let info = place.host("qemu-img", &["info", "-U", image]);
        assert!(info.contains("(41943040 bytes)"), "{info}");
    }
    guest.off();
}

#[test]
fn limits_hold_and_can_be_lifted_meanwhile() {
    let place = Place::new();
    place.image("a.raw", "raw", "64M");
    place.image("b.qcow2", "qcow2", "64M");
    let mut guest = Guest::boot(
        &place,
        &[
            "--name",
            "slow",
            "--disk",
            "a.raw,format=raw,bps=1M",
            "--disk",
            "b.qcow2,bus=nvme",
        ],
    );
    guest.wait("[ -b /dev/nvme0n1 ]");
    let write = |disk: &str, mib: u64| {
        format!(
            "dd if=/dev/zero of=/dev/{disk} bs=64k count={} oflag=direct 2>/dev/null",
            16 * mib
        )
    };
    let start = Instant::now();
    guest.sh(&write("vda", 4));
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(2500),
        "4 MiB at 1 MiB a second took {took:?}"
    );

    // The limit of one disk is not the other's, until it gets one.
    let start = Instant::now();
    guest.sh(&write("nvme0n1", 4));
    let free = start.elapsed();
    place
        .ask(&["device", "set", "slow", "disk1", "--limit", "iops=20"])
        .exits(0);
    let start = Instant::now();
    guest.sh(&write("nvme0n1", 4));
    let limited = start.elapsed();
    assert!(
        limited >= Duration::from_secs(2) && limited > free,
        "64 operations: {free:?}, at 20 a second {limited:?}"
    );

    // A minute's work, of which the limit is lifted.
    let start = Instant::now();
    guest.begin(&write("vda", 60));
    place
        .ask(&["device", "set", "slow", "disk0", "--limit", "bps=2M"])
        .exits(0);
    place
        .ask(&["device", "set", "slow", "disk0", "--limit", ""])
        .exits(0);
    assert_eq!(guest.result().0, 0);
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    let listed = place.json(&["device", "ls", "slow"]);
    let of = |name: &str| {
        listed
            .as_array()
            .unwrap()
            .iter()
            .find(|d| d["name"] == name)
            .unwrap()["options"]
            .clone()
    };
    assert!(!of("disk0").as_str().unwrap().contains("bps"), "{listed}");
    assert!(of("disk1").as_str().unwrap().contains("iops=20"), "{listed}");
    guest.off();
}

/// Leaves a file system hardly any room.
fn fill_up(filler: &Path) {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(filler)
        .unwrap();
    let room = |s: rustix::fs::StatVfs| s.f_bavail * s.f_frsize;
    while room(rustix::fs::statvfs(filler).unwrap()) > 3 * MIB {
        file.write_all(&[0; 256 << 10]).unwrap();
    }
}

#[test]
fn writes_wait_while_the_host_has_no_room() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a small file system can only be mounted by root");
        return;
    }
    let place = Place::new();
    std::fs::create_dir(place.path("small")).unwrap();
    // In a mount namespace of its own, so that nothing is left behind.
    let script = "mount -t tmpfs -o size=20m none small && cd small && head -c 13m /dev/zero >filler && \
                  \"$0\" disk create a.raw 8M --format raw && \"$0\" disk create b.qcow2 8M && \
                  exec \"$0\" run --name full --disk a.raw,format=raw --disk b.qcow2";
    let mut command = place.command(
        "unshare",
        &["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_donjon")],
    );
    // It tells in the log.
    command
        .env("XDG_RUNTIME_DIR", place.as_ref())
        .env("RUST_LOG", "warn");
    let mut guest = Guest::on(Running::start(&mut command));
    guest.up();
    let small = format!(
        "/proc/{}/root{}",
        guest.running.child.id(),
        arg(&place.path("small"))
    );
    let filler = Path::new(&small).join("filler");
    guest.sh("dd if=/dev/urandom of=/tmp/x bs=1M count=6 2>/dev/null");
    for (disk, image) in [("vda", "a.raw"), ("vdb", "b.qcow2")] {
        // Leaves less than it wants to write.
        fill_up(&filler);
        guest.begin(&format!(
            "dd if=/tmp/x of=/dev/{disk} bs=64k conv=fsync 2>/tmp/err & sleep 1; kill -0 $! && echo waits"
        ));
        let (code, text) = guest.result();
        assert!(code == 0 && text.contains("waits"), "{disk}: {text}");
        let told = Instant::now();
        while !guest.running.errors().contains(&format!("no room for {image}")) {
            assert!(
                told.elapsed() < common::LIMIT,
                "{disk}: {}",
                guest.running.errors()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        // The guest goes on, and so does donjon.
        guest.sh("echo $((6 * 7))");
        place.json(&["stats", "full"]);
        std::fs::remove_file(&filler).unwrap();
        guest.sh("wait && cat /tmp/err");
        guest.sh("echo 3 >/proc/sys/vm/drop_caches");
        guest.sh(&format!(
            "dd if=/dev/{disk} bs=1M count=6 iflag=direct 2>/dev/null | cmp - /tmp/x"
        ));
    }
    place.host("qemu-img", &["check", "-U", "-q", &format!("{small}/b.qcow2")]);
    guest.off();
}
