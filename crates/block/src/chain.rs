//! Opening images, with what lies below them.

use crate::error::{Corrupt, OpenError};
use crate::image::{Driver, Format, Image};
use crate::lock::{LockError, lock};
use crate::probe::{PROBED, looks_like};
use crate::qcow2::{Header, HeaderError, Qcow2};
use crate::raw::Raw;
use crate::store::Store;
use crate::vmdk::Vmdk;
use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images in a chain, at most.
pub(crate) const DEPTH: usize = 100;

/// How to open an image.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its format; found out from its content if not given. Whose guest is not trusted should name it: see
    /// [`Image::write`] of images whose content says nothing.
    pub format: Option<Format>,
    /// Not to be written to.
    pub read_only: bool,
    /// Whether others are kept from writing to it, as QEMU does it. Without a lock an image may be looked at that
    /// somebody else writes to, if what is read does not matter much.
    pub lock: bool,
}

impl Default for Options {
    /// Any format, for writing, with locks.
    fn default() -> Self {
        Self {
            format: None,
            read_only: false,
            lock: true,
        }
    }
}

/// Opens an image and its backing files, these for reading only.
pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Arc<Image>, OpenError> {
    open_in(path.as_ref(), options, &mut vec![]).map(Arc::new)
}

/// `chain` has the device and inode of what lies above.
fn open_in(path: &Path, options: &Options, chain: &mut Vec<(u64, u64)>) -> Result<Image, OpenError> {
    let store = open_unlocked(path, options)?;
    let found = store.file().metadata().map_err(OpenError::io("examine", path))?;
    let identity = (found.dev(), found.ino());
    if chain.contains(&identity) {
        return Err(OpenError::Loop);
    }
    if chain.len() >= DEPTH {
        return Err(OpenError::Depth(DEPTH));
    }
    chain.push(identity);
    // Not before: of an image that is there twice, one would be in the other's way.
    claim(&store, options)?;
    let format = format_of(&store, options.format)?;
    let mut backing = None;
    let driver = match format {
        Format::Raw => {
            let raw = Raw::new(store, options.format.is_none());
            Driver::Raw(raw.map_err(OpenError::io("examine", path))?)
        }
        Format::Qcow2 => {
            let header = read_header(&store)?;
            backing = match &header.backing {
                Some(name) => Some(open_backing(
                    path,
                    name,
                    header.backing_format.as_deref(),
                    options,
                    chain,
                )?),
                None => None,
            };
            let data = match header.data_file() {
                true => Some(open_data_file(path, &header, options)?),
                false => None,
            };
            let image = Qcow2::open(store, data, header, backing.clone(), options.read_only)?;
            Driver::Qcow2(Box::new(image))
        }
        Format::Vmdk if !options.read_only => return Err(OpenError::only_read(path, format)),
        Format::Vmdk => Driver::Vmdk(Vmdk::open(store, options)?),
    };
    Ok(Image {
        driver,
        path: path.to_owned(),
        backing,
        read_only: options.read_only,
    })
}

/// Opens a file whose content is used as it is, with the lock that an image has: who writes to it is alone with it,
/// who only reads shares it with others who do. The lock lasts as long as the file is open.
pub fn open_content(path: &Path, read_only: bool) -> Result<File, OpenError> {
    let options = Options {
        read_only,
        ..Options::default()
    };
    let store = open_file(path, &options)?;
    store.file().try_clone().map_err(OpenError::io("open", path))
}

/// Opens and locks a file.
pub(crate) fn open_file(path: &Path, options: &Options) -> Result<Store, OpenError> {
    let store = open_unlocked(path, options)?;
    claim(&store, options)?;
    Ok(store)
}

fn claim(store: &Store, options: &Options) -> Result<(), OpenError> {
    if !options.lock {
        return Ok(());
    }
    let path = store.path();
    lock(store.file(), !options.read_only).map_err(|e| match e {
        LockError::Busy(holder) => OpenError::Busy {
            file: path.to_owned(),
            holder,
        },
        LockError::Io(e) => OpenError::io("lock", path)(e),
    })
}

fn open_unlocked(path: &Path, options: &Options) -> Result<Store, OpenError> {
    let failed = |e: io::Error, verb| match e.kind() {
        io::ErrorKind::NotFound => OpenError::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => OpenError::Permission {
            file: path.to_owned(),
            verb,
        },
        io::ErrorKind::ReadOnlyFilesystem => OpenError::Permission {
            file: path.to_owned(),
            verb: "written",
        },
        _ => OpenError::io("open", path)(e),
    };
    // Opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path)
        .map_err(|e| failed(e, "read"))?
        .file_type();
    if let Some(what) = not_a_disk(kind) {
        return Err(OpenError::NotAFile {
            file: path.to_owned(),
            what,
        });
    }
    let file = File::options().read(true).write(!options.read_only).open(path);
    let file = file.map_err(|e| {
        let readable = !options.read_only && File::open(path).is_ok();
        failed(e, if readable { "written" } else { "read" })
    })?;
    Store::new(file, path).map_err(OpenError::io("examine", path))
}

fn not_a_disk(kind: FileType) -> Option<&'static str> {
    match kind {
        k if k.is_file() || k.is_block_device() => None,
        k if k.is_dir() => Some("a directory"),
        k if k.is_fifo() => Some("a pipe"),
        k if k.is_socket() => Some("a socket"),
        _ => Some("a character device"),
    }
}

/// The format that was named, if the content agrees, or that of the content.
pub(crate) fn format_of(store: &Store, named: Option<Format>) -> Result<Format, OpenError> {
    let path = store.path();
    let mut first = [0; PROBED];
    store.read(0, &mut first).map_err(OpenError::io("read", path))?;
    match (named, looks_like(&first)) {
        // Anything may be on a disk that is said to be raw.
        (Some(Format::Raw), _) | (None, "raw") => Ok(Format::Raw),
        (None | Some(Format::Qcow2), "qcow2") => Ok(Format::Qcow2),
        (None | Some(Format::Vmdk), "vmdk") => Ok(Format::Vmdk),
        (Some(expected), found) => Err(OpenError::WrongFormat {
            file: path.to_owned(),
            expected,
            found,
        }),
        (None, found) => Err(OpenError::Unsupported {
            file: path.to_owned(),
            what: format!("the format {found}"),
        }),
    }
}

pub(crate) fn read_header(store: &Store) -> Result<Header, OpenError> {
    let path = store.path();
    let mut head = vec![0; 512];
    let mut there = store.read(0, &mut head).map_err(OpenError::io("read", path))?;
    // Clusters of 2 MiB are the largest there are.
    let cluster = 1 << u32::from_be_bytes([head[20], head[21], head[22], head[23]]).clamp(9, 21);
    if cluster > head.len() {
        head.resize(cluster, 0);
        there = store.read(0, &mut head).map_err(OpenError::io("read", path))?;
    }
    head.truncate(there);
    Header::parse(&head).map_err(|e| match e {
        HeaderError::Wrong(what, at) => Corrupt::new(path, what, at).into(),
        HeaderError::Unsupported(what) => OpenError::Unsupported {
            file: path.to_owned(),
            what,
        },
    })
}

/// The path that a name in an image means: relative to the image's directory.
pub(crate) fn beside(image: &Path, name: &str) -> PathBuf {
    let name = name.strip_prefix("file:").unwrap_or(name);
    image.parent().unwrap_or(Path::new("")).join(name)
}

/// Whether a name is one of QEMU's for something that is not a file: `nbd://…`, `json:{…}`.
fn has_protocol(name: &str) -> bool {
    let name = name.strip_prefix("file:").unwrap_or(name);
    name.find(':').is_some_and(|colon| !name[..colon].contains('/'))
}

fn open_backing(
    overlay: &Path,
    name: &str,
    format: Option<&str>,
    options: &Options,
    chain: &mut Vec<(u64, u64)>,
) -> Result<Arc<Image>, OpenError> {
    let backing = beside(overlay, name);
    let open = |chain: &mut _| {
        if has_protocol(name) {
            return Err(OpenError::Unsupported {
                file: overlay.to_owned(),
                what: format!("a backing file that is not a local file ({name:?})"),
            });
        }
        let format = match format {
            None | Some("") => None,
            Some("qcow2") => Some(Format::Qcow2),
            Some("vmdk") => Some(Format::Vmdk),
            Some("raw" | "file" | "host_device") => Some(Format::Raw),
            Some(other) => {
                return Err(OpenError::Unsupported {
                    file: backing.clone(),
                    what: format!("the format {other:?}"),
                });
            }
        };
        let options = Options {
            format,
            read_only: true,
            lock: options.lock,
        };
        open_in(&backing, &options, chain)
    };
    match open(chain) {
        Ok(image) => Ok(Arc::new(image)),
        Err(source) => Err(OpenError::Backing {
            overlay: overlay.to_owned(),
            backing,
            source: Box::new(source),
        }),
    }
}

fn open_data_file(image: &Path, header: &Header, options: &Options) -> Result<Store, OpenError> {
    let Some(name) = header.data_file_name.as_deref().filter(|n| !has_protocol(n)) else {
        return Err(OpenError::Unsupported {
            file: image.to_owned(),
            what: "an external data file that is not a named local file".into(),
        });
    };
    open_file(&beside(image, name), options)
}
