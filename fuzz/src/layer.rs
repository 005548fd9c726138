//! Layers of any content on top of another: they are applied or refused, stay inside the tree and its limits, and
//! what is in the tree then can be written.
#![no_main]

use donjon_ext4::{Limits, Options, Spool, Tree, required_size, write};
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use std::fs::File;

fn file(name: &str) -> File {
    File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).expect("a file in memory"))
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        content: 1 << 20,
        entries: 1000,
    };
    let mut tree = Tree::new(Spool::new(file("spool")), limits);
    // The first byte says where the second layer begins.
    let Some((&blocks, archive)) = bytes.split_first() else {
        return;
    };
    let mut archive = archive.to_vec();
    archive.chunks_exact_mut(512).for_each(seal);
    let (first, second) = archive.split_at((usize::from(blocks) * 512).min(archive.len()));
    for layer in [first, second] {
        if let Err(e) = tree.add_tar(&mut &layer[..]) {
            let _ = e.to_string();
        }
    }
    assert!(tree.content_added() <= limits.content);
    let _ = tree.get("etc/passwd").map_err(|e| e.to_string());
    let Ok(size) = required_size(&tree) else {
        return;
    };
    // Whatever was taken in fits where it is said to fit, but for a lost+found that cannot be one.
    if let Err(e) = write(&tree, &Options::new(size), &file("disk")) {
        assert!(e.to_string().contains("lost+found"), "{e}");
    }
});

/// Makes a header's checksum right, or nothing behind it would ever be reached.
fn seal(block: &mut [u8]) {
    if block[257..262] == *b"ustar" {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}
