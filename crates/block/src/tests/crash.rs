//! A file as it is after a crash: with every write up to some moment (the process was killed), or with those that
//! were synced and any of the others (power was lost).

use super::model::Model;
use super::{Random, Recorder, check, creation, is_clean, open_watched};
use crate::store::Event;
use crate::{Image, Options, manage, open};
use std::path::Path;
use std::sync::Arc;

/// The content after some of the events.
fn apply(content: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(at, data) => {
            let end = *at as usize + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(data);
        }
        Event::Zero(at, len) => {
            let end = (at + len).min(content.len() as u64) as usize;
            content[(*at as usize).min(end)..end].fill(0);
        }
        Event::SetLen(len) => content.resize(*len as usize, 0),
        Event::Sync => {}
    }
}

/// Sectors reach the disk one by one.
fn sectors(event: &Event) -> Vec<Event> {
    let Event::Write(at, data) = event else {
        return vec![event.clone()];
    };
    let mut pieces = vec![];
    let mut from = 0;
    while from < data.len() {
        let end = (from + 512 - (*at as usize + from) % 512).min(data.len());
        pieces.push(Event::Write(at + from as u64, data[from..end].to_vec()));
        from = end;
    }
    pieces
}

/// A state of the file, and the number of events before it.
fn states(start: &[u8], events: &[Event], random: &mut Random) -> Vec<(String, usize, Vec<u8>)> {
    let mut all = vec![];
    let (mut written, mut synced) = (start.to_vec(), start.to_vec());
    let mut pending: Vec<Event> = vec![];
    for (i, event) in events.iter().enumerate() {
        apply(&mut written, event);
        pending.extend(sectors(event));
        if matches!(event, Event::Sync) {
            synced = written.clone();
            pending.clear();
        }
        all.push((format!("killed after {i}"), i, written.clone()));
        for (kind, odds) in [("half", 2), ("few", 8)] {
            let mut content = synced.clone();
            for event in pending.iter().filter(|_| random.below(odds) == 0) {
                apply(&mut content, event);
            }
            all.push((format!("power lost after {i}, {kind} of it written"), i, content));
        }
    }
    all
}

/// What had been flushed when so many events were over, and what was written since.
struct Flushed {
    events: usize,
    model: Vec<u8>,
}

/// Byte by byte the content is that of the last flush, or one that was written later.
fn has_what_was_flushed(content: &[u8], flushed: &[u8], later: &[(usize, Vec<u8>)], context: &str) {
    for (at, byte) in content.iter().enumerate() {
        if *byte == flushed[at] {
            continue;
        }
        let ok = later
            .iter()
            .any(|(start, data)| at.checked_sub(*start).and_then(|i| data.get(i)) == Some(byte));
        assert!(ok, "{context}: {byte} at {at:#x}, {} was flushed", flushed[at]);
    }
}

fn crash(cluster: u64, version: u32, overlay: bool, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    let how = creation(cluster, version, 16);
    let size = cluster * 48;
    let mut model = Model(vec![0; size as usize]);
    if overlay {
        model.0.fill(0x77);
        std::fs::write(directory.path().join("base.raw"), &model.0).unwrap();
        manage::overlay(&path, "base.raw", None, None, &how).unwrap();
    } else {
        manage::create(&path, size, &how).unwrap();
    }
    let start = std::fs::read(&path).unwrap();
    let recorder = Arc::new(Recorder::default());
    let image = open_watched(&path, &recorder);
    let mut random = Random(seed);
    let mut flushed = vec![Flushed {
        events: 0,
        model: model.0.clone(),
    }];
    // When a write began (in events), and what it wrote.
    let mut writes: Vec<(usize, usize, Vec<u8>)> = vec![];
    for i in 0..40 {
        let now = recorder.events.lock().unwrap().len();
        let offset = random.below(size);
        let len = 1 + random.below((size - offset).min(cluster * 3)) as usize;
        let range = offset as usize..offset as usize + len;
        match random.below(8) {
            0..=4 => {
                let data = vec![(i % 255) as u8 + 1; len];
                writes.push((now, offset as usize, data.clone()));
                model.0[range].copy_from_slice(&data);
                image.write_bytes(offset, &data).unwrap();
            }
            5 => {
                writes.push((now, offset as usize, vec![0; len]));
                model.0[range].fill(0);
                image.write_zeroes(offset, len as u64, true).unwrap();
            }
            6 => {
                writes.push((now, offset as usize, vec![0; len]));
                image.discard(offset, len as u64).unwrap();
                image.read_bytes(offset, &mut model.0[range]).unwrap();
            }
            _ => {
                image.flush().unwrap();
                let events = recorder.events.lock().unwrap().len();
                flushed.push(Flushed {
                    events,
                    model: model.0.clone(),
                });
            }
        }
    }
    drop(image);
    is_clean(&path);
    let events = recorder.events.lock().unwrap().clone();
    let crashed = directory.path().join("crashed.qcow2");
    for (what, at, content) in states(&start, &events, &mut random) {
        std::fs::write(&crashed, &content).unwrap();
        let report = check(&crashed);
        assert_eq!(report.errors, 0, "{what}: {:#?}", report.findings);
        let last = flushed.iter().rev().find(|f| f.events <= at + 1).unwrap();
        // A write that began before the flush ended may be older than it, but then it is in the model.
        let later: Vec<(usize, Vec<u8>)> = writes
            .iter()
            .filter(|w| w.0 >= last.events && w.0 <= at + 1)
            .map(|w| (w.1, w.2.clone()))
            .collect();
        let mut out = vec![0; size as usize];
        let image = open(&crashed, &Options::default()).unwrap();
        image.read_bytes(0, &mut out).unwrap();
        has_what_was_flushed(&out, &last.model, &later, &what);
        drop(image);
        if version >= 3 {
            // Opened for writing, it was repaired.
            is_clean(&crashed);
        }
    }
}

#[test]
fn what_was_flushed_survives() {
    crash(512, 3, false, 3);
    crash(4096, 3, false, 4);
}

#[test]
fn what_was_flushed_survives_in_overlays() {
    crash(512, 3, true, 5);
    crash(4096, 3, true, 6);
}

#[test]
fn what_was_flushed_survives_in_version_2() {
    crash(512, 2, false, 7);
    crash(4096, 2, true, 8);
}

fn fill(image: &Image, random: &mut Random, model: &mut Model) -> std::io::Result<()> {
    let size = model.0.len() as u64;
    let offset = random.below(size);
    let len = (1 + random.below((size - offset).min(5000))) as usize;
    let range = offset as usize..offset as usize + len;
    let before = model.0[range.clone()].to_vec();
    let mut wanted = vec![random.below(255) as u8 + 1; len];
    let done = match random.below(6) {
        0 => image.flush(),
        1 => {
            wanted.fill(0);
            image.write_zeroes(offset, len as u64, true)
        }
        _ => image.write_bytes(offset, &wanted),
    };
    let mut out = vec![0; len];
    image.read_bytes(offset, &mut out)?;
    model.0[range.clone()].copy_from_slice(&out);
    // What a failed write left in place is the old or the new.
    let old_or_new = out
        .iter()
        .zip(&before)
        .zip(&wanted)
        .all(|((o, b), w)| o == b || o == w);
    assert!(old_or_new);
    done
}

#[test]
fn a_full_disk_leaves_everything_consistent() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 1..40u64 {
        let path = directory.path().join(format!("{seed}.qcow2"));
        let cluster = if seed % 2 == 0 { 512 } else { 4096 };
        manage::create(&path, 1 << 20, &creation(cluster, 3, 16)).unwrap();
        let recorder = Arc::new(Recorder::default());
        let image = open_watched(&path, &recorder);
        let mut random = Random(seed);
        let mut model = Model(vec![0; 1 << 20]);
        let mut failed = 0;
        for _ in 0..60 {
            *recorder.fail_after.lock().unwrap() = Some(random.below(6));
            if let Err(e) = fill(&image, &mut random, &mut model) {
                assert_eq!(e.kind(), std::io::ErrorKind::StorageFull, "{e}");
                failed += 1;
            }
            // There is room again: the same can be done.
            *recorder.fail_after.lock().unwrap() = None;
            let offset = random.below(1 << 19);
            model.0[offset as usize..offset as usize + 3000].fill(9);
            image.write_bytes(offset, &[9; 3000]).unwrap();
        }
        assert!(failed > 5);
        image.flush().unwrap();
        assert_same_as_file(&path, &image, &model);
    }
}

fn assert_same_as_file(path: &Path, image: &Image, model: &Model) {
    super::model::same(image, model);
    image.close().unwrap();
    let report = check(path);
    assert_eq!((report.errors, report.leaks), (0, 0), "{:#?}", report.findings);
    let again = open(
        path,
        &Options {
            lock: false,
            read_only: true,
            format: None,
        },
    )
    .unwrap();
    super::model::same(&again, model);
}
