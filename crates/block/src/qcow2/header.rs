//! The header cluster (qcow2 specification, "Header", "Header extensions", "Feature name table").

use super::bytes::{be32, be64};

/// Largest L1 table, as QEMU has it.
pub(crate) const MAX_L1: u64 = 32 << 20;
/// Largest refcount table, as QEMU has it.
pub(crate) const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Most snapshots, as QEMU has it.
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;

/// Incompatible features.
pub(crate) const DIRTY: u64 = 1 << 0;
pub(crate) const CORRUPT: u64 = 1 << 1;
pub(crate) const DATA_FILE: u64 = 1 << 2;
pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
pub(crate) const EXTENDED_L2: u64 = 1 << 4;
/// Compatible features.
pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear features.
pub(crate) const BITMAPS: u64 = 1 << 0;
pub(crate) const RAW_DATA_FILE: u64 = 1 << 1;

pub(super) const END: u32 = 0;
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS_EXTENSION: u32 = 0x2385_2875;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// Where fields are that are changed in place.
pub(crate) mod at {
    pub(crate) const SIZE: u64 = 24;
    pub(crate) const REFCOUNT_TABLE: u64 = 48;
    pub(crate) const FEATURES: u64 = 72;
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Deflate, with a window of 4 KiB.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// The bitmaps extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bitmaps {
    pub count: u32,
    pub directory_size: u64,
    pub directory: u64,
}

/// A header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub l1_entries: u32,
    pub l1_offset: u64,
    pub refcount_table: u64,
    pub refcount_table_clusters: u32,
    pub snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub refcount_order: u32,
    pub compression: Compression,
    pub backing: Option<String>,
    pub backing_format: Option<String>,
    pub data_file_name: Option<String>,
    pub bitmaps: Option<Bitmaps>,
}

/// Why a header is no good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// What is wrong, and where.
    Wrong(&'static str, u64),
    /// What is not supported.
    Unsupported(String),
}

use HeaderError::Wrong;

impl Header {
    /// Reads the first cluster, or as much of it as there is.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < 72 {
            return Err(Wrong("the header is cut off", bytes.len() as u64));
        }
        if bytes[..4] != *b"QFI\xfb" {
            return Err(Wrong("there is no qcow2 signature", 0));
        }
        let version = be32(bytes, 4);
        let header_length = match version {
            2 => 72,
            3 if bytes.len() < 104 => return Err(Wrong("the header is cut off", bytes.len() as u64)),
            3 => be32(bytes, 100) as usize,
            n => return Err(HeaderError::Unsupported(format!("qcow version {n}"))),
        };
        let cluster_bits = be32(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(match cluster_bits {
                22..=30 => {
                    HeaderError::Unsupported(format!("a cluster size of {}M", 1u32 << (cluster_bits - 20)))
                }
                _ => Wrong("the cluster size is not between 512 bytes and 2 MiB", 20),
            });
        }
        let bytes = &bytes[..bytes.len().min(1 << cluster_bits)];
        if version == 3 && (header_length < 104 || header_length % 8 != 0) || header_length > bytes.len() {
            return Err(Wrong("the header's length is impossible", 100));
        }
        let v3 = |at, size: usize| version == 3 && at + size <= header_length;
        let field = |at| if v3(at, 8) { be64(bytes, at) } else { 0 };
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(bytes, 24),
            l1_entries: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            refcount_table: be64(bytes, 48),
            refcount_table_clusters: be32(bytes, 56),
            snapshots: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            incompatible: field(72),
            compatible: field(80),
            autoclear: field(88),
            refcount_order: if version == 3 { be32(bytes, 96) } else { 4 },
            compression: Compression::Zlib,
            backing: None,
            backing_format: None,
            data_file_name: None,
            bitmaps: None,
        };
        let names = header.extensions(bytes, header_length)?;
        header.features(names, if v3(104, 1) { bytes[104] } else { 0 })?;
        match be32(bytes, 32) {
            0 => {}
            1 => return Err(HeaderError::Unsupported("AES encryption".into())),
            2 => return Err(HeaderError::Unsupported("LUKS encryption".into())),
            _ => return Err(Wrong("the encryption method is unknown", 32)),
        }
        header.backing = backing(bytes)?;
        header.limits()?;
        Ok(header)
    }

    /// Reads the extensions; returns the feature name table.
    fn extensions<'a>(&mut self, bytes: &'a [u8], mut at: usize) -> Result<&'a [u8], HeaderError> {
        let mut names: &[u8] = &[];
        let text = |data: &[u8], at: usize| {
            String::from_utf8(data.to_vec()).map_err(|_| Wrong("a name is not UTF-8", at as u64))
        };
        // Version 2 images written long ago may have anything behind the header, up to the backing name.
        let limit = match be64(bytes, 8) {
            0 => bytes.len(),
            name => bytes.len().min(usize::try_from(name).unwrap_or(usize::MAX)),
        };
        while at + 8 <= limit {
            let (kind, length) = (be32(bytes, at), be32(bytes, at + 4) as usize);
            if kind == END {
                break;
            }
            let start = at;
            let Some(data) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else {
                return Err(Wrong(
                    "a header extension is longer than the header",
                    start as u64,
                ));
            };
            match kind {
                BACKING_FORMAT => self.backing_format = Some(text(data, start)?),
                DATA_FILE_NAME => self.data_file_name = Some(text(data, start)?),
                FEATURE_NAMES => names = data,
                BITMAPS_EXTENSION if length >= 24 => {
                    self.bitmaps = Some(Bitmaps {
                        count: be32(data, 0),
                        directory_size: be64(data, 8),
                        directory: be64(data, 16),
                    });
                }
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(names)
    }

    fn features(&mut self, names: &[u8], compression: u8) -> Result<(), HeaderError> {
        let known = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
        let unknown = self.incompatible & !known;
        if unknown != 0 {
            let list: Vec<_> = (0..64)
                .filter(|bit| unknown >> bit & 1 != 0)
                .map(|bit| feature_name(names, bit))
                .collect();
            return Err(HeaderError::Unsupported(format!(
                "the feature {}",
                list.join(", ")
            )));
        }
        if self.incompatible & EXTENDED_L2 != 0 {
            return Err(HeaderError::Unsupported(
                "the feature extended L2 entries (subclusters)".into(),
            ));
        }
        self.compression = match (self.incompatible & COMPRESSION_TYPE != 0, compression) {
            (false, 0) => Compression::Zlib,
            (true, 1) => Compression::Zstd,
            (true, 2..) => {
                return Err(HeaderError::Unsupported(format!(
                    "compression type {compression}"
                )));
            }
            _ => return Err(Wrong("the compression type contradicts the features", 104)),
        };
        Ok(())
    }

    fn limits(&self) -> Result<(), HeaderError> {
        let cluster = 1u64 << self.cluster_bits;
        let table = |offset: u64, what, at| match offset % cluster {
            0 => Ok(()),
            _ => Err(Wrong(what, at)),
        };
        if self.refcount_order > 6 {
            return Err(Wrong("refcounts are wider than 64 bits", 96));
        }
        table(self.l1_offset, "the L1 table is not aligned", 40)?;
        table(self.refcount_table, "the refcount table is not aligned", 48)?;
        table(self.snapshots_offset, "the snapshot table is not aligned", 64)?;
        if u64::from(self.l1_entries) * 8 > MAX_L1 {
            return Err(Wrong("the L1 table is larger than 32 MiB", 36));
        }
        let needed = self.size.div_ceil(cluster * (cluster / 8));
        if needed > MAX_L1 / 8 {
            return Err(Wrong("the disk's size is more than its cluster size allows", 24));
        }
        if needed > u64::from(self.l1_entries) {
            return Err(Wrong("the L1 table is too small for the disk's size", 36));
        }
        if self.l1_entries > 0 && self.l1_offset == 0 {
            return Err(Wrong("there is no L1 table", 40));
        }
        let clusters = u64::from(self.refcount_table_clusters);
        if self.refcount_table == 0 || clusters == 0 {
            return Err(Wrong("there is no refcount table", 48));
        }
        if clusters * cluster > MAX_REFCOUNT_TABLE.max(cluster) {
            return Err(Wrong("the refcount table is larger than 8 MiB", 56));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Wrong("there are more than 65536 snapshots", 60));
        }
        if self.snapshots > 0 && self.snapshots_offset == 0 {
            return Err(Wrong("there is no snapshot table", 64));
        }
        let end = |offset: u64, len: u64| offset.checked_add(len).is_none_or(|end| end > 1 << 62);
        if end(self.l1_offset, MAX_L1)
            || end(self.refcount_table, MAX_REFCOUNT_TABLE)
            || end(self.snapshots_offset, 0)
        {
            return Err(Wrong("a table lies beyond what a file can have", 40));
        }
        Ok(())
    }

    /// Whether guest data is in another file.
    pub(crate) fn data_file(&self) -> bool {
        self.incompatible & DATA_FILE != 0
    }

    /// The three feature words, as they are stored.
    pub(crate) fn feature_bytes(&self) -> Vec<u8> {
        super::bytes::bytes(&[self.incompatible, self.compatible, self.autoclear])
    }
}

fn backing(bytes: &[u8]) -> Result<Option<String>, HeaderError> {
    let (offset, length) = (be64(bytes, 8), be32(bytes, 16) as usize);
    if offset == 0 {
        return Ok(None);
    }
    if length > 1023 {
        return Err(Wrong("the backing file's name is longer than 1023 bytes", 16));
    }
    let name = usize::try_from(offset)
        .ok()
        .and_then(|at| bytes.get(at..at.checked_add(length)?));
    let name = name.ok_or(Wrong("the backing file's name is outside the header", 8))?;
    let name =
        std::str::from_utf8(name).map_err(|_| Wrong("the backing file's name is not UTF-8", offset))?;
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// The name of an incompatible feature: type 0, bit, 46 bytes.
fn feature_name(table: &[u8], bit: u8) -> String {
    let entry = table.chunks_exact(48).find(|e| e[0] == 0 && e[1] == bit);
    let name = entry.map(|e| String::from_utf8_lossy(&e[2..]).trim_end_matches('\0').to_owned());
    match name {
        // It is shown to people: no control characters.
        Some(name) if !name.is_empty() => format!("{:?} (bit {bit})", name),
        _ => format!("bit {bit}"),
    }
}
