use super::partitions::places;
use super::*;
use donjon_block::{Options, open};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// An ext4 file system with these files, made by mke2fs.
fn file_system(at: &Path, files: &[(&str, &[u8])]) {
    let tree = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::File::create(at).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-F", "-d"])
        .arg(tree.path())
        .arg(at)
        .status();
    assert!(made.expect("e2fsprogs is installed").success());
}

const DEP: &[u8] = b"kernel/a.ko.xz: kernel/b.ko\nkernel/b.ko:\n";

fn system(at: &Path) {
    let xz = liblzma::encode_all(&b"module a"[..], 1).unwrap();
    file_system(
        at,
        &[
            ("etc/os-release", b"ID=x\nPRETTY_NAME=\"X 1\"\n"),
            ("usr/bin/true", b"#!"),
            ("boot/vmlinuz-6.9.0-1", b"old"),
            ("boot/vmlinuz-6.10.0-1", b"new"),
            ("boot/vmlinuz-6.11.0-1.old", b"kept"),
            ("lib/modules/6.10.0-1/modules.dep", DEP),
            ("lib/modules/6.10.0-1/kernel/a.ko.xz", &xz),
            ("lib/modules/6.10.0-1/kernel/b.ko", b"module b"),
        ],
    );
}

fn image(path: &Path) -> Arc<Image> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    open(path, &options).unwrap()
}

#[test]
fn the_newest_kernel_of_a_whole_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    system(&path);
    let found = find(&image(&path), &["a", "none"]).unwrap();
    assert_eq!((&found.kernel[..], &found.release[..]), (&b"new"[..], "6.10.0-1"));
    assert_eq!(found.name.as_deref(), Some("X 1"));
    assert_eq!(found.root.device("/dev/vda"), "/dev/vda");
    let modules: Vec<_> = found.modules.iter().map(|(n, b)| (&n[..], &b[..])).collect();
    assert_eq!(modules, [("b.ko", &b"module b"[..]), ("a.ko", b"module a")]);
}

#[test]
fn a_partition_and_another_one_for_boot() {
    let directory = tempfile::tempdir().unwrap();
    let (root, boot, path) = ["root", "boot", "disk"].map(|n| directory.path().join(n)).into();
    file_system(
        &root,
        &[
            ("etc/hostname", b"x"),
            ("usr/lib/modules/6.8.0-9/modules.dep", b""),
        ],
    );
    file_system(&boot, &[("vmlinuz-6.8.0-9", b"kernel")]);
    // An MBR with both, the one for /boot first.
    let mut record = [0u8; 512];
    for (i, start) in [(0, 2048u32), (1, 2048 + 32768)] {
        let entry = &mut record[446 + i * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&32768u32.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = fs::File::create(&path).unwrap();
    disk.write_all(&record).unwrap();
    disk.write_all(&vec![0; (1 << 20) - 512]).unwrap();
    for part in [&boot, &root] {
        disk.write_all(&fs::read(part).unwrap()).unwrap();
    }
    let found = find(&image(&path), &["a"]).unwrap();
    assert_eq!(
        (found.root.partition, &found.kernel[..]),
        (Some(2), &b"kernel"[..])
    );
    assert_eq!(found.root.device("/dev/vda"), "/dev/vda2");
    assert_eq!(found.root.device("/dev/nvme0n1"), "/dev/nvme0n1p2");
}

#[test]
fn a_guid_partition_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let mut disk = fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    disk.set_len(8 << 20).unwrap();
    let mut table = gptman::GPT::new_from(&mut disk, 512, [7; 16]).unwrap();
    table[14] = gptman::GPTPartitionEntry {
        partition_type_guid: [1; 16],
        unique_partition_guid: [2; 16],
        starting_lba: 2048,
        ending_lba: 4095,
        attribute_bits: 0,
        partition_name: "root".into(),
    };
    table.write_into(&mut disk).unwrap();
    let found = places(&image(&path)).unwrap();
    let place = Place {
        partition: Some(14),
        start: 1 << 20,
        len: 1 << 20,
    };
    assert_eq!(found, [place]);
}

#[test]
fn what_is_missing_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let error = || find(&image(&path), &[]).err().expect("refused").to_string();
    fs::write(&path, [0; 4096]).unwrap();
    assert!(error().contains("the whole disk"), "{}", error());
    file_system(&path, &[("home/x", b"")]);
    assert!(error().contains("no /etc and /usr"), "{}", error());
    file_system(&path, &[("etc/x", b""), ("usr/x", b"")]);
    assert!(error().contains("/boot/vmlinuz-VERSION"), "{}", error());
    file_system(
        &path,
        &[("etc/x", b""), ("usr/x", b""), ("boot/vmlinuz-6.1", b"k")],
    );
    assert!(error().contains("/lib/modules/6.1"), "{}", error());
}

#[test]
fn damage_anywhere_ends_in_an_error_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    system(&path);
    let good = fs::read(&path).unwrap();
    let used: Vec<usize> = (0..good.len() / 1024)
        .filter(|b| good[b * 1024..][..1024].iter().any(|x| *x != 0))
        .collect();
    let mut seed = 1u64;
    let mut random = |n: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    for _ in 0..60 {
        let mut bad = good.clone();
        for _ in 0..20 {
            bad[used[random(used.len())] * 1024 + random(1024)] = random(256) as u8;
        }
        fs::write(&path, bad).unwrap();
        let _ = find(&image(&path), &["a"]).map_err(|e| e.to_string());
    }
}
