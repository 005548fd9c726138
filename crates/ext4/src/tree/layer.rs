//! Layers: what a tar archive changes in the tree below it
//! (OCI image specification v1.1, "Image Layer Filesystem Changeset").

use super::path::components;
use super::{Error, Id, Kind, Metadata, Tree};
use crate::tar::{Archive, Header, Type};
use std::collections::HashSet;
use std::io::Read;

/// What a whiteout's name begins with; the rest is the name that goes.
const WHITEOUT: &[u8] = b".wh.";
/// What aufs' own names begin with.
const AUFS: &[u8] = b".wh..wh.";
/// Everything in the directory goes.
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Tree {
    /// Applies a layer: an uncompressed tar archive (pax, GNU or older; sparse files too). Whiteouts take away what
    /// layers before this one have, wherever in the archive they are. Names are only looked up in this tree. After
    /// an error the tree holds a part of the layer.
    ///
    /// Reads to the end of the archive; what is behind it is left in `reader`.
    pub fn add_tar(&mut self, reader: &mut dyn Read) -> Result<(), Error> {
        self.layer += 1;
        let mut archive = Archive::new(reader);
        let mut pruned = HashSet::new();
        while let Some(header) = archive.next()? {
            self.add_member(&mut archive, header, &mut pruned)?;
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        archive: &mut Archive<'_>,
        header: Header,
        pruned: &mut HashSet<Id>,
    ) -> Result<(), Error> {
        let names = components(&header.path)?;
        let last = names.last().copied().unwrap_or_default();
        if last == OPAQUE {
            return self.make_opaque(&header.path, pruned);
        }
        if names.iter().any(|n| n.starts_with(AUFS)) {
            return Ok(());
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            return self.white_out(&header.path, hidden, pruned);
        }
        let metadata = Metadata {
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            xattrs: header.xattrs,
        };
        let (major, minor) = (header.major, header.minor);
        let kind = match header.kind {
            Type::Link => return self.link(&header.path, &header.link),
            Type::File => {
                let mut stored = archive.content();
                Kind::File(self.store_runs(&mut stored, Some(header.real_size), &header.runs)?)
            }
            Type::Directory => Kind::directory(),
            Type::Symlink => Kind::Symlink(header.link.into()),
            Type::CharDevice => Kind::CharDevice { major, minor },
            Type::BlockDevice => Kind::BlockDevice { major, minor },
            Type::Fifo => Kind::Fifo,
        };
        self.insert(&header.path, kind, metadata)
    }

    /// `.wh.NAME`: what layers before this one have there is gone.
    fn white_out(&mut self, path: &[u8], hidden: &[u8], pruned: &mut HashSet<Id>) -> Result<(), Error> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::Whiteout(path.into()));
        }
        if let Some(mut place) = self.existing_place(path)? {
            place.name = hidden.into();
            self.prune_entry(&place, pruned);
        }
        Ok(())
    }

    /// `.wh..wh..opq`: only what this layer has in the directory is there.
    fn make_opaque(&mut self, path: &[u8], pruned: &mut HashSet<Id>) -> Result<(), Error> {
        if let Some(place) = self.existing_place(path)? {
            self.prune_below(place.directory, pruned);
        }
        Ok(())
    }
}
