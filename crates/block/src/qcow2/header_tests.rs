//! Headers that are read and written.

use super::encode::encode;
use super::header::{Compression, Header, HeaderError};
use proptest::prelude::*;

fn sample() -> Header {
    Header {
        version: 3,
        cluster_bits: 16,
        size: 1 << 30,
        l1_entries: 2,
        l1_offset: 0x30000,
        refcount_table: 0x10000,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        compression: Compression::Zlib,
        backing: Some("base.qcow2".into()),
        backing_format: Some("qcow2".into()),
        data_file_name: None,
        bitmaps: None,
    }
}

#[test]
fn headers_round_trip() {
    for version in [2, 3] {
        let header = Header { version, ..sample() };
        let bytes = encode(&header);
        let read = Header::parse(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{header:?}"));
    }
}

#[test]
fn unknown_features_are_named() {
    let mut bytes = encode(&sample());
    bytes[72] = 0x80;
    assert_eq!(
        Header::parse(&bytes).unwrap_err(),
        HeaderError::Unsupported("the feature bit 63".into())
    );
    // The entry of the dirty bit becomes that of bit 63.
    let at = bytes.windows(11).position(|w| w == b"\0\0dirty bit").unwrap();
    bytes[at + 1] = 63;
    let error = Header::parse(&bytes).unwrap_err();
    assert_eq!(
        error,
        HeaderError::Unsupported("the feature \"dirty bit\" (bit 63)".into())
    );
}

#[test]
fn impossible_fields_are_refused() {
    let wrong: [(usize, &[u8]); 14] = [
        (4, &[0, 0, 0, 4]),
        (8, &[0xff; 8]),
        (16, &[0, 0, 4, 0]),
        (20, &[0, 0, 0, 8]),
        (20, &[0, 0, 0, 22]),
        (20, &[0xff; 4]),
        (24, &[0xff; 8]),
        (32, &[0, 0, 0, 2]),
        (36, &[0xff; 4]),
        (40, &[0xff; 8]),
        (40, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        (56, &[0xff; 4]),
        (96, &[0, 0, 0, 7]),
        (100, &[0, 0, 0, 104 - 8]),
    ];
    for (at, bytes) in wrong {
        let mut image = encode(&sample());
        image[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(Header::parse(&image).is_err(), "{at} {bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(at in 4usize..120, patch: [u8; 8], cut in 0usize..600) {
        let mut image = encode(&sample());
        image[at..at + 8].copy_from_slice(&patch);
        image.truncate(cut);
        let _ = Header::parse(&image);
    }
}
