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
