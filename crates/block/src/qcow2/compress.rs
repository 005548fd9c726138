//! Writing compressed clusters, which is for making images.

use super::entry::Entry;
use super::{Compression, Qcow2};
use crate::buffer::Source;
use crate::sync::write;
use flate2::{Compress, FlushCompress, Status};
use std::io;

/// Behind the compressed cluster that was written last: the next one goes there.
#[derive(Default)]
pub(super) struct Tail(u64);

impl Tail {
    /// The next one goes to a cluster of its own.
    pub(super) fn clear(&mut self) {
        self.0 = 0;
    }
}

impl Qcow2 {
    /// Writes a whole guest cluster that nothing was written to before, compressed if that makes it smaller.
    /// `data` may be shorter at the disk's end.
    pub(crate) fn write_compressed(
        &self,
        cluster: u64,
        data: &[u8],
        packed: Option<&[u8]>,
    ) -> io::Result<()> {
        let offset = cluster << self.geometry.cluster_bits;
        let Some(packed) = packed.filter(|_| !self.geometry.data_file) else {
            return self.write(offset, &Source(data), 0..data.len());
        };
        self.begin()?;
        let _mine = self.ranges.lock(cluster..cluster + 1);
        let old = self.entries(cluster, 1)?;
        let at = self.tail_room(packed.len() as u64).map_err(|e| self.notice(e))?;
        self.store.write(at, packed)?;
        let entry = Entry::Compressed {
            at,
            len: packed.len() as u64,
        };
        let (l1, l2) = self.geometry.indices(offset);
        self.update(l1, l2..l2 + 1, |raw| raw[0] = entry.encode(&self.geometry))?;
        self.retire(&old, |_| false);
        drop(_mine);
        self.trim()
    }

    /// Room for so many bytes, behind what was written last if possible.
    fn tail_room(&self, len: u64) -> io::Result<u64> {
        let size = self.geometry.cluster();
        let bits = self.geometry.cluster_bits;
        let mut tail = self.tail.lock();
        let mut refcounts = self.refcounts.lock();
        let mut layout = write(&self.layout);
        let left = tail.0.next_multiple_of(size) - tail.0;
        // A cluster in use to which a reference more can be counted.
        let shared =
            |refcounts: &mut super::Refcounts| refcounts.increment(&self.store, tail.0 >> bits).is_ok();
        let at = if left >= len && shared(&mut refcounts) {
            tail.0
        } else {
            let run = refcounts.allocate(&self.store, &mut layout, 1)?;
            let start = run.clusters.start << bits;
            match left > 0 && left < len && tail.0 + left == start && shared(&mut refcounts) {
                true => tail.0,
                false => start,
            }
        };
        tail.0 = at + len;
        Ok(at)
    }
}

/// A cluster in compressed form, if that is smaller.
pub(crate) fn pack(compression: Compression, data: &[u8], cluster: usize) -> Option<Vec<u8>> {
    let mut padded;
    let data = match data.len() < cluster {
        false => data,
        true => {
            padded = data.to_vec();
            padded.resize(cluster, 0);
            &padded
        }
    };
    // It has to save a sector.
    let room = cluster.checked_sub(512)?;
    match compression {
        Compression::Zlib => {
            // Readers unpack with a window of 4 KiB.
            let mut deflate = Compress::new_with_window_bits(flate2::Compression::default(), false, 12);
            let mut packed = vec![0; room];
            let status = deflate.compress(data, &mut packed, FlushCompress::Finish);
            packed.truncate(deflate.total_out() as usize);
            matches!(status, Ok(Status::StreamEnd)).then_some(packed)
        }
        Compression::Zstd => zstd::bulk::compress(data, 3).ok().filter(|p| p.len() <= room),
    }
}
