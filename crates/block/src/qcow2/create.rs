//! A new image's tables.

use super::bytes;
use super::encode::encode;
use super::entry::Geometry;
use super::header::{self, Compression, Header, MAX_L1, MAX_REFCOUNT_TABLE};
use super::width::save;
use crate::error::OpenError;
use crate::store::Store;
use std::io;

/// What a new image is like.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub size: u64,
    pub version: u32,
    pub cluster_size: u64,
    pub refcount_bits: u32,
    pub compression: Compression,
    /// The backing file's name as it is stored, and its format.
    pub backing: Option<(String, &'static str)>,
}

/// Writes an image without any data to an empty file.
pub(crate) fn create(store: &Store, layout: &Layout) -> Result<(), OpenError> {
    let (mut header, blocks) = plan(layout)?;
    let head = encode(&header);
    if head.len() as u64 > layout.cluster_size {
        return Err(OpenError::Argument(
            "the backing file's name does not fit into the header; use larger clusters: --cluster-size 64K"
                .into(),
        ));
    }
    header.backing = None;
    write(store, &header, blocks, &head).map_err(OpenError::io("write", store.path()))
}

fn plan(layout: &Layout) -> Result<(Header, u64), OpenError> {
    let wrong = |text: String| Err(OpenError::Argument(text));
    let cluster = layout.cluster_size;
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return wrong(format!(
            "{cluster} is no cluster size: it is a power of two from 512 to 2M, such as --cluster-size 64K"
        ));
    }
    if !layout.refcount_bits.is_power_of_two() || layout.refcount_bits > 64 {
        return wrong(format!(
            "refcounts have 1, 2, 4, 8, 16, 32 or 64 bits, not {}",
            layout.refcount_bits
        ));
    }
    if layout.version == 2 && (layout.refcount_bits != 16 || layout.compression != Compression::Zlib) {
        return wrong("qcow2 version 2 has refcounts of 16 bits and zlib only".into());
    }
    if let Some((name, _)) = &layout.backing
        && name.len() > 1023
    {
        return wrong(format!(
            "the backing file's name has {} bytes; there is room for 1023",
            name.len()
        ));
    }
    let mut header = Header {
        version: layout.version,
        cluster_bits: cluster.trailing_zeros(),
        size: layout.size,
        l1_entries: 0,
        l1_offset: 0,
        refcount_table: cluster,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: layout.refcount_bits.trailing_zeros(),
        compression: layout.compression,
        backing: layout.backing.as_ref().map(|(name, _)| name.clone()),
        backing_format: layout.backing.as_ref().map(|(_, format)| (*format).to_owned()),
        data_file_name: None,
        bitmaps: None,
    };
    if layout.compression == Compression::Zstd {
        header.incompatible |= header::COMPRESSION_TYPE;
    }
    let geometry = Geometry::of(&header);
    // A disk of size 0 has a table, too.
    let entries = geometry.l1_entries(layout.size).max(1);
    if entries * 8 > MAX_L1 {
        let max = (MAX_L1 / 8 * geometry.l2_span()) >> 30;
        return wrong(format!(
            "a disk with clusters of {cluster} bytes has {max}G at most; use larger ones: --cluster-size 2M"
        ));
    }
    header.l1_entries = entries as u32;
    let l1 = (entries * 8).div_ceil(cluster);
    let (mut table, mut blocks) = (1, 1);
    loop {
        let b = (1 + table + blocks + l1).div_ceil(geometry.refcounts());
        let t = (b * 8).div_ceil(cluster);
        if (t, b) == (table, blocks) {
            break;
        }
        (table, blocks) = (t, b);
    }
    if table * cluster > MAX_REFCOUNT_TABLE.max(cluster) {
        return wrong(
            "the tables of a disk of that size are too large; use larger clusters: --cluster-size 2M".into(),
        );
    }
    header.refcount_table_clusters = table as u32;
    header.l1_offset = (1 + table + blocks) * cluster;
    Ok((header, blocks))
}

fn write(store: &Store, header: &Header, blocks: u64, head: &[u8]) -> io::Result<()> {
    let geometry = Geometry::of(header);
    let cluster = geometry.cluster();
    let first = 1 + u64::from(header.refcount_table_clusters);
    let table: Vec<u64> = (0..blocks).map(|i| (first + i) * cluster).collect();
    let end = header.l1_offset + (u64::from(header.l1_entries) * 8).next_multiple_of(cluster);
    // The L1 table, the rest of the header and of the refcount table are holes.
    store.set_len(end)?;
    store.write(0, head)?;
    store.write(header.refcount_table, &bytes::bytes(&table))?;
    for (i, at) in table.iter().enumerate() {
        let mut block = vec![0; cluster as usize];
        let from = i as u64 * geometry.refcounts();
        for used in from..(end / cluster).min(from + geometry.refcounts()) {
            save(&mut block, (used - from) as usize, geometry.refcount_order, 1);
        }
        store.write(*at, &block)?;
    }
    store.sync()
}
