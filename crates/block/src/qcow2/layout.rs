//! Which clusters hold metadata: nothing else may be written there, whatever tables and refcounts say.

use super::entry::Geometry;
use super::header::Header;
use std::collections::HashSet;
use std::ops::Range;

/// Where metadata is.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub header: Range<u64>,
    pub l1: Range<u64>,
    pub refcount_table: Range<u64>,
    /// L2 tables and refcount blocks, by offset.
    pub tables: HashSet<u64>,
}

/// A table's range, in whole clusters.
pub(crate) fn span(offset: u64, len: u64, geometry: &Geometry) -> Range<u64> {
    offset..offset.saturating_add(len.next_multiple_of(geometry.cluster()))
}

impl Layout {
    pub(crate) fn new(header: &Header, geometry: &Geometry) -> Self {
        let refcounts = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        Self {
            header: 0..geometry.cluster(),
            l1: span(header.l1_offset, u64::from(header.l1_entries) * 8, geometry),
            refcount_table: span(header.refcount_table, refcounts, geometry),
            tables: HashSet::new(),
        }
    }

    /// What the cluster at `offset` holds, if it is one of the fixed tables.
    pub(crate) fn fixed(&self, offset: u64) -> Option<&'static str> {
        let all = [
            (&self.header, "the header"),
            (&self.l1, "the L1 table"),
            (&self.refcount_table, "the refcount table"),
        ];
        all.iter()
            .find(|(range, _)| range.contains(&offset))
            .map(|(_, name)| *name)
    }

    /// What the cluster at `offset` holds, if that is metadata.
    pub(crate) fn metadata(&self, offset: u64) -> Option<&'static str> {
        match self.tables.contains(&offset) {
            true => Some("an L2 table or refcount block"),
            false => self.fixed(offset),
        }
    }
}
