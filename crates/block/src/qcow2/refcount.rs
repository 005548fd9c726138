//! Refcounts, and finding free clusters with them (qcow2 specification, "Host cluster management").
//!
//! Everything here happens in memory. Counts that went up may be written at any time: what a crash leaves of
//! them is leaked clusters. Counts only go down when no table on the disk refers to the cluster any more.

use super::entry::Geometry;
use super::layout::Layout;
use super::width::{load, save};
use crate::error::Corrupt;
use crate::store::Store;
use std::collections::HashMap;
use std::io;
use std::ops::Range;

/// Offsets in tables have 56 bits.
const LAST: u64 = 1 << 56;

/// Clusters that nothing refers to any more.
#[derive(Clone, Debug)]
pub(crate) struct Retired {
    /// When they left the mapping: see [`crate::pin::Pins`].
    pub stamp: u64,
    pub clusters: Range<u64>,
}

/// A refcount block in memory.
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Bytes that differ from the file.
    pub(super) dirty: Option<Range<usize>>,
    /// The table entry that points here must not be written before this is on the disk.
    pub(super) fresh: bool,
    pub(super) used: u64,
}

/// A run of new clusters.
#[derive(Debug)]
pub(crate) struct Run {
    pub clusters: Range<u64>,
    /// Never written to, so that it reads as zeroes.
    pub fresh: bool,
}

pub(crate) struct Refcounts {
    pub(super) geometry: Geometry,
    pub(super) table: Vec<u64>,
    pub(super) table_offset: u64,
    pub(super) table_dirty: Option<Range<usize>>,
    pub(super) blocks: HashMap<usize, Block>,
    /// No cluster before this one is free.
    pub(super) next: u64,
    /// Clusters from here on were never in use.
    end: u64,
    clock: u64,
    /// Gone from the tables in memory.
    pub unlinked: Vec<Retired>,
    /// Gone from the tables on the disk, too.
    pub durable: Vec<Retired>,
}

pub(super) fn widen(dirty: &mut Option<Range<usize>>, more: Range<usize>) {
    *dirty = Some(match dirty.take() {
        Some(old) => old.start.min(more.start)..old.end.max(more.end),
        None => more,
    });
}

impl Refcounts {
    /// From the refcount table as it is in the file. Its blocks are entered into the layout.
    pub(crate) fn new(
        store: &Store,
        geometry: Geometry,
        offset: u64,
        table: Vec<u64>,
        layout: &mut Layout,
    ) -> Result<Self, Corrupt> {
        let corrupt = |what, at: usize| Corrupt::new(store.path(), what, offset + at as u64 * 8);
        let len = store.len().unwrap_or(0);
        for (at, &entry) in table.iter().enumerate() {
            if entry % geometry.cluster() != 0 {
                return Err(corrupt("a refcount table entry points between clusters", at));
            }
            if entry >= len && entry != 0 {
                return Err(corrupt("a refcount block lies past the end of the file", at));
            }
            if entry != 0 && (layout.fixed(entry).is_some() || !layout.tables.insert(entry)) {
                return Err(corrupt("a refcount block lies where something else is", at));
            }
        }
        // What a block device held before is unknown.
        let end = if store.is_block_device() { u64::MAX } else { len };
        Ok(Self {
            geometry,
            table,
            table_offset: offset,
            table_dirty: None,
            blocks: HashMap::new(),
            next: 0,
            end: end.div_ceil(geometry.cluster()),
            clock: 0,
            unlinked: vec![],
            durable: vec![],
        })
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let per = self.geometry.refcounts();
        let index = usize::try_from(cluster / per).unwrap_or(usize::MAX);
        (index, (cluster % per) as usize)
    }

    /// The block with that index, from the file if it must be; `None` if there is none.
    fn block(&mut self, store: &Store, index: usize) -> io::Result<Option<&mut Block>> {
        let offset = match self.table.get(index) {
            None | Some(0) => return Ok(None),
            Some(offset) => *offset,
        };
        self.clock += 1;
        if !self.blocks.contains_key(&index) {
            let mut bytes = vec![0; self.geometry.cluster() as usize];
            store.read(offset, &mut bytes)?;
            let block = Block {
                bytes,
                dirty: None,
                fresh: false,
                used: 0,
            };
            self.blocks.insert(index, block);
        }
        let clock = self.clock;
        if let Some(block) = self.blocks.get_mut(&index) {
            block.used = clock;
            return Ok(Some(block));
        }
        Ok(None)
    }

    /// How often a cluster is referred to.
    pub(crate) fn get(&mut self, store: &Store, cluster: u64) -> io::Result<u64> {
        let (index, at) = self.place(cluster);
        let order = self.geometry.refcount_order;
        Ok(self.block(store, index)?.map_or(0, |b| load(&b.bytes, at, order)))
    }

    /// Sets a count whose block exists.
    pub(crate) fn set(&mut self, store: &Store, cluster: u64, count: u64) -> io::Result<()> {
        let (index, at) = self.place(cluster);
        let order = self.geometry.refcount_order;
        let max = u64::MAX >> (64 - (1 << order));
        if count > max {
            return Err(io::Error::other(format!(
                "refcounts of {} bits are too small",
                1 << order
            )));
        }
        match self.block(store, index)? {
            Some(block) => {
                let dirty = save(&mut block.bytes, at, order, count);
                widen(&mut block.dirty, dirty);
                Ok(())
            }
            None if count == 0 => Ok(()),
            None => Err(Corrupt::new(store.path(), "a cluster in use has no refcount", cluster).into()),
        }
    }

    /// The first free cluster from `from` on.
    fn free_from(&mut self, store: &Store, mut from: u64) -> io::Result<u64> {
        let (order, per) = (self.geometry.refcount_order, self.geometry.refcounts());
        loop {
            let (index, at) = self.place(from);
            let Some(block) = self.block(store, index)? else {
                return Ok(from);
            };
            let free = (at..per as usize).find(|i| load(&block.bytes, *i, order) == 0);
            if let Some(free) = free {
                return Ok(index as u64 * per + free as u64);
            }
            from = (index as u64 + 1) * per;
        }
    }

    /// Up to `want` free clusters in a row, which then have a count of one.
    pub(crate) fn allocate(&mut self, store: &Store, layout: &mut Layout, want: u64) -> io::Result<Run> {
        let bits = self.geometry.cluster_bits;
        let start = loop {
            let free = self.free_from(store, self.next)?;
            self.next = free;
            if free + 1 >= LAST >> bits {
                return Err(rustix::io::Errno::FBIG.into());
            }
            if let Some(what) = layout.metadata(free << bits) {
                let what = format!("{what} is in use, but its refcount is zero");
                return Err(Corrupt::new(store.path(), what, free << bits).into());
            }
            let (index, _) = self.place(free);
            if self.table.get(index).is_some_and(|e| *e != 0) {
                break free;
            }
            self.add_block(store, layout, free, index)?;
        };
        let fresh = start >= self.end;
        let limit = if fresh { u64::MAX } else { self.end };
        let mut run = start..start;
        while run.end < limit.min(start.saturating_add(want)) {
            let (index, _) = self.place(run.end);
            // The next block is made when it is needed.
            if self.table.get(index).is_none_or(|e| *e == 0)
                || layout.metadata(run.end << bits).is_some()
                || self.get(store, run.end)? != 0
            {
                break;
            }
            run.end += 1;
        }
        for cluster in run.clone() {
            self.set(store, cluster, 1)?;
        }
        self.next = run.end;
        self.end = self.end.max(run.end);
        Ok(Run { clusters: run, fresh })
    }

    /// A block for the counts around the free cluster `at`, which it takes.
    fn add_block(&mut self, store: &Store, layout: &mut Layout, at: u64, index: usize) -> io::Result<()> {
        if index >= self.table.len() {
            return self.grow(store, layout, at);
        }
        let offset = at << self.geometry.cluster_bits;
        self.table[index] = offset;
        widen(&mut self.table_dirty, index..index + 1);
        layout.tables.insert(offset);
        self.insert_new(index);
        self.set(store, at, 1)?;
        self.end = self.end.max(at + 1);
        Ok(())
    }

    pub(super) fn insert_new(&mut self, index: usize) {
        let len = self.geometry.cluster() as usize;
        let block = Block {
            bytes: vec![0; len],
            dirty: Some(0..len),
            fresh: true,
            used: self.clock,
        };
        self.blocks.insert(index, block);
    }

    pub(super) fn used_up_to(&mut self, cluster: u64) {
        self.end = self.end.max(cluster);
    }

    /// Behind every cluster that was ever in use. Not known of a block device.
    pub(super) fn in_use(&self) -> io::Result<u64> {
        match self.end {
            e if e > LAST => Err(rustix::io::Errno::OPNOTSUPP.into()),
            end => Ok(end),
        }
    }

    /// Takes back what was allocated and is in no table.
    pub(crate) fn release(&mut self, store: &Store, clusters: Range<u64>) {
        for cluster in clusters {
            // Its block is in memory or was read before; at worst the cluster is leaked.
            if self.set(store, cluster, 0).is_ok() {
                self.next = self.next.min(cluster);
            }
        }
    }

    /// One more reference to a cluster that is in use.
    pub(crate) fn increment(&mut self, store: &Store, cluster: u64) -> io::Result<()> {
        let count = self.get(store, cluster)?;
        self.set(store, cluster, count.saturating_add(1))
    }

    /// What is in no table in memory any more; its references are dropped later.
    pub(crate) fn retire(&mut self, stamp: u64, clusters: Range<u64>) {
        match self.unlinked.last_mut() {
            Some(last) if last.stamp == stamp && last.clusters.end == clusters.start => {
                last.clusters.end = clusters.end;
            }
            _ => self.unlinked.push(Retired { stamp, clusters }),
        }
    }

    /// Drops the references of retired clusters that nobody uses. Those that became free are given back to
    /// the file system.
    pub(crate) fn reap(&mut self, store: &Store, oldest: u64) -> io::Result<()> {
        let (ready, waiting) = std::mem::take(&mut self.durable)
            .into_iter()
            .partition(|r| r.stamp < oldest);
        self.durable = waiting;
        let bits = self.geometry.cluster_bits;
        let mut free: Option<Range<u64>> = None;
        let punch = |free: Option<Range<u64>>| {
            if let Some(r) = free {
                // Only room is lost where it cannot be done.
                let _ = store.punch(r.start << bits, (r.end - r.start) << bits);
            }
        };
        let ready: Vec<Retired> = ready;
        for cluster in ready.into_iter().flat_map(|r| r.clusters) {
            let count = self.get(store, cluster)?;
            if count == 0 {
                return Err(Corrupt::new(
                    store.path(),
                    "a cluster was in use with a refcount of zero",
                    cluster << bits,
                )
                .into());
            }
            self.set(store, cluster, count - 1)?;
            if count > 1 {
                continue;
            }
            self.next = self.next.min(cluster);
            match &mut free {
                Some(run) if run.end == cluster => run.end += 1,
                _ => punch(free.replace(cluster..cluster + 1)),
            }
        }
        punch(free);
        Ok(())
    }
}
