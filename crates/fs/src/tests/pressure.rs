//! Fewer descriptors than nodes.

use super::client::{Client, LIMITS};
use crate::abi::ROOT;
use crate::{Limits, ShareOptions};
use rustix::io::Errno;
use std::fs;

const FEW: Limits = Limits {
    descriptors: 16,
    ..LIMITS
};

/// A guest that knows 400 files in 20 directories; their nodes, and those of the directories.
fn crowded() -> (Client, Vec<u64>, Vec<u64>) {
    let c = Client::with(&ShareOptions::default(), &FEW);
    let (mut files, mut directories) = (vec![], vec![]);
    for d in 0..20 {
        let directory = c.mkdir(ROOT, &format!("d{d}"), 0o755).unwrap().node;
        directories.push(directory);
        for f in 0..20 {
            let (entry, handle) = c.create(directory, &format!("f{f}"), 2, 0o644).unwrap();
            c.write(handle, 0, format!("{d}.{f}").as_bytes()).unwrap();
            c.release(handle).unwrap();
            files.push(entry.node);
        }
    }
    (c, files, directories)
}

fn content(c: &Client, node: u64) -> Result<String, Errno> {
    let handle = c.open(node, 0)?;
    let content = c.read(handle, 0, 100)?;
    c.release(handle)?;
    Ok(String::from_utf8(content).unwrap())
}

#[test]
fn files_are_found_again_by_their_names() {
    let (c, files, directories) = crowded();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let ours = descriptors.flatten().filter_map(|f| fs::read_link(f.path()).ok());
    let ours = ours.filter(|p| p.starts_with(c.place.path())).count();
    assert!(ours <= 16 + 2, "{ours} descriptors");
    for (n, node) in files.iter().enumerate() {
        assert_eq!(content(&c, *node).unwrap(), format!("{}.{}", n / 20, n % 20));
    }
    // Also after the guest has renamed what they are in.
    c.rename(ROOT, "d3", directories[7], "moved", 0).unwrap();
    c.rename(ROOT, "d7", ROOT, "seven", 0).unwrap();
    c.rename(directories[7], "f0", ROOT, "top", 0).unwrap();
    for (n, node) in files.iter().enumerate() {
        assert_eq!(content(&c, *node).unwrap(), format!("{}.{}", n / 20, n % 20));
    }
}

#[test]
fn what_the_host_has_replaced_is_stale() {
    let (c, files, _) = crowded();
    // Still there, so that its number is not used again.
    fs::rename(c.host("d0/f0"), c.host("elsewhere")).unwrap();
    fs::write(c.host("d0/f0"), "another").unwrap();
    fs::remove_file(c.host("d0/f1")).unwrap();
    fs::rename(c.host("d1"), c.host("gone")).unwrap();
    for (n, node) in files.iter().enumerate().rev() {
        let result = content(&c, *node);
        match n {
            0 | 1 | 20..40 => assert_eq!(result, Err(Errno::STALE), "{n}"),
            _ => assert!(result.is_ok(), "{n}"),
        }
    }
    // Looked up anew, they are there.
    assert_eq!(content(&c, c.find("d0/f0").unwrap()).unwrap(), "another");
    assert_eq!(c.find("elsewhere").unwrap(), files[0]);
    assert_eq!(content(&c, files[0]).unwrap(), "0.0");
    c.find("gone").unwrap();
    assert_eq!(content(&c, files[25]).unwrap(), "1.5");
}

#[test]
fn what_has_no_name_is_kept_open() {
    let (c, files, directories) = crowded();
    for f in 0..5 {
        c.unlink(directories[4], &format!("f{f}")).unwrap();
    }
    c.rename(directories[4], "f9", directories[4], "f8", 0).unwrap();
    for node in &files {
        let _ = content(&c, *node);
    }
    for (f, node) in files[80..85].iter().enumerate() {
        assert_eq!(content(&c, *node).unwrap(), format!("4.{f}"));
    }
    assert_eq!(content(&c, files[88]).unwrap(), "4.8", "replaced");
    assert_eq!(content(&c, files[89]).unwrap(), "4.9");
    // More than may be kept: some are lost, nothing else is.
    for (n, directory) in directories.iter().enumerate() {
        for f in 10..20 {
            c.unlink(*directory, &format!("f{f}")).unwrap();
        }
        assert_eq!(content(&c, files[n * 20 + 6]).unwrap(), format!("{n}.6"));
    }
    let lost = files
        .iter()
        .filter(|n| content(&c, **n) == Err(Errno::STALE))
        .count();
    assert!((1..=206).contains(&lost), "{lost}");
}

#[test]
fn deep_directories_are_found_again() {
    let c = Client::with(&ShareOptions::default(), &FEW);
    let (mut node, mut nodes) = (ROOT, vec![]);
    for n in 0..300 {
        node = c.mkdir(node, &format!("{n}"), 0o755).unwrap().node;
        nodes.push(node);
    }
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(c.names(*node).unwrap().len(), usize::from(n < 299), "{n}");
    }
    // Those above stay as long as those below are known.
    for node in &nodes[..299] {
        c.forget(*node, 1);
    }
    for n in 0..20 {
        c.mkdir(ROOT, &format!("other{n}"), 0o755).unwrap();
    }
    assert_eq!(c.names(nodes[299]).unwrap(), [""; 0]);
    c.forget(nodes[299], 1);
    assert_eq!(c.server.nodes.list().0.len(), 20);
}

#[test]
fn many_at_once_leave_nothing_behind() {
    let c = Client::with(&ShareOptions::default(), &FEW);
    std::thread::scope(|s| {
        for thread in 0..4u64 {
            let c = c.other();
            s.spawn(move || disturb(&c, thread + 1));
        }
    });
    let (nodes, _) = c.server.nodes.list();
    assert!(nodes.is_empty(), "{nodes:?}");
    let (handles, _) = c.server.handles.list();
    assert!(handles.is_empty(), "{handles:?}");
    for name in c.names(ROOT).unwrap() {
        c.lookup(ROOT, &name).unwrap();
    }
}

/// Changes names that others change too, and forgets all that it has come to know.
fn disturb(c: &Client, mut seed: u64) {
    let mut known = vec![];
    for _ in 0..1500 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let pick = |shift: u32, of: u64| (seed >> shift) % of;
        let name = |shift: u32| ["a", "b", "c", "d", "e", "f"][pick(shift, 6) as usize];
        let parents: Vec<u64> = [ROOT]
            .into_iter()
            .chain(known.iter().copied().rev().take(8))
            .collect();
        let parent = |shift: u32| parents[pick(shift, parents.len() as u64) as usize];
        let (directory, other) = (parent(20), parent(24));
        match pick(60, 16) {
            0..4 => known.extend(c.lookup(directory, name(30)).map(|e| e.node)),
            4..7 => known.extend(c.mkdir(directory, name(30), 0o755).map(|e| e.node)),
            7..9 => {
                if let Ok((entry, handle)) = c.create(directory, name(30), 2, 0o644) {
                    known.push(entry.node);
                    let _ = c.write(handle, 0, b"x");
                    c.release(handle).unwrap();
                }
            }
            9 => known.extend(c.link(other, directory, name(30)).map(|e| e.node)),
            10 => drop(c.unlink(directory, name(30))),
            11 => drop(c.rmdir(directory, name(30))),
            12 => drop(c.rename(directory, name(30), other, name(36), pick(40, 3) as u32)),
            13 => drop(c.getattr(directory)),
            14 => drop(c.names(directory)),
            _ => {
                if !known.is_empty() {
                    c.forget(known.swap_remove(pick(30, known.len() as u64) as usize), 1);
                }
            }
        }
    }
    for node in known {
        c.forget(node, 1);
    }
}
