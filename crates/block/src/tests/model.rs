//! Random operations beside a plain model of the disk.

use super::{Random, creation, is_clean};
use crate::manage;
use crate::{Image, Options, open};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk should have.
pub struct Model(pub Vec<u8>);

/// One random operation on both.
pub fn step(image: &Image, model: &mut Model, random: &mut Random) {
    let size = model.0.len() as u64;
    let long = random.below(4) == 0;
    let offset = random.below(size);
    let len = 1 + random.below((size - offset).min(if long { 400_000 } else { 9000 }));
    let range = offset as usize..(offset + len) as usize;
    match random.below(10) {
        0..=4 => {
            let byte = random.below(255) as u8 + 1;
            model.0[range.clone()].fill(byte);
            image.write_bytes(offset, &model.0[range]).unwrap();
        }
        5 => {
            model.0[range].fill(0);
            image.write_zeroes(offset, len, random.below(2) == 0).unwrap();
        }
        6 => {
            image.discard(offset, len).unwrap();
            let mut now = vec![0; len as usize];
            image.read_bytes(offset, &mut now).unwrap();
            // Any of it may be gone, and only of it.
            model.0[range].copy_from_slice(&now);
        }
        7 => image.flush().unwrap(),
        8 => direct(image, model, offset, len, random),
        _ => {
            let mut out = vec![0xee; len as usize];
            image.read_bytes(offset, &mut out).unwrap();
            assert!(out == model.0[range], "{len} bytes at {offset:#x}");
        }
    }
}

fn direct(image: &Image, model: &mut Model, offset: u64, len: u64, random: &mut Random) {
    use std::os::unix::fs::FileExt;
    let range = offset as usize..(offset + len) as usize;
    if let Some(direct) = image.direct(offset, len, true) {
        model.0[range.clone()].fill(random.below(256) as u8);
        direct
            .file
            .write_all_at(&model.0[range.clone()], direct.at)
            .unwrap();
    }
    if let Some(direct) = image.direct(offset, len, false) {
        let mut out = vec![0; len as usize];
        direct.file.read_exact_at(&mut out, direct.at).unwrap();
        assert!(out == model.0[range], "{len} bytes at {offset:#x}");
    }
}

#[track_caller]
pub fn same(image: &Image, model: &Model) {
    let mut out = vec![0; model.0.len()];
    image.read_bytes(0, &mut out).unwrap();
    let differ = out.iter().zip(&model.0).position(|(a, b)| a != b);
    assert_eq!(differ, None, "{image:?}");
}

fn reopen(path: &Path) -> Arc<Image> {
    open(path, &Options::default()).unwrap()
}

/// A chain of images in which each step works on the topmost.
fn run(cluster_size: u64, version: u32, refcount_bits: u32, size: u64, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let how = creation(cluster_size, version, refcount_bits);
    let mut random = Random(seed);
    let mut path: PathBuf = directory.path().join("0.qcow2");
    manage::create(&path, size, &how).unwrap();
    let mut model = Model(vec![0; size as usize]);
    for layer in 1..4 {
        let mut image = reopen(&path);
        for i in 0..150 {
            step(&image, &mut model, &mut random);
            if i % 50 == 49 {
                drop(image);
                is_clean(&path);
                image = reopen(&path);
                same(&image, &model);
            }
        }
        // Larger and smaller.
        let new = size / 512 / 2 * 512 + random.below(size / 512) * 512;
        image.resize(new).unwrap();
        model.0.resize(new as usize, 0);
        same(&image, &model);
        drop(image);
        is_clean(&path);
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        path = directory.path().join(format!("{layer}.qcow2"));
        let larger = new + random.below(2) * 100 * 512;
        manage::overlay(&path, &name, None, Some(larger), &how).unwrap();
        model.0.resize(larger as usize, 0);
    }
}

#[test]
fn small_clusters_and_all_refcount_widths() {
    for (order, seed) in (0..=6).zip(1..) {
        run(512, 3, 1 << order, 1 << 20, seed);
    }
}

#[test]
fn usual_clusters() {
    run(64 << 10, 3, 16, 5 << 20, 77);
    run(4096, 3, 16, 3 << 20, 78);
    run(2 << 20, 3, 16, 9 << 20, 79);
}

#[test]
fn version_2() {
    run(64 << 10, 2, 16, 4 << 20, 80);
    run(512, 2, 16, 1 << 20, 81);
}
