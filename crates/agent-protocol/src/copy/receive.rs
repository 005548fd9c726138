//! Writing what a tar stream has in it.

use super::beneath::{Beneath, relative};
use super::draft::{Draft, fill};
use super::entries::{Item, each};
use super::{CopyError, Options, Report, Target};
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, chownat, fchmod, fchown, futimens, linkat, mkdirat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Writes the stream's entries to `target`. What was there of the same names is replaced; a file that could not be
/// copied whole leaves what was there before.
pub fn receive(target: &Target, input: impl Read, options: Options) -> Result<Report, CopyError> {
    let (base, only) = match target {
        Target::Directory(path) => {
            match std::fs::create_dir(path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(CopyError::file("make the directory", path)(e));
                }
                _ => {}
            }
            (path.as_path(), None)
        }
        Target::File(path) => {
            let no_name = || CopyError::Name(path.display().to_string());
            let name = path.file_name().ok_or_else(no_name)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), Some(name))
        }
    };
    let root = Beneath::open(base).map_err(|e| CopyError::file("open the directory", base)(e.into()))?;
    let mut receiver = Receiver {
        root,
        only: only.map(PathBuf::from),
        options,
        report: Report::default(),
        unfinished: vec![],
    };
    let mut input = input;
    each(&mut input, |item| receiver.entry(item))?;
    receiver.finish_all();
    // What follows the archive's end.
    io::copy(&mut input, &mut io::sink()).map_err(CopyError::Stream)?;
    let report = std::mem::take(&mut receiver.report);
    match receiver.only.take() {
        Some(name) if report == Report::default() => Err(CopyError::NotOneFile(name)),
        _ => Ok(report),
    }
}

struct Receiver {
    root: Beneath,
    /// The one file that may be written.
    only: Option<PathBuf>,
    options: Options,
    report: Report,
    /// New directories that entries may still follow for, each in the one before.
    unfinished: Vec<(PathBuf, Attributes)>,
}

/// What a file has beside its content.
#[derive(Clone)]
struct Attributes {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    times: Timestamps,
}

impl Receiver {
    fn entry<R: Read>(&mut self, mut item: Item<'_, '_, R>) -> Result<(), CopyError> {
        let single = matches!(
            item.kind,
            EntryType::Regular | EntryType::Continuous | EntryType::Symlink
        );
        let path = match &self.only {
            Some(_) if !single || self.report != Report::default() => {
                return Err(CopyError::NotOneFile(item.path));
            }
            Some(name) => name.clone(),
            None => relative(&item.path)?,
        };
        self.finish_but(&path);
        let attributes = self.attributes(&item);
        match item.kind {
            EntryType::Directory => self.directory(path, attributes),
            // Old archives mark directories by their name alone.
            EntryType::Regular | EntryType::Continuous
                if item.path.as_os_str().as_encoded_bytes().ends_with(b"/") =>
            {
                self.directory(path, attributes)
            }
            EntryType::Regular | EntryType::Continuous => self.file(&path, attributes, &mut item),
            EntryType::Symlink => self.symlink(&path, attributes, &item.link),
            EntryType::Link => self.link(&path, &item.link),
            EntryType::GNUSparse => Err(CopyError::Unsupported(item.path, "a sparse file of GNU tar")),
            _ => {
                self.report.skip(&item.path);
                Ok(())
            }
        }
    }

    fn attributes<R: Read>(&self, item: &Item<'_, '_, R>) -> Attributes {
        let keep = self.options.preserve;
        let time = Timespec {
            tv_sec: i64::try_from(item.mtime).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        Attributes {
            mode: Mode::from_raw_mode(item.mode & if keep { 0o7777 } else { 0o777 }),
            owner: keep.then(|| (Uid::from_raw(item.owner.0), Gid::from_raw(item.owner.1))),
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
        }
    }

    fn directory(&mut self, path: PathBuf, attributes: Attributes) -> Result<(), CopyError> {
        self.report.directories += 1;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let (parent, name) = self.root.parent(&path)?;
        // Nobody else's before it is finished.
        match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => self.unfinished.push((path, attributes)),
            // There may be a symbolic link to one.
            Err(Errno::EXIST) => match self.root.directory(&path) {
                Ok(_) => {}
                Err(Errno::XDEV) => return Err(CopyError::Outside(path)),
                Err(e) => return Err(CopyError::file("open the directory", &path)(e.into())),
            },
            Err(e) => return Err(CopyError::file("make the directory", &path)(e.into())),
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &Path,
        attributes: Attributes,
        item: &mut Item<'_, '_, R>,
    ) -> Result<(), CopyError> {
        let (parent, name) = self.root.parent(path)?;
        let failed = |e: Errno| CopyError::file("write", path)(e.into());
        let draft = Draft::new(parent).map_err(failed)?;
        fill(&draft.file, item, path)?;
        attributes.apply(&draft.file).map_err(failed)?;
        draft.publish(name).map_err(failed)?;
        self.report.files += 1;
        self.report.bytes = self.report.bytes.saturating_add(item.size);
        Ok(())
    }

    fn symlink(&mut self, path: &Path, attributes: Attributes, to: &Path) -> Result<(), CopyError> {
        let (parent, name) = self.root.parent(path)?;
        let failed = |e: Errno| CopyError::file("make the symbolic link", path)(e.into());
        replace(&parent, name, || symlinkat(to, &parent, name)).map_err(failed)?;
        if let Some((uid, gid)) = attributes.owner {
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        }
        utimensat(&parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        self.report.symlinks += 1;
        Ok(())
    }

    /// A hard link to something that came before.
    fn link(&mut self, path: &Path, to: &Path) -> Result<(), CopyError> {
        let to = relative(to)?;
        let (from, old) = self.root.parent(&to)?;
        let (parent, name) = self.root.parent(path)?;
        let failed = |e: Errno| CopyError::file("make the hard link", path)(e.into());
        replace(&parent, name, || {
            linkat(&from, old, &parent, name, AtFlags::empty())
        })
        .map_err(failed)?;
        self.report.files += 1;
        Ok(())
    }

    /// Gives the directories that `path` is not in what they are to have: entries in them would change it.
    fn finish_but(&mut self, path: &Path) {
        while let Some((last, _)) = self.unfinished.last()
            && !path.starts_with(last)
        {
            self.finish_last();
        }
    }

    fn finish_all(&mut self) {
        while !self.unfinished.is_empty() {
            self.finish_last();
        }
    }

    fn finish_last(&mut self) {
        if let Some((path, attributes)) = self.unfinished.pop()
            && let Ok(directory) = self.root.directory(&path)
        {
            // What is in it was copied: a mode or time that cannot be set is not worth failing for.
            let _ = attributes.apply(&directory);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.finish_all();
    }
}

impl Attributes {
    fn apply(&self, file: impl AsFd) -> rustix::io::Result<()> {
        // Changing the owner takes set-ID bits away.
        if let Some((uid, gid)) = self.owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        fchmod(&file, self.mode)?;
        futimens(&file, &self.times)
    }
}

/// Makes something in place of what has its name, if that is no directory.
fn replace(
    parent: &OwnedFd,
    name: &OsStr,
    make: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        other => other,
    }
}
