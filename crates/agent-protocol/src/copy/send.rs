//! Making a tar stream.

use super::{CopyError, Kind, Report};
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// What there is at `path`; with `follow`, behind it if it is a symbolic link.
pub fn kind(path: &Path, follow: bool) -> Result<Kind, CopyError> {
    let metadata = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    let metadata = metadata.map_err(CopyError::file("find", path))?;
    if metadata.is_dir() {
        Ok(Kind::Directory)
    } else if metadata.is_symlink() {
        Ok(Kind::Symlink)
    } else if metadata.is_file() {
        Ok(Kind::File)
    } else {
        Err(CopyError::Unsupported(
            path.into(),
            "which is no file, directory or symbolic link",
        ))
    }
}

/// Writes what is at `path`, of this [`kind`], as a tar stream. The entries of a directory have names relative to it.
pub fn send(path: &Path, kind: Kind, out: impl Write) -> Result<Report, CopyError> {
    let mut sender = Sender {
        archive: Builder::new(out),
        report: Report::default(),
    };
    match kind {
        Kind::Directory => sender.tree(path)?,
        Kind::File => {
            let path = fs::canonicalize(path).map_err(CopyError::file("find", path))?;
            sender.file(&path, Path::new("file"))?;
        }
        Kind::Symlink => sender.symlink(path, Path::new("link"))?,
    }
    let flushed = sender.archive.into_inner().and_then(|mut out| out.flush());
    flushed.map_err(CopyError::Stream)?;
    Ok(sender.report)
}

struct Sender<W: Write> {
    archive: Builder<W>,
    report: Report,
}

impl<W: Write> Sender<W> {
    /// A directory and what is in it: of each directory first what is not one itself.
    fn tree(&mut self, top: &Path) -> Result<(), CopyError> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(name) = waiting.pop() {
            let path = top.join(&name);
            let listed = fs::symlink_metadata(path.join(".")).and_then(|m| Ok((m, fs::read_dir(&path)?)));
            let (metadata, entries) = match listed {
                Ok(both) => both,
                Err(e) if gone(&e) && !name.as_os_str().is_empty() => {
                    self.report.skip(&path);
                    continue;
                }
                Err(e) => return Err(CopyError::file("read", &path)(e)),
            };
            let mut header = header(&metadata, EntryType::Directory);
            self.append(&mut header, &Path::new(".").join(&name), io::empty())?;
            self.report.directories += 1;
            for entry in entries {
                let entry = entry.map_err(CopyError::file("read", &path))?;
                let (path, name) = (entry.path(), name.join(entry.file_name()));
                match entry.file_type() {
                    Ok(t) if t.is_dir() => waiting.push(name),
                    Ok(t) if t.is_file() => self.file(&path, &name)?,
                    Ok(t) if t.is_symlink() => self.symlink(&path, &name)?,
                    _ => self.report.skip(&path),
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &Path) -> Result<(), CopyError> {
        // It may have become something else since: no link is followed and no FIFO waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .and_then(|f| Ok((f.metadata()?, f)));
        let (metadata, file) = match opened {
            Ok((m, f)) if m.is_file() => (m, f),
            Ok(_) => {
                self.report.skip(path);
                return Ok(());
            }
            Err(e) if gone(&e) => {
                self.report.skip(path);
                return Ok(());
            }
            Err(e) => return Err(CopyError::file("read", path)(e)),
        };
        let mut header = header(&metadata, EntryType::Regular);
        header.set_size(metadata.len());
        let mut failed = None;
        let content = Exactly {
            file,
            left: metadata.len(),
            failed: &mut failed,
        };
        let appended = self.append(&mut header, name, content);
        if let Some(e) = failed {
            return Err(CopyError::file("read", path)(e));
        }
        appended?;
        self.report.files += 1;
        self.report.bytes += metadata.len();
        Ok(())
    }

    fn symlink(&mut self, path: &Path, name: &Path) -> Result<(), CopyError> {
        let read = fs::symlink_metadata(path).and_then(|m| Ok((m, fs::read_link(path)?)));
        let (metadata, link) = match read {
            Ok(both) => both,
            Err(e) if gone(&e) => {
                self.report.skip(path);
                return Ok(());
            }
            Err(e) => return Err(CopyError::file("read", path)(e)),
        };
        let mut header = header(&metadata, EntryType::Symlink);
        let appended = self.archive.append_link(&mut header, name, link);
        appended.map_err(CopyError::Stream)?;
        self.report.symlinks += 1;
        Ok(())
    }

    fn append(&mut self, header: &mut Header, name: &Path, content: impl Read) -> Result<(), CopyError> {
        let appended = self.archive.append_data(header, name, content);
        appended.map_err(CopyError::Stream)
    }
}

/// Whether it was removed, or replaced by something of another kind, since it was listed.
fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.kind() == ErrorKind::NotADirectory
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn header(metadata: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// A file's content in the length that was announced, even if it changes meanwhile.
struct Exactly<'a> {
    file: File,
    left: u64,
    failed: &'a mut Option<io::Error>,
}

impl Read for Exactly<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let out = &mut out[..room];
        let n = match self.file.read(out) {
            // It became shorter.
            Ok(0) => {
                out.fill(0);
                room
            }
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                let told = io::Error::from(e.kind());
                *self.failed = Some(e);
                return Err(told);
            }
        };
        self.left -= n as u64;
        Ok(n)
    }
}
