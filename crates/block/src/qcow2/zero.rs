//! Zeroes without writing them, and giving room back.

use super::Qcow2;
use super::entry::Entry;
use crate::buffer::Source;
use std::io;

/// What becomes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// It reads as zeroes and keeps its room.
    Zero,
    /// It reads as zeroes; its room is given back.
    Unmap,
    /// Its content does not matter any more.
    Discard,
}

impl Qcow2 {
    /// Makes a range read as zeroes. With `may_unmap`, room is given back.
    pub(crate) fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        self.begin()?;
        let cluster = self.geometry.cluster();
        let end = offset + len;
        let (first, last) = (offset.next_multiple_of(cluster), self.whole_end(end));
        if first >= last {
            self.zero_part(offset, end)?;
        } else {
            self.zero_part(offset, first)?;
            let wish = if may_unmap { Wish::Unmap } else { Wish::Zero };
            self.clusters(first / cluster, last.div_ceil(cluster), wish)?;
            self.zero_part(last.min(end), end)?;
        }
        self.trim()
    }

    /// Gives back the room of whole clusters in a range; the rest stays as it is.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.begin()?;
        let cluster = self.geometry.cluster();
        let (first, last) = (offset.next_multiple_of(cluster), self.whole_end(offset + len));
        if first < last {
            self.clusters(first / cluster, last.div_ceil(cluster), Wish::Discard)?;
        }
        self.trim()
    }

    /// The end of the last whole cluster before `end`; what the disk's end cuts off counts as whole.
    fn whole_end(&self, end: u64) -> u64 {
        match end >= self.size() {
            true => end,
            false => end - end % self.geometry.cluster(),
        }
    }

    /// Zeroes less than a cluster.
    fn zero_part(&self, offset: u64, end: u64) -> io::Result<()> {
        let mut at = offset;
        while at < end {
            let extent = self.extent(at, end - at)?;
            if extent.data {
                let zeroes = vec![0; extent.len.min(1 << 20) as usize];
                self.write(at, &Source(&zeroes), 0..zeroes.len())?;
                at += zeroes.len() as u64;
            } else {
                at += extent.len;
            }
        }
        Ok(())
    }

    fn clusters(&self, mut first: u64, last: u64, wish: Wish) -> io::Result<()> {
        while first < last {
            let bits = self.geometry.cluster_bits;
            let table = self.geometry.l2_entries() - first % self.geometry.l2_entries();
            let count = (last - first).min(table);
            let _mine = self.ranges.lock(first..first + count);
            let nothing = wish == Wish::Discard || self.backing.is_none();
            let (l1, _) = self.geometry.indices(first << bits);
            // Without a table there is nothing to give back.
            if !nothing || self.with_table(l1, |table| table.is_some())? {
                self.stretch_of_clusters(first, count, wish)?;
            } else if self.geometry.data_file {
                self.zero_data_file(first, count, wish)?;
            }
            first += count;
            drop(_mine);
            self.trim()?;
        }
        Ok(())
    }

    fn zero_data_file(&self, first: u64, count: u64, wish: Wish) -> io::Result<()> {
        let bits = self.geometry.cluster_bits;
        let end = ((first + count) << bits).min(self.size());
        self.data()
            .zero(first << bits, end - (first << bits), wish != Wish::Zero)
    }

    /// Clusters in one L2 table, on which this thread has a lock.
    fn stretch_of_clusters(&self, first: u64, count: u64, wish: Wish) -> io::Result<()> {
        let bits = self.geometry.cluster_bits;
        let old = self.entries(first, count)?;
        if self.geometry.data_file {
            // Others may read that file as a raw image.
            self.zero_data_file(first, count, wish)?;
        }
        let new: Vec<Option<Entry>> = old
            .iter()
            .enumerate()
            .map(|(i, entry)| self.wished(*entry, (first + i as u64) << bits, wish))
            .collect();
        for (i, entry) in new.iter().enumerate() {
            // Version 2 has no other zeroes than written ones in front of a backing file.
            if entry.is_none() {
                self.write_out_zeroes(first + i as u64, old[i])?;
            }
        }
        let changed: Vec<usize> = (0..old.len())
            .filter(|i| new[*i].is_some_and(|n| n != old[*i]))
            .collect();
        let (Some(&from), Some(&to)) = (changed.first(), changed.last()) else {
            return Ok(());
        };
        let (l1, l2) = self.geometry.indices(first << bits);
        self.update(l1, l2 + from..l2 + to + 1, |raw| {
            for &i in &changed {
                if let Some(entry) = new[i] {
                    raw[i - from] = entry.encode(&self.geometry);
                }
            }
        })?;
        let gone: Vec<Entry> = changed
            .iter()
            .filter(|&&i| !matches!(new[i], Some(Entry::Zero { host: Some(_), .. })))
            .map(|&i| old[i])
            .collect();
        self.retire(&gone, |_| false);
        Ok(())
    }

    /// What an entry becomes; `None` if zeroes have to be written.
    fn wished(&self, old: Entry, offset: u64, wish: Wish) -> Option<Entry> {
        let covered = self.backing.as_ref().is_some_and(|b| b.size() > offset);
        let plain = Entry::Zero {
            host: None,
            copied: false,
        };
        match (old, wish) {
            // Reading the backing file again is what a disk may do that was told to discard.
            (Entry::Unallocated, Wish::Discard) => Some(old),
            (Entry::Unallocated, _) if !covered => Some(old),
            (Entry::Zero { .. }, Wish::Zero) | (Entry::Zero { host: None, .. }, _) => Some(old),
            _ if self.geometry.version < 3 => match (covered, wish) {
                (false, Wish::Zero) => None,
                (false, _) => Some(Entry::Unallocated),
                (true, Wish::Discard) => Some(old),
                (true, _) => None,
            },
            (Entry::Data { host, copied: true }, Wish::Zero) if !self.geometry.data_file => {
                Some(Entry::Zero {
                    host: Some(host),
                    copied: true,
                })
            }
            (_, Wish::Zero) => Some(plain),
            _ if covered || self.geometry.data_file => Some(plain),
            _ => Some(Entry::Unallocated),
        }
    }

    /// Writes zeroes to a cluster on which this thread has a lock.
    fn write_out_zeroes(&self, cluster: u64, old: Entry) -> io::Result<()> {
        let size = self.geometry.cluster();
        if let Entry::Data { host, copied: true } = old {
            self.not_metadata(host, size)?;
            return self.data().zero(host, size, false);
        }
        let Some(room) = self.room(cluster, &[old])? else {
            return Ok(());
        };
        let done = self
            .data()
            .zero(room.host, size, false)
            .and_then(|()| self.link(cluster, room.host, &[old]));
        done.inspect_err(|_| self.give_back(&room))
    }
}
