//! The end of writing.

use super::{Qcow2, header};
use crate::sync::read;
use std::io;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Writes everything and says in the header that the image is whole. It may go on being used.
    pub(crate) fn close(&self) -> io::Result<()> {
        if self.read_only || !self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whoever changes the mapping has finished.
        let _all = self.ranges.lock(0..u64::MAX);
        self.flush_tables()?;
        // Once more, since clusters were given up behind the first.
        if self.refcounts.lock().is_dirty() {
            self.flush_tables()?;
        }
        let whole = {
            let refcounts = self.refcounts.lock();
            refcounts.durable.is_empty() && refcounts.unlinked.is_empty() && !refcounts.is_dirty()
        };
        // What a transfer still pins is leaked, and found by the next who opens the image for writing.
        if !whole || self.broken.lock().is_some() || read(&self.tables).is_dirty() {
            return Ok(());
        }
        let mut header = self.header.lock();
        if header.version >= 3 {
            let mut new = header.clone();
            new.incompatible &= !header::DIRTY;
            self.store.write(header::at::FEATURES, &new.feature_bytes())?;
            self.store.sync()?;
            *header = new;
        }
        self.started.store(false, Ordering::Release);
        Ok(())
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!(file = %self.store.path().display(), "cannot be closed properly: {e}");
        }
    }
}
