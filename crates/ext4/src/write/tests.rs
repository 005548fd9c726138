use super::geometry::{GROUP_BLOCKS, Geometry};
use super::*;
use crate::{Limits, Metadata, Spool};
use proptest::prelude::*;

proptest! {
    /// Whatever the size, everything has its place and nothing two of them.
    #[test]
    fn tables_do_not_overlap(size in (geometry::MIN_SIZE..=8u64 << 40), inodes in 0u32..100_000) {
        let Ok(geometry) = Geometry::new(&Options::new(size), inodes) else {
            prop_assert!(size < 1 << 30, "a disk of this size has the inodes");
            return Ok(());
        };
        prop_assert!(geometry.inodes() >= u64::from(inodes));
        prop_assert!(geometry.blocks * BLOCK <= size && size - geometry.blocks * BLOCK < 64 << 20);
        let last = geometry.groups - 1;
        for group in [0, 1, 2, 15, 16, 17, 25, 49, last / 2, last.saturating_sub(1), last] {
            if group > last {
                continue;
            }
            let first = group >> geometry.log_flex << geometry.log_flex;
            let start = geometry.group_start(first) + geometry.super_blocks(first);
            let end = geometry.group_start(first) + geometry.prefix(first);
            prop_assert!(end < geometry.group_end(first));
            prop_assert!(geometry.prefix(group) < GROUP_BLOCKS);
            let table = geometry.inode_table(group);
            prop_assert!(start <= geometry.block_bitmap(group));
            prop_assert!(geometry.block_bitmap(group) < geometry.inode_bitmap(group));
            prop_assert!(geometry.inode_bitmap(group) < table && table + geometry.table_blocks <= end);
        }
    }
}

#[test]
fn copies_of_the_superblock_are_where_linux_looks() {
    let with: Vec<u64> = (0..130).filter(|g| geometry::has_superblock(*g)).collect();
    assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
}

#[test]
fn what_cannot_be_made_is_told() {
    let out = tempfile::tempfile().expect("a disk");
    let mut tree = Tree::new(
        Spool::new(tempfile::tempfile().expect("a spool")),
        Limits::default(),
    );
    let error = |tree: &Tree, size| {
        write(tree, &Options::new(size), &out)
            .expect_err("refused")
            .to_string()
    };
    let size = "a disk of 1000 bytes cannot be made: choose a size from 16 MiB to 64 TiB";
    assert_eq!(error(&tree, 1000), size);
    assert!(error(&tree, (64 << 40) + 1).contains("choose a size"));
    let content = tree.store(&mut &vec![1; 20 << 20][..]).expect("stored");
    tree.insert("large", Kind::File(content), Metadata::new(0))
        .expect("inserted");
    assert_eq!(
        error(&tree, 16 << 20),
        "the files do not fit on a disk of 16 MiB; make it larger"
    );
    let needed = required_size(&tree).expect("a size");
    assert!((24 << 20..32 << 20).contains(&needed), "{needed}");
    write(&tree, &Options::new(needed), &out).expect("written");
    let label = Options {
        label: "seventeen letters".into(),
        ..Options::new(needed)
    };
    assert!(matches!(write(&tree, &label, &out), Err(WriteError::Options)));
    tree.insert("lost+found", Kind::Fifo, Metadata::new(0))
        .expect("inserted");
    assert!(error(&tree, 64 << 20).contains("/lost+found is not a directory"));
}
