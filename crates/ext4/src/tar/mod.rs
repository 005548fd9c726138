//! Tar archives as image layers have them: POSIX.1-2017 pax and ustar, GNU's and the old format, with sparse files
//! (GNU tar manual, "Basic Tar Format", "Storing Sparse Files"). What an archive claims never makes this take memory
//! beyond fixed bounds.

mod block;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use crate::Timestamp;
use block::{BLOCK, Block};
use pax::Extensions;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// An archive contradicts its format.
#[derive(Debug, thiserror::Error)]
#[error("the tar archive is damaged at offset {offset}: {what}")]
pub struct Malformed {
    offset: u64,
    what: &'static str,
}

/// Bytes of a pax header's records or of a sparse file's map.
const MAX_EXTENSION: u64 = 1 << 20;
/// Bytes of a path in a GNU long name.
const MAX_LONG_NAME: u64 = 64 << 10;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    File,
    Link,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A member of an archive.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Type,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes of the file, holes included.
    pub(crate) real_size: u64,
    /// Where the file's stored bytes belong: offset and length, ascending; one run if it is not sparse.
    pub(crate) runs: Vec<(u64, u64)>,
}

/// An archive being read.
pub(crate) struct Archive<'a> {
    reader: &'a mut dyn Read,
    offset: u64,
    /// Of the current member's content, and the padding behind it.
    left: u64,
    padding: u64,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(reader: &'a mut dyn Read) -> Self {
        Self {
            reader,
            offset: 0,
            left: 0,
            padding: 0,
        }
    }

    /// The next member; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Header>, crate::Error> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.block()? else {
                return match extended {
                    true => Err(self.malformed("it ends after an extended header").into()),
                    false => Ok(None),
                };
            };
            let size = block.size().map_err(|what| self.malformed(what))?;
            self.enter(size)?;
            match block.kind() {
                b'x' => extensions
                    .parse(&self.extension(MAX_EXTENSION)?)
                    .map_err(|w| self.malformed(w))?,
                // Global records are comments in practice (git's commit); container tools pass over them too.
                b'g' => continue,
                b'L' => extensions.path = Some(long_name(self.extension(MAX_LONG_NAME)?)),
                b'K' => extensions.link = Some(long_name(self.extension(MAX_LONG_NAME)?)),
                _ => return self.member(&block, extensions).map(Some),
            }
            extended = true;
        }
    }

    /// The current member's stored bytes.
    pub(crate) fn content(&mut self) -> Stored<'_, 'a> {
        Stored { archive: self }
    }

    fn member(&mut self, block: &Block, extensions: Extensions) -> Result<Header, crate::Error> {
        let bad = |what| Malformed {
            offset: self.offset,
            what,
        };
        let path = extensions.path.clone().unwrap_or_else(|| block.path());
        let kind = match block.kind() {
            // Before POSIX a directory was a file whose name ends like one.
            0 | b'0' if path.ends_with(b"/") => Type::Directory,
            0 | b'0' | b'7' | b'S' => Type::File,
            b'1' => Type::Link,
            b'2' => Type::Symlink,
            b'3' => Type::CharDevice,
            b'4' => Type::BlockDevice,
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            _ => return Err(bad("it has a member of an unknown type").into()),
        };
        let size = match extensions.size {
            Some(size) => size,
            None => self.left,
        };
        let number = |from_pax: Option<u64>, from_block: Result<i64, &'static str>| match from_pax {
            Some(n) => u32::try_from(n).map_err(|_| "an owner is not a 32-bit number"),
            None => {
                from_block.and_then(|n| u32::try_from(n).map_err(|_| "a number in a header is too large"))
            }
        };
        let uid = number(extensions.uid, block.uid()).map_err(bad)?;
        let gid = number(extensions.gid, block.gid()).map_err(bad)?;
        let device = matches!(kind, Type::CharDevice | Type::BlockDevice);
        let (major, minor) = match device {
            true => (
                number(None, block.major()).map_err(bad)?,
                number(None, block.minor()).map_err(bad)?,
            ),
            false => (0, 0),
        };
        // What ext4 can hold (12 and 20 bits: Linux, include/linux/kdev_t.h).
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(bad("a device's number is too large").into());
        }
        let mode = (block.mode().map_err(bad)? & 0o7777) as u16;
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => Timestamp::seconds(block.mtime().map_err(bad)?),
        };
        let link = extensions.link.clone().unwrap_or_else(|| block.link());
        let mut header = Header {
            path,
            kind,
            link,
            mode,
            uid,
            gid,
            mtime,
            major,
            minor,
            xattrs: BTreeMap::new(),
            real_size: size,
            runs: vec![(0, size)],
        };
        self.enter(match kind {
            Type::File => size,
            // A size there is what the file once had, not what is stored.
            _ => 0,
        })?;
        if kind == Type::File {
            self.sparse(block, &extensions, &mut header)?;
        }
        header.xattrs = extensions.xattrs;
        Ok(header)
    }

    /// The next block of 512 bytes with something in it; `None` at the end.
    fn block(&mut self) -> Result<Option<Block>, crate::Error> {
        let mut zero = false;
        loop {
            let mut bytes = [0; BLOCK];
            match self.read_exact_or_end(&mut bytes)? {
                false => return Ok(None),
                true if bytes.iter().any(|b| *b != 0) => {
                    let block = Block::new(bytes).map_err(|what| self.malformed(what))?;
                    return match zero {
                        true => Err(self.malformed("a lone block of zeroes is in the middle").into()),
                        false => Ok(Some(block)),
                    };
                }
                true if zero => return Ok(None),
                true => zero = true,
            }
        }
    }

    /// Whether there was anything; a part of it is an error.
    fn read_exact_or_end(&mut self, out: &mut [u8]) -> Result<bool, crate::Error> {
        let mut got = 0;
        while got < out.len() {
            match self.reader.read(&mut out[got..]) {
                Ok(0) if got == 0 => return Ok(false),
                Ok(0) => return Err(self.malformed("it ends in the middle").into()),
                Ok(n) => {
                    got += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(crate::Error::Read(e)),
            }
        }
        Ok(true)
    }

    fn enter(&mut self, size: u64) -> Result<(), Malformed> {
        if size > i64::MAX as u64 {
            return Err(self.malformed("a size is beyond any file's"));
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    /// Goes to the next header.
    fn skip_rest(&mut self) -> Result<(), crate::Error> {
        let mut buffer = [0; 8192];
        self.left += std::mem::take(&mut self.padding);
        while self.left > 0 {
            let want = self.left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..want])?;
        }
        Ok(())
    }

    /// Reads content, all of `out`.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), crate::Error> {
        if out.len() as u64 > self.left || !self.read_exact_or_end(out)? {
            return Err(self.malformed("it ends in the middle").into());
        }
        self.left -= out.len() as u64;
        Ok(())
    }

    /// The content of a header that extends the next one.
    fn extension(&mut self, limit: u64) -> Result<Vec<u8>, crate::Error> {
        if self.left > limit {
            return Err(self.malformed("an extended header is too large").into());
        }
        let mut bytes = vec![0; self.left as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            offset: self.offset,
            what,
        }
    }
}

/// Reads the current member's stored bytes.
pub(crate) struct Stored<'s, 'a> {
    archive: &'s mut Archive<'a>,
}

impl Read for Stored<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = out
            .len()
            .min(usize::try_from(self.archive.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.archive.reader.read(&mut out[..want])?;
        if got == 0 {
            let error = self.archive.malformed("it ends in the middle");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        self.archive.left -= got as u64;
        self.archive.offset += got as u64;
        Ok(got)
    }
}

/// GNU's long names end with a zero byte.
fn long_name(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}
