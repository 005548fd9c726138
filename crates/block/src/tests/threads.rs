//! Several threads at once.

use super::{Random, creation, is_clean};
use crate::{Image, Options, manage, open};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SIZE: u64 = 8 << 20;
/// Each thread owns every fourth piece of this size: clusters are shared by all.
const PIECE: u64 = 1536;

fn thread(image: &Image, number: u64, rounds: u64) -> Vec<(u64, u8)> {
    let mut random = Random(number * 7919 + 1);
    let pieces = SIZE / PIECE / 4;
    let mut written = std::collections::BTreeMap::new();
    for _ in 0..rounds {
        let offset = (random.below(pieces) * 4 + number) * PIECE;
        let byte = random.below(255) as u8 + 1;
        let data = [byte; PIECE as usize];
        match image.direct(offset, PIECE, true) {
            Some(direct) if random.below(2) == 0 => direct.file.write_all_at(&data, direct.at).unwrap(),
            _ if random.below(8) == 0 => {
                image.write_zeroes(offset, PIECE, true).unwrap();
                written.insert(offset, 0);
                continue;
            }
            _ => image.write_bytes(offset, &data).unwrap(),
        }
        written.insert(offset, byte);
        if random.below(64) == 0 {
            image.flush().unwrap();
        }
        let mut out = [0; PIECE as usize];
        image.read_bytes(offset, &mut out).unwrap();
        assert_eq!(out, data);
    }
    written.into_iter().collect()
}

#[test]
fn writes_into_the_same_clusters_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.raw");
    std::fs::write(&base, vec![0xaa; SIZE as usize]).unwrap();
    for cluster in [4096, 64 << 10] {
        let path = directory.path().join(format!("{cluster}.qcow2"));
        manage::overlay(&path, "base.raw", None, None, &creation(cluster, 3, 16)).unwrap();
        let image = open(&path, &Options::default()).unwrap();
        let written: Vec<(u64, u8)> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|n| (n, image.clone())).collect();
            let threads: Vec<_> = threads
                .into_iter()
                .map(|(n, image)| s.spawn(move || thread(&image, n, 1200)))
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        let mut model = vec![0xaa; SIZE as usize];
        for (offset, byte) in written {
            model[offset as usize..(offset + PIECE) as usize].fill(byte);
        }
        let mut out = vec![0; SIZE as usize];
        image.read_bytes(0, &mut out).unwrap();
        assert!(out == model);
        drop(image);
        is_clean(&path);
    }
}

/// Whole clusters come and go while others are read: nobody ever sees what is another's.
#[test]
fn a_cluster_is_not_used_again_while_somebody_transfers_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    manage::create(&path, 1 << 20, &creation(4096, 3, 16)).unwrap();
    let image = open(&path, &Options::default()).unwrap();
    image.write_bytes(0, &[1; 4096]).unwrap();
    image.flush().unwrap();
    let pinned = image.direct(0, 4096, false).unwrap();
    image.discard(0, 4096).unwrap();
    for i in 1..20 {
        image.flush().unwrap();
        image.write_bytes(i * 4096, &[2; 4096]).unwrap();
    }
    image.flush().unwrap();
    let mut out = [0; 4096];
    pinned.file.read_exact_at(&mut out, pinned.at).unwrap();
    assert_eq!(out, [1; 4096]);
    let place = pinned.at;
    drop(pinned);
    // Now it is used again.
    image.discard(20 * 4096, 4096).unwrap();
    let again = (20..40).any(|i| {
        image.write_bytes(i * 4096, &[3; 4096]).unwrap();
        image.flush().unwrap();
        image.direct(i * 4096, 4096, false).unwrap().at == place
    });
    assert!(again);
    drop(image);
    is_clean(&path);
}

#[test]
fn clusters_that_come_and_go_are_never_anothers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    manage::create(&path, 1 << 20, &creation(512, 3, 16)).unwrap();
    let image = open(&path, &Options::default()).unwrap();
    std::thread::scope(|s| {
        for n in 0..4u64 {
            let image: Arc<Image> = image.clone();
            s.spawn(move || {
                let mut random = Random(n + 99);
                for i in 0..600 {
                    let at = (random.below(16) * 4 + n) * 4096;
                    image.write_bytes(at, &[n as u8 + 1; 4096]).unwrap();
                    let mut out = [0; 4096];
                    image.read_bytes(at, &mut out).unwrap();
                    assert_eq!(out, [n as u8 + 1; 4096]);
                    image.discard(at, 4096).unwrap();
                    image.read_bytes(at, &mut out).unwrap();
                    assert!(out == [0; 4096] || out == [n as u8 + 1; 4096]);
                    if i % 50 == 0 {
                        image.flush().unwrap();
                    }
                }
            });
        }
    });
    drop(image);
    is_clean(&path);
}
