//! Disks as a guest uses them, and as the host sees them meanwhile.

mod common;

use common::guest::Guest;
use common::place::Place;
use common::{Running, arg};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const ZERO: &str = include_str!("guest/zero.c");

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
            "ext4.raw,format=raw,ro",
        ],
    );
    for (disk, serial, queues, ro) in [
        ("vda", "SN-0815", "2", "0"),
        ("vdb", "data", "1", "0"),
        ("vdc", "disk1", "2", "0"),
        ("vdd", "disk2", "2", "1"),
    ] {
        let said = guest.sh(&format!(
            "cd /sys/block/{disk}; cat size; echo $(cat serial); cat ro queue/logical_block_size; ls mq | wc -l; cd"
        ));
        assert_eq!(said, format!("65536\n{serial}\n{ro}\n512\n{queues}"), "{disk}");
    }
    guest.sh("mke2fs -q /dev/vda >/dev/null");
    let sums: Vec<_> = [("vda", "ext2"), ("vdb", "ext4"), ("vdc", "ext4")]
        .map(|(disk, kind)| {
            guest.sh(&format!("mkdir -p /m/{disk}; mount -t {kind} /dev/{disk} /m/{disk}; cd /m/{disk}"));
            guest.sh("for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=f$i bs=100k count=$((i*i)) 2>/dev/null; done; rm f3");
            let sum = guest.sh("sha256sum f* | sha256sum");
            // Not out of the guest's cache.
            guest.sh(&format!("cd; umount /m/{disk}; echo 3 >/proc/sys/vm/drop_caches; mount -t {kind} /dev/{disk} /m/{disk}"));
            assert_eq!(guest.sh(&format!("cd /m/{disk}; sha256sum f* | sha256sum")), sum);
            sum
        })
        .into();
    let refused = guest.try_sh("cd; dd if=/dev/zero of=/dev/vdd bs=4k count=1");
    assert_ne!(refused.0, 0, "{}", refused.1);
    guest.sh("mount -t ext4 -o ro /dev/vdd /mnt && ls -d /mnt/lost+found");
    guest.off();

    // The host's tools find the same, and no damage.
    for (image, sum) in ["a.raw", "d.qcow2", "c.qcow2"].iter().zip(&sums) {
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
    place.image("a.raw", "raw", "32M");
    place.image("b.qcow2", "qcow2", "32M");
    let boot = place.with_programs(&[("zero", ZERO)]);
    let mut args: Vec<_> = boot.iter().map(String::as_str).collect();
    args.extend(["--disk", "a.raw,format=raw", "--disk", "b.qcow2"]);
    let mut guest = Guest::boot(&place, &args);
    for (disk, image) in [("vda", "a.raw"), ("vdb", "b.qcow2")] {
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
        let less = place.allocated(image);
        assert!(
            less + 3 * MIB <= full && less + 10 * MIB >= full,
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
    place.host("qemu-img", &["check", "-q", "b.qcow2"]);
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
            "b.qcow2",
        ],
    );
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
    guest.sh(&write("vdb", 4));
    let free = start.elapsed();
    place
        .ask(&["device", "set", "slow", "disk1", "--limit", "iops=20"])
        .exits(0);
    let start = Instant::now();
    guest.sh(&write("vdb", 4));
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

#[test]
fn an_image_in_use_is_refused_to_others() {
    let place = Place::new();
    place.image("base.qcow2", "qcow2", "8M");
    place
        .ask(&["disk", "overlay", "base.qcow2", "top.qcow2"])
        .exits(0);
    place.image("ro.raw", "raw", "8M");
    let guest = Guest::boot(
        &place,
        &[
            "--name",
            "holder",
            "--disk",
            "top.qcow2",
            "--disk",
            "ro.raw,format=raw,ro",
        ],
    );
    let holder = format!("donjon ({})", guest.running.child.id());
    // One error on one line, that says who.
    place
        .ask(&["run", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
    place
        .ask(&["run", "--disk", "base.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
    place
        .ask(&["disk", "resize", "top.qcow2", "16M"])
        .exits(1)
        .says(&[&holder]);
    place
        .ask(&["disk", "check", "--repair", "top.qcow2"])
        .exits(1)
        .says(&[&holder]);
    place
        .ask(&["device", "add", "holder", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by"]);
    for args in [&["info", "top.qcow2"][..], &["resize", "base.qcow2", "16M"]] {
        let refused = place.try_host("qemu-img", args);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && text.contains("lock"),
            "{args:?}: {text}"
        );
    }
    let refused = place.try_host("qemu-io", &["-c", "write 0 4k", "top.qcow2"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("lock"), "{text}");
    // Those who only read may share.
    place.host("qemu-img", &["info", "ro.raw"]);
    place
        .ask(&["run", "--disk", "ro.raw,format=raw"])
        .exits(1)
        .says(&[&holder]);
    guest.off();
    place.host("qemu-io", &["-c", "write 0 4k", "top.qcow2"]);

    // The other way round.
    let mut other = Running::start(&mut place.command("qemu-io", &["top.qcow2"]));
    other.send("read 0 512\n");
    other.expect("read 512/512", 1);
    let holder = format!("qemu-io ({})", other.child.id());
    place
        .ask(&["run", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
}

#[test]
fn bad_images_are_refused_with_the_way_out() {
    let place = Place::new();
    place.image("good.qcow2", "qcow2", "8M");
    place.image("good.raw", "raw", "8M");
    let good = std::fs::read(place.path("good.qcow2")).unwrap();
    common::file(place.as_ref(), "short.qcow2", &good[..60]);
    common::file(place.as_ref(), "cut.qcow2", &good[..100_000]);
    place
        .ask(&["disk", "overlay", "good.qcow2", "orphan.qcow2"])
        .exits(0);
    place.image("base.qcow2", "qcow2", "8M");
    place
        .ask(&["disk", "overlay", "base.qcow2", "loop.qcow2"])
        .exits(0);
    place.host(
        "qemu-img",
        &["rebase", "-u", "-F", "qcow2", "-b", "loop.qcow2", "base.qcow2"],
    );
    place.host(
        "qemu-img",
        &["rebase", "-u", "-F", "qcow2", "-b", "gone.qcow2", "orphan.qcow2"],
    );
    place.host("qemu-img", &["create", "-q", "-f", "vmdk", "other.vmdk", "8M"]);
    std::fs::create_dir(place.path("directory")).unwrap();
    for (disk, parts) in [
        ("missing.qcow2", &["does not exist", "donjon disk create"][..]),
        (
            "good.raw,format=qcow2",
            &["is not a qcow2 image", "name the right format"],
        ),
        ("short.qcow2", &["short.qcow2"]),
        ("cut.qcow2", &["cut.qcow2", "damaged", "donjon disk check"]),
        ("orphan.qcow2", &["backing file", "gone.qcow2", "does not exist"]),
        ("loop.qcow2", &["chain", "recreate the overlay"]),
        ("other.vmdk", &["not supported", "qemu-img convert"]),
        ("directory", &["directory", "name a file"]),
    ] {
        let done = place.ask(&["run", "--disk", disk]).exits(1).says(parts);
        assert_eq!(done.stderr.lines().count(), 1, "{disk}: {}", done.stderr);
        assert!(
            done.stderr.starts_with("error: ") && done.stdout.is_empty(),
            "{disk}: {}",
            done.stderr
        );
    }
    for (disk, part) in [
        ("", "say which image"),
        ("a,size=3", "there is no option \"size\""),
        ("a,format=vmdk", "raw"),
        ("a,queues=0", "1 to 64 queues"),
        ("a,name=x/y", "name"),
        ("a,bps=fast", "bps"),
        ("a,ro,ro", "twice"),
    ] {
        place.ask(&["run", "--disk", disk]).exits(2).says(&[part]);
    }
}
