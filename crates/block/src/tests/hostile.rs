//! Images that lie.

use super::{Random, creation};
use crate::manage;
use crate::{Corrupt, OpenError, Options, open};
use std::path::Path;

fn image(directory: &Path, cluster: u64) -> Vec<u8> {
    let path = directory.join("good.qcow2");
    let how = manage::Creation {
        force: true,
        ..creation(cluster, 3, 16)
    };
    manage::create(&path, 1 << 20, &how).unwrap();
    let image = open(&path, &Options::default()).unwrap();
    for i in 0..8 {
        image.write_bytes(i * 100_000, &[i as u8 + 1; 5000]).unwrap();
    }
    drop(image);
    std::fs::read(path).unwrap()
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Does everything to it that a guest and its owner do.
fn use_it(path: &Path, random: &mut Random) {
    let _ = manage::info(path, None);
    let _ = manage::check(path, None, false);
    for read_only in [true, false] {
        let options = Options {
            read_only,
            ..Options::default()
        };
        let Ok(image) = open(path, &options) else {
            continue;
        };
        let mut out = vec![0; 70_000];
        for _ in 0..6 {
            let offset = random.below(image.size().max(1));
            let len = (random.below(70_000) + 1).min(image.size() - offset) as usize;
            let _ = image.read_bytes(offset, &mut out[..len]);
            let _ = image.write_bytes(offset, &out[..len]);
            let _ = image.discard(offset, len as u64);
            let _ = image.write_zeroes(offset, len as u64, true);
            let _ = image.flush();
        }
        let _ = image.resize(image.size() / 1024 * 512);
        let _ = image.resize(1 << 21);
    }
    let _ = manage::check(path, None, true);
}

#[test]
fn damaged_tables_end_in_errors() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(17);
    for cluster in [512, 4096] {
        let good = image(directory.path(), cluster);
        let (l1, counts) = (be64(&good, 40) as usize, be64(&good, 48) as usize);
        let block = be64(&good, counts) as usize;
        let l2 = (be64(&good, l1) & 0x00ff_ffff_ffff_fe00) as usize;
        let path = directory.path().join("bad.qcow2");
        for _ in 0..60 {
            let mut bad = good.clone();
            for _ in 0..=random.below(3) {
                let table = [0, l1, counts, block, l2][random.below(5) as usize];
                let at = table + random.below(if table == 0 { 14 } else { 24 }) as usize * 8;
                let old = be64(&bad, at);
                let value = match random.below(6) {
                    0 => random.next() << random.below(40),
                    1 => old ^ 1 << random.below(64),
                    2 => [l1, counts, block, l2][random.below(4) as usize] as u64 | random.below(2) << 63,
                    3 => (random.below(good.len() as u64 / cluster) * cluster) | 1 << 63,
                    4 => old.wrapping_add(cluster << random.below(40)),
                    _ => 0,
                };
                // Another disk size only makes the test slow.
                if table != 0 || at != 24 {
                    put(&mut bad, at, value);
                }
            }
            if random.below(4) == 0 {
                bad.truncate(random.below(good.len() as u64) as usize);
            }
            std::fs::write(&path, &bad).unwrap();
            use_it(&path, &mut random);
        }
    }
}

fn corrupt(error: &std::io::Error) -> &Corrupt {
    error
        .get_ref()
        .and_then(|e| e.downcast_ref())
        .unwrap_or_else(|| panic!("{error}"))
}

/// A guest cannot write to the tables, and the image is marked so that nobody else does.
#[test]
fn guest_data_does_not_get_into_metadata() {
    let directory = tempfile::tempdir().unwrap();
    let good = image(directory.path(), 4096);
    let (l1, counts) = (be64(&good, 40), be64(&good, 48));
    let block = be64(&good, counts as usize);
    let l2 = be64(&good, l1 as usize) & 0x00ff_ffff_ffff_fe00;
    for place in [l1, counts, block, l2] {
        let mut bad = good.clone();
        put(&mut bad, l2 as usize, place | 1 << 63);
        let path = directory.path().join("bad.qcow2");
        std::fs::write(&path, &bad).unwrap();
        let image = open(&path, &Options::default()).unwrap();
        assert!(image.direct(0, 512, true).is_none());
        let error = image.write_bytes(0, &[0xff; 512]).unwrap_err();
        assert_eq!(corrupt(&error).offset, place);
        assert!(error.to_string().contains("donjon disk check"), "{error}");
        // Nor is anything else written.
        assert!(image.write_bytes(900_000, &[1; 512]).is_err());
        drop(image);
        assert!(matches!(
            open(&path, &Options::default()),
            Err(OpenError::MarkedCorrupt(_))
        ));
        let read_only = Options {
            read_only: true,
            ..Options::default()
        };
        open(&path, &read_only).unwrap();
    }
}

#[test]
fn free_clusters_that_are_tables_are_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut bad = image(directory.path(), 4096);
    let block = be64(&bad, be64(&bad, 48) as usize) as usize;
    bad[block..block + 4096].fill(0);
    let path = directory.path().join("bad.qcow2");
    std::fs::write(&path, &bad).unwrap();
    let image = open(&path, &Options::default()).unwrap();
    let error = image.write_bytes(900_000, &[1; 9000]).unwrap_err();
    assert!(corrupt(&error).what.contains("refcount is zero"), "{error}");
    drop(image);
    let report = manage::check(&path, None, true).unwrap();
    assert!(report.errors > 5 && !report.is_damaged(), "{report:?}");
    open(&path, &Options::default())
        .unwrap()
        .write_bytes(900_000, &[1; 9000])
        .unwrap();
}

#[test]
fn what_cannot_be_opened_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let good = image(directory.path(), 4096);
    let say = |name: &str, options: &Options| open(path(name), options).unwrap_err().to_string();
    let any = Options::default();
    assert!(say("none", &any).contains("donjon disk create"));
    assert!(
        open(directory.path(), &any)
            .unwrap_err()
            .to_string()
            .contains("a directory")
    );
    std::fs::write(path("text"), "hello").unwrap();
    let qcow2 = Options {
        format: Some(crate::Format::Qcow2),
        ..any.clone()
    };
    assert!(say("text", &qcow2).contains("is not a qcow2 image: its content is raw"));
    for len in [4, 71, 103, 112, 4096, 8192] {
        std::fs::write(path("cut"), &good[..len]).unwrap();
        assert!(say("cut", &any).contains("donjon disk check"), "{len}");
    }
    // A circle, and a chain that is too long.
    let how = creation(4096, 3, 16);
    manage::create(&path("0"), 1 << 20, &how).unwrap();
    for i in 1..=100 {
        let made = manage::overlay(&path(&i.to_string()), &(i - 1).to_string(), None, None, &how);
        match i {
            100 => made.unwrap_err(),
            _ => continue,
        };
    }
    let mut first = std::fs::read(path("1")).unwrap();
    let name = be64(&first, 8) as usize;
    assert_eq!(first[name], b'0');
    first[name] = b'2';
    std::fs::write(path("1"), &first).unwrap();
    assert!(say("2", &any).contains("never end"));
    std::fs::remove_file(path("2")).unwrap();
    let error = say("3", &any);
    assert!(
        error.contains("its backing file") && error.contains("does not exist"),
        "{error}"
    );
}

/// The guest of a raw disk whose format nobody named cannot make it another.
#[test]
fn a_raw_disk_stays_raw() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.raw");
    std::fs::write(&path, [0; 5000]).unwrap();
    let header = &image(directory.path(), 4096)[..1024];
    let image = open(&path, &Options::default()).unwrap();
    // A sector that is not whole reads as zeroes and may be written to.
    assert_eq!(image.size(), 5120);
    assert!(image.direct(0, 512, true).is_none() && image.direct(512, 512, true).is_some());
    let refused = image.write_bytes(0, header).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    image.write_bytes(0, &header[..3]).unwrap();
    assert!(image.write_bytes(3, &header[3..]).is_err());
    image.write_bytes(5000, &[7; 120]).unwrap();
    drop(image);
    let named = Options {
        format: Some(crate::Format::Raw),
        ..Options::default()
    };
    let image = open(&path, &named).unwrap();
    image.write_bytes(0, header).unwrap();
    let mut out = [0; 120];
    image.read_bytes(5000, &mut out).unwrap();
    assert_eq!(out, [7; 120]);
    assert!(image.read_bytes(5000, &mut [0; 121]).is_err());
    drop(image);
    open(&path, &named).unwrap();
}
