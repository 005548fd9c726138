//! The snapshot table (qcow2 specification, "Snapshots").

use super::Qcow2;
use super::bytes::{be16, be32, be64};
use super::header::MAX_L1;
use crate::error::Corrupt;
use std::io;

/// Largest snapshot table that is read.
const MAX_TABLE: u64 = 64 << 20;

/// An internal snapshot.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Snapshot {
    /// Its unique ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Seconds since 1970.
    pub seconds: u32,
    /// Bytes of a running machine's state.
    pub vm_state: u64,
    /// The disk's size then, where the image says so.
    pub size: Option<u64>,
    #[serde(skip)]
    pub(crate) l1_offset: u64,
    #[serde(skip)]
    pub(crate) l1_entries: u32,
}

impl Qcow2 {
    /// The snapshots, and the length of their table.
    pub(crate) fn snapshots(&self) -> io::Result<(Vec<Snapshot>, u64)> {
        let header = self.header();
        let mut list = vec![];
        let mut at = 0;
        let corrupt = |what, at| {
            io::Error::from(Corrupt::new(
                self.store.path(),
                what,
                header.snapshots_offset + at,
            ))
        };
        for _ in 0..header.snapshots {
            let (snapshot, len) =
                self.snapshot(header.snapshots_offset + at)
                    .map_err(|e| match e.kind() {
                        io::ErrorKind::UnexpectedEof => {
                            corrupt("the snapshot table lies past the end of the file", at)
                        }
                        _ => e,
                    })?;
            if snapshot.l1_offset % self.geometry.cluster() != 0
                || snapshot.l1_offset == 0 && snapshot.l1_entries > 0
            {
                return Err(corrupt("a snapshot's L1 table is not aligned", at));
            }
            if u64::from(snapshot.l1_entries) * 8 > MAX_L1 {
                return Err(corrupt("a snapshot's L1 table is larger than 32 MiB", at));
            }
            at += len;
            if at > MAX_TABLE {
                return Err(corrupt("the snapshot table is larger than 64 MiB", at));
            }
            list.push(snapshot);
        }
        Ok((list, at))
    }

    fn snapshot(&self, at: u64) -> io::Result<(Snapshot, u64)> {
        let read = |at: u64, len: usize| -> io::Result<Vec<u8>> {
            let mut out = vec![0; len];
            match self.store.read(at, &mut out)? < len {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(out),
            }
        };
        let fixed = read(at, 40)?;
        let (id, name) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
        let extra = be32(&fixed, 36) as usize;
        if extra > 1 << 20 {
            return Err(Corrupt::new(
                self.store.path(),
                "a snapshot has more than 1 MiB of extra data",
                at,
            )
            .into());
        }
        let rest = read(at + 40, extra + id + name)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let snapshot = Snapshot {
            l1_offset: be64(&fixed, 0),
            l1_entries: be32(&fixed, 8),
            seconds: be32(&fixed, 16),
            vm_state: match extra {
                8.. => be64(&rest, 0),
                _ => be32(&fixed, 32).into(),
            },
            size: (extra >= 16).then(|| be64(&rest, 8)),
            id: text(&rest[extra..extra + id]),
            name: text(&rest[extra + id..]),
        };
        Ok((snapshot, (40 + extra + id + name).next_multiple_of(8) as u64))
    }
}
