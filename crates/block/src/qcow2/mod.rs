//! The qcow2 format, versions 2 and 3 (QEMU's docs/interop/qcow2.txt).
//!
//! **What gets to the disk when.** New clusters are written to and counted before a table refers to them; their
//! old ones are given up when no table on the disk refers to those any more. Tables and counts are changed in
//! memory and written by a flush, in this order, with a sync behind each:
//!
//! 1. new refcount blocks (there rarely are any),
//! 2. the refcount table, refcounts that grew, and all data written so far,
//! 3. L2 entries and L1 entries, as they were before step 1,
//!
//! and then the clusters that the old entries had may be used again. So what is on the disk is consistent at any
//! moment; a crash leaks clusters at most. The dirty bit says that there may be such, and whoever opens the image
//! for writing next gives them back.
//!
//! **Who waits for whom.** Transfers of clusters that are mapped take the tables' lock for reading. Who changes a
//! guest cluster's mapping has a lock on that cluster. Locks are taken in this order: a range of clusters,
//! `flushing`, `loading`, `tables`, `refcounts`, `layout`.

mod bytes;
mod check;
mod close;
mod compress;
mod create;
mod encode;
mod entry;
mod flush;
mod grow;
pub(crate) mod header;
#[cfg(test)]
mod header_tests;
mod layout;
mod read;
mod refcount;
mod repair;
mod report;
mod resize;
mod settle;
mod snapshot;
mod tables;
mod width;
mod write;
mod zero;

pub(crate) use compress::pack;
pub(crate) use create::{Layout as NewImage, create};
pub use header::Compression;
pub(crate) use header::Header;
pub(crate) use header::HeaderError;
pub use report::CheckReport;
pub use snapshot::Snapshot;

use crate::error::{Corrupt, OpenError};
use crate::image::Image;
use crate::pin::Pins;
use crate::ranges::RangeLocks;
use crate::store::Store;
use crate::sync::Mutex;
use entry::{Entry, Geometry};
use layout::Layout;
use refcount::Refcounts;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use tables::Tables;

/// Bytes of L2 tables kept in memory.
const L2_CACHE: usize = 16 << 20;
/// Bytes of refcount blocks kept in memory.
const REFCOUNT_CACHE: usize = 4 << 20;

/// An open qcow2 image.
pub(crate) struct Qcow2 {
    store: Store,
    /// Where guest data is, if not in the image.
    data: Option<Store>,
    geometry: Geometry,
    header: Mutex<Header>,
    size: AtomicU64,
    tables: RwLock<Tables>,
    /// One L2 table is read at a time.
    loading: Mutex<()>,
    refcounts: Mutex<Refcounts>,
    layout: RwLock<Layout>,
    /// One flush at a time.
    flushing: Mutex<()>,
    ranges: RangeLocks,
    pins: Pins,
    backing: Option<Arc<Image>>,
    read_only: bool,
    /// The header says that the image is being written to.
    started: AtomicBool,
    /// It contradicts itself: nothing is allocated any more.
    broken: Mutex<Option<Corrupt>>,
    inflated: Mutex<read::Inflated>,
    tail: Mutex<compress::Tail>,
}

impl Qcow2 {
    /// Takes over a file with that header. Repairs what a crash left, if it may write.
    pub(crate) fn open(
        store: Store,
        data: Option<Store>,
        header: Header,
        backing: Option<Arc<Image>>,
        read_only: bool,
    ) -> Result<Self, OpenError> {
        let lenient = read_only;
        let image = Self::open_as_is(store, data, header, backing, read_only, lenient)?;
        if !read_only && image.header.lock().incompatible & header::CORRUPT != 0 {
            return Err(OpenError::MarkedCorrupt(image.store.path().to_owned()));
        }
        if read_only || image.header.lock().incompatible & header::DIRTY == 0 {
            return Ok(image);
        }
        tracing::info!(file = %image.store.path().display(), "not closed properly: counting references");
        let path = image.store.path().to_owned();
        let report = image.repair().map_err(OpenError::io("repair", &path))?;
        match report.first_error() {
            None => Ok(image),
            Some(what) => Err(Corrupt::new(&path, what, 0).into()),
        }
    }

    /// Without looking whether it was closed properly; `lenient` with tables that nothing may be allocated by.
    pub(crate) fn open_as_is(
        store: Store,
        data: Option<Store>,
        header: Header,
        backing: Option<Arc<Image>>,
        read_only: bool,
        lenient: bool,
    ) -> Result<Self, OpenError> {
        let path = store.path().to_owned();
        let geometry = Geometry::of(&header);
        let table = |offset: u64, len: u64, what: &str| -> Result<Vec<u64>, OpenError> {
            let mut content = vec![0; len as usize];
            let there = store
                .read(offset, &mut content)
                .map_err(OpenError::io("read", &path))?;
            match there < content.len() {
                true => {
                    Err(Corrupt::new(&path, format!("{what} lies past the end of the file"), offset).into())
                }
                false => Ok(bytes::entries(&content)),
            }
        };
        let l1 = table(header.l1_offset, u64::from(header.l1_entries) * 8, "the L1 table")?;
        let clusters = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        let counts = table(header.refcount_table, clusters, "the refcount table")?;
        let mut layout = Layout::new(&header, &geometry);
        let refcounts = Refcounts::new(&store, geometry, header.refcount_table, counts, &mut layout);
        let refcounts = match refcounts {
            // Nothing is allocated in it.
            Err(e) if lenient => {
                tracing::warn!("{e}");
                Refcounts::new(&store, geometry, header.refcount_table, vec![], &mut layout)?
            }
            other => other?,
        };
        for (at, raw) in l1.iter().enumerate().filter(|(_, raw)| **raw != 0 && !lenient) {
            let offset = Entry::l2_table(*raw, &geometry);
            if offset.is_ok_and(|o| o != 0 && !layout.tables.insert(o)) {
                let what = "two tables lie at the same place";
                return Err(Corrupt::new(&path, what, header.l1_offset + at as u64 * 8).into());
            }
        }
        let size = header.size.next_multiple_of(512);
        Ok(Self {
            tables: RwLock::new(Tables::new(l1, header.l1_offset)),
            refcounts: Mutex::new(refcounts),
            layout: RwLock::new(layout),
            header: Mutex::new(header),
            size: AtomicU64::new(size),
            store,
            data,
            geometry,
            loading: Mutex::default(),
            flushing: Mutex::default(),
            ranges: RangeLocks::default(),
            pins: Pins::default(),
            backing,
            read_only,
            started: AtomicBool::new(false),
            broken: Mutex::default(),
            inflated: Mutex::default(),
            tail: Mutex::default(),
        })
    }

    /// The disk's size, in whole sectors.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn header(&self) -> Header {
        self.header.lock().clone()
    }

    /// Where guest data is.
    fn data(&self) -> &Store {
        self.data.as_ref().unwrap_or(&self.store)
    }

    /// The error for a contradiction. An image that is written to is marked, so that nobody makes it worse.
    fn corrupt(&self, what: impl Into<String>, offset: u64) -> io::Error {
        let corrupt = Corrupt::new(self.store.path(), what, offset);
        if !self.read_only {
            self.break_off(&corrupt);
        }
        corrupt.into()
    }

    fn break_off(&self, corrupt: &Corrupt) {
        let mut broken = self.broken.lock();
        if broken.is_some() {
            return;
        }
        tracing::error!("{corrupt}");
        *broken = Some(corrupt.clone());
        drop(broken);
        let mut header = self.header.lock();
        if header.version >= 3 {
            header.incompatible |= header::CORRUPT;
            // The error is told in any case.
            let _ = self.store.write(header::at::FEATURES, &header.feature_bytes());
            let _ = self.store.sync();
        }
    }

    /// An error from below, which may be a contradiction as well.
    fn notice(&self, error: io::Error) -> io::Error {
        if let Some(corrupt) = error.get_ref().and_then(|e| e.downcast_ref::<Corrupt>())
            && !self.read_only
        {
            self.break_off(&corrupt.clone());
        }
        error
    }
}
