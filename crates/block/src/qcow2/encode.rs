//! The header of a new image.

use super::header::{BACKING_FORMAT, Compression, END, FEATURE_NAMES, Header};

/// A new image's header cluster, up to the backing file's name.
pub(crate) fn encode(header: &Header) -> Vec<u8> {
    let mut out = vec![];
    let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
    put(b"QFI\xfb");
    put(&header.version.to_be_bytes());
    // The backing file's name, known at the end.
    put(&[0; 12]);
    put(&header.cluster_bits.to_be_bytes());
    put(&header.size.to_be_bytes());
    put(&0u32.to_be_bytes());
    put(&header.l1_entries.to_be_bytes());
    put(&header.l1_offset.to_be_bytes());
    put(&header.refcount_table.to_be_bytes());
    put(&header.refcount_table_clusters.to_be_bytes());
    put(&header.snapshots.to_be_bytes());
    put(&header.snapshots_offset.to_be_bytes());
    if header.version >= 3 {
        put(&header.feature_bytes());
        put(&header.refcount_order.to_be_bytes());
        put(&112u32.to_be_bytes());
        put(&[
            u8::from(header.compression == Compression::Zstd),
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
    }
    let mut extension = |kind: u32, data: &[u8]| {
        put(&kind.to_be_bytes());
        put(&(data.len() as u32).to_be_bytes());
        put(data);
        put(&vec![0; data.len().next_multiple_of(8) - data.len()]);
    };
    if let Some(format) = &header.backing_format {
        extension(BACKING_FORMAT, format.as_bytes());
    }
    // 512-byte clusters have no room for it beside a backing file's name.
    if header.version >= 3 && header.cluster_bits > 10 {
        extension(FEATURE_NAMES, &feature_names());
    }
    extension(END, &[]);
    if let Some(name) = &header.backing {
        let at = out.len() as u64;
        out[8..16].copy_from_slice(&at.to_be_bytes());
        out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    out
}

fn feature_names() -> Vec<u8> {
    let names: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut table = vec![];
    for (kind, bit, name) in names {
        let mut entry = [0; 48];
        entry[..2].copy_from_slice(&[kind, bit]);
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
        table.extend_from_slice(&entry);
    }
    table
}
