//! Who files belong to.
//!
//! Root keeps the owners of the host. Anybody else can make files only as himself, so his files belong to one user in
//! the guest, root by default, and those that the guest gives to somebody else say so in an extended attribute.

use crate::{Result, host};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Statx, Uid, XattrFlags, chmodat, chownat, getxattr, removexattr, setxattr,
};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// A user and a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Whom files of other users of the host belong to in the guest: nobody (Linux's overflow ID).
const NOBODY: u32 = 65534;
/// The attribute, `UID:GID` in decimal.
pub const ATTRIBUTE: &str = "user.donjon.owner";
/// Attributes with this prefix are not the guest's.
pub const ATTRIBUTES: &[u8] = b"user.donjon.";

/// How owners of the host and of the guest correspond.
pub enum Owners {
    /// They are the same.
    Kept,
    /// One user's.
    Mapped(Mapped),
}

/// One user of the host is, if nothing else is said, one user of the guest.
pub struct Mapped {
    host: Ids,
    guest: Ids,
    /// Held while permissions are not what they should be.
    insisting: Mutex<()>,
}

impl Owners {
    pub fn new(guest: Option<Ids>) -> Self {
        let uid = rustix::process::geteuid();
        if guest.is_none() && uid.is_root() {
            return Self::Kept;
        }
        Self::Mapped(Mapped {
            host: Ids {
                uid: uid.as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
            guest: guest.unwrap_or_default(),
            insisting: Mutex::default(),
        })
    }

    /// Whether they are the host's.
    pub fn are_kept(&self) -> bool {
        matches!(self, Self::Kept)
    }

    /// Whom a file belongs to in the guest.
    pub fn of(&self, fd: impl AsFd, stat: &Statx) -> Ids {
        match self {
            Self::Kept => Ids {
                uid: stat.stx_uid,
                gid: stat.stx_gid,
            },
            Self::Mapped(mapped) => mapped.of(fd, stat),
        }
    }

    /// Gives a file to somebody.
    pub fn give(&self, fd: impl AsFd, stat: &Statx, to: Ids) -> Result<()> {
        match self {
            Self::Kept => {
                let (uid, gid) = (to.uid, to.gid);
                // All ones would mean "as it is".
                if uid == u32::MAX || gid == u32::MAX {
                    return Err(Errno::INVAL);
                }
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
                chownat(fd, c"", Some(uid), Some(gid), flags)
            }
            Self::Mapped(mapped) => mapped.give(fd, stat, to),
        }
    }
}

impl Mapped {
    fn default_for(&self, stat: &Statx) -> Ids {
        let or_nobody = |same: bool, id: u32| if same { id } else { NOBODY };
        Ids {
            uid: or_nobody(stat.stx_uid == self.host.uid, self.guest.uid),
            gid: or_nobody(stat.stx_gid == self.host.gid, self.guest.gid),
        }
    }

    fn of(&self, fd: impl AsFd, stat: &Statx) -> Ids {
        // Another user of the host is not believed: he could make a program that a guest runs as its root.
        if stat.stx_uid != self.host.uid || !has_attributes(stat) {
            return self.default_for(stat);
        }
        let mut text = [0; 24];
        let read = getxattr(host::path_of(fd), ATTRIBUTE, &mut text[..]);
        let given = read.ok().and_then(|len| parse(text.get(..len)?));
        given.unwrap_or_else(|| self.default_for(stat))
    }

    fn give(&self, fd: impl AsFd, stat: &Statx, to: Ids) -> Result<()> {
        if self.of(&fd, stat) == to {
            return Ok(());
        }
        if stat.stx_uid != self.host.uid {
            return Err(Errno::PERM);
        }
        if !has_attributes(stat) {
            // Links, FIFOs and the like cannot say it. Archives are full of links that belong to somebody, and nobody
            // asks them.
            return Ok(());
        }
        let path = host::path_of(fd);
        let set = || match to == self.default_for(stat) {
            true => removexattr(&path, ATTRIBUTE).or_else(|e| (e == Errno::NODATA).then_some(()).ok_or(e)),
            false => {
                let text = format!("{}:{}", to.uid, to.gid);
                setxattr(&path, ATTRIBUTE, text.as_bytes(), XattrFlags::empty())
            }
        };
        match set() {
            // Attributes of a file can be written by who may write the file, chown(2) is for its owner.
            Err(Errno::ACCESS) => {
                let _one = self.insisting.lock().unwrap_or_else(PoisonError::into_inner);
                let mode = |bits: u32| Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777 | bits);
                chmodat(rustix::fs::CWD, &path, mode(0o600), AtFlags::empty())?;
                let result = set();
                chmodat(rustix::fs::CWD, &path, mode(0), AtFlags::empty())?;
                result
            }
            // No attributes there.
            Err(Errno::OPNOTSUPP) => Err(Errno::PERM),
            result => result,
        }
    }
}

/// Whether such a file can have attributes of the class `user` (xattr(7)).
fn has_attributes(stat: &Statx) -> bool {
    matches!(host::kind(stat), FileType::RegularFile | FileType::Directory)
}

fn parse(text: &[u8]) -> Option<Ids> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some(Ids {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
    })
}
