//! Entries of the mapping tables (qcow2 specification, "Cluster mapping").

use super::header::Header;

/// Bit 63: the refcount is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry: reads as zeroes (version 3).
pub(crate) const ZERO: u64 = 1;
/// Bits 9 to 55: an offset in the file.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Sizes that follow from the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub cluster_bits: u32,
    pub version: u32,
    pub refcount_order: u32,
    /// Guest data is in another file, at the guest's offsets.
    pub data_file: bool,
}

impl Geometry {
    pub(crate) fn of(header: &Header) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            version: header.version,
            refcount_order: header.refcount_order,
            data_file: header.data_file(),
        }
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Guest bytes that an L2 table maps.
    pub(crate) fn l2_span(&self) -> u64 {
        self.cluster() * self.l2_entries()
    }

    /// L1 entries for a disk of that size.
    pub(crate) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Where in the tables a guest offset is: L1 index, L2 index.
    pub(crate) fn indices(&self, offset: u64) -> (usize, usize) {
        let l1 = offset / self.l2_span();
        let l2 = offset / self.cluster() % self.l2_entries();
        (l1 as usize, l2 as usize)
    }

    /// Refcounts in a refcount block.
    pub(crate) fn refcounts(&self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }
}

/// A cluster descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The backing file's, or zeroes.
    Unallocated,
    /// Zeroes; the cluster at `host` may be kept for later.
    Zero { host: Option<u64>, copied: bool },
    /// At that offset.
    Data { host: u64, copied: bool },
    /// Deflated or Zstandard, in that many bytes at most, which need not be aligned.
    Compressed { at: u64, len: u64 },
}

impl Entry {
    /// Reads one, checking every reserved bit. The error says what is wrong.
    pub(crate) fn decode(raw: u64, geometry: &Geometry) -> Result<Self, &'static str> {
        if raw & COMPRESSED != 0 {
            return Self::compressed(raw, geometry);
        }
        let (host, copied) = (raw & OFFSET, raw & COPIED != 0);
        if raw & !(COPIED | OFFSET | ZERO) != 0 {
            return Err("an L2 entry has reserved bits set");
        }
        if host % geometry.cluster() != 0 {
            return Err("an L2 entry points between clusters");
        }
        if raw & ZERO != 0 {
            if geometry.version < 3 {
                return Err("an L2 entry has reserved bits set");
            }
            let host = (host != 0 || copied && geometry.data_file).then_some(host);
            return match (host, copied) {
                (None, true) => Err("an L2 entry owns the header's cluster"),
                _ => Ok(Self::Zero { host, copied }),
            };
        }
        match (host, copied) {
            (0, true) if !geometry.data_file => Err("an L2 entry owns the header's cluster"),
            (0, false) => Ok(Self::Unallocated),
            _ => Ok(Self::Data { host, copied }),
        }
    }

    fn compressed(raw: u64, geometry: &Geometry) -> Result<Self, &'static str> {
        if geometry.data_file {
            return Err("a compressed cluster in an image with an external data file");
        }
        if raw & COPIED != 0 {
            return Err("an L2 entry says that it owns a compressed cluster");
        }
        let bits = 62 - (geometry.cluster_bits - 8);
        let at = raw & ((1 << bits) - 1);
        if at >> 56 != 0 {
            return Err("a compressed cluster's offset has reserved bits set");
        }
        let sectors = (raw & (COMPRESSED - 1)) >> bits;
        let len = (sectors + 1) * 512 - at % 512;
        match at {
            0 => Err("a compressed cluster lies in the header"),
            _ => Ok(Self::Compressed { at, len }),
        }
    }

    /// As it is stored.
    pub(crate) fn encode(self, geometry: &Geometry) -> u64 {
        let flag = |copied: bool| if copied { COPIED } else { 0 };
        match self {
            Self::Unallocated => 0,
            Self::Zero { host, copied } => host.unwrap_or(0) | flag(copied) | ZERO,
            Self::Data { host, copied } => host | flag(copied),
            Self::Compressed { at, len } => {
                let bits = 62 - (geometry.cluster_bits - 8);
                let sectors = (at + len - 1) / 512 - at / 512;
                COMPRESSED | sectors << bits | at
            }
        }
    }

    /// The offset an L1 entry has, 0 for none.
    pub(crate) fn l2_table(l1: u64, geometry: &Geometry) -> Result<u64, &'static str> {
        if l1 & !(COPIED | OFFSET) != 0 {
            return Err("an L1 entry has reserved bits set");
        }
        match l1 & OFFSET {
            offset if offset % geometry.cluster() != 0 => Err("an L1 entry points between clusters"),
            offset => Ok(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(cluster_bits: u32, version: u32) -> Geometry {
        Geometry {
            cluster_bits,
            version,
            refcount_order: 4,
            data_file: false,
        }
    }

    proptest! {
        /// What is read is written the same, except that a compressed cluster has no unused bits.
        #[test]
        fn entries_round_trip(raw: u64, cluster_bits in 9u32..=21, version in 2u32..=3, small: bool) {
            let geometry = geometry(cluster_bits, version);
            let raw = if small { raw & (OFFSET | COPIED | ZERO) & !((1 << cluster_bits) - 2) } else { raw };
            if let Ok(entry) = Entry::decode(raw, &geometry) {
                prop_assert_eq!(entry.encode(&geometry), raw);
            }
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        let g = geometry(16, 3);
        for raw in [
            2,
            0x100,
            1 << 56,
            1 << 61,
            COPIED,
            COPIED | ZERO,
            0x200,
            COMPRESSED,
            COMPRESSED | COPIED | 512,
        ] {
            assert!(Entry::decode(raw, &g).is_err(), "{raw:#x}");
        }
        assert!(Entry::decode(ZERO, &geometry(16, 2)).is_err());
        assert_eq!(
            Entry::decode(ZERO, &g),
            Ok(Entry::Zero {
                host: None,
                copied: false
            })
        );
        for l1 in [1, 0x8000, 1 << 56, 1 << 62] {
            assert!(Entry::l2_table(l1, &g).is_err(), "{l1:#x}");
        }
    }

    #[test]
    fn compressed_lengths_end_with_a_sector() {
        // cluster_bits 16: x = 54.
        let entry = Entry::decode(COMPRESSED | 3 << 54 | 0x50100, &geometry(16, 3));
        assert_eq!(
            entry,
            Ok(Entry::Compressed {
                at: 0x50100,
                len: 0x700
            })
        );
    }
}
