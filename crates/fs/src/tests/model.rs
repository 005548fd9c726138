//! A guest's operations compared with the same ones on a plain directory.

use super::client::{Client, LIMITS};
use crate::abi::ROOT;
use crate::{Limits, ShareOptions};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, open, renameat_with};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// One operation, on paths of few names.
#[derive(Clone, Debug)]
enum Step {
    Mkdir(String),
    Create(String, u32),
    Write(String, u64, Vec<u8>),
    Append(String, Vec<u8>),
    Read(String, u64, usize),
    Truncate(String, u64),
    Chmod(String, u32),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u32),
    Link(String, String),
    Symlink(String, String),
    List(String),
    /// The guest forgets a file.
    Forget(String),
    /// The host writes a file of its own.
    Host(String, Vec<u8>),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::Mkdir),
        4 => (path(), 0u32..0o1000).prop_map(|(p, m)| Step::Create(p, m | 0o600)),
        4 => (path(), 0u64..10_000, data()).prop_map(|(p, at, d)| Step::Write(p, at, d)),
        1 => (path(), data()).prop_map(|(p, d)| Step::Append(p, d)),
        3 => (path(), 0u64..10_000, 0usize..9000).prop_map(|(p, at, n)| Step::Read(p, at, n)),
        2 => (path(), 0u64..20_000).prop_map(|(p, n)| Step::Truncate(p, n)),
        1 => (path(), 0u32..0o1000).prop_map(|(p, m)| Step::Chmod(p, m | 0o700)),
        2 => path().prop_map(Step::Unlink),
        1 => path().prop_map(Step::Rmdir),
        4 => (path(), path(), 0u32..3).prop_map(|(p, q, f)| Step::Rename(p, q, f)),
        2 => (path(), path()).prop_map(|(p, q)| Step::Link(p, q)),
        2 => (path(), path()).prop_map(|(p, q)| Step::Symlink(p, q)),
        2 => path().prop_map(Step::List),
        2 => path().prop_map(Step::Forget),
        1 => (path(), data()).prop_map(|(p, d)| Step::Host(p, d)),
    ]
}

/// What an operation says; what it reads, if it reads.
type Said = Result<Vec<u8>, Errno>;

fn errno(e: std::io::Error) -> Errno {
    crate::host::errno(&e)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The guest's way.
fn guest(c: &Client, step: &Step) -> Said {
    let parent = |path: &str| {
        let (parent, _) = split(path);
        c.find(parent)
    };
    let opened = |path: &str, flags: i32, act: &dyn Fn(u64) -> Said| {
        let handle = c.open(c.find(path)?, flags)?;
        let said = act(handle);
        c.release(handle)?;
        said
    };
    let none = |_| vec![];
    match step {
        Step::Mkdir(p) => c.mkdir(parent(p)?, split(p).1, 0o755).map(|_| vec![]),
        Step::Create(p, mode) => {
            let (_, handle) = c.create(parent(p)?, split(p).1, 0o200 | 2, *mode)?;
            c.release(handle).map(none)
        }
        Step::Write(p, at, d) => opened(p, 1, &|h| c.write(h, *at, d).map(|_| vec![])),
        Step::Append(p, d) => opened(p, 0o2001, &|h| c.write_with(h, 0, d, 0, 0o2001).map(|_| vec![])),
        Step::Read(p, at, n) => opened(p, 0, &|h| c.read(h, *at, *n)),
        Step::Truncate(p, n) => match c.getattr(c.find(p)?)?.mode >> 12 {
            // The guest's kernel knows that without asking.
            0o10 => c.truncate(c.find(p)?, *n).map(|_| vec![]),
            0o4 => Err(Errno::ISDIR),
            _ => Err(Errno::LOOP),
        },
        Step::Chmod(p, mode) => c.chmod(c.find(p)?, *mode).map(|_| vec![]),
        Step::Unlink(p) => c.unlink(parent(p)?, split(p).1).map(none),
        Step::Rmdir(p) => c.rmdir(parent(p)?, split(p).1).map(none),
        Step::Rename(p, q, flags) => c
            .rename(parent(p)?, split(p).1, parent(q)?, split(q).1, *flags)
            .map(none),
        Step::Link(p, q) => {
            let node = c.find(p)?;
            c.link(node, parent(q)?, split(q).1).map(|_| vec![])
        }
        Step::Symlink(p, q) => c.symlink(parent(q)?, split(q).1, p).map(|_| vec![]),
        Step::List(p) => Ok(c.names(c.find(p)?)?.join("\n").into()),
        Step::Forget(p) => {
            let node = c.find(p)?;
            c.forget(node, 1);
            Ok(vec![])
        }
        Step::Host(p, d) => host_write(&c.host(p), d),
    }
}

fn host_write(path: &Path, data: &[u8]) -> Said {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let file: fs::File = open(path, flags, Mode::from_raw_mode(0o644))?.into();
    file.write_all_at(data, 0).map_err(errno)?;
    Ok(vec![])
}

/// Whether a path leads through a link, which the guest's kernel would resolve by itself.
fn through_links(root: &Path, path: &str) -> bool {
    let mut at = root.to_path_buf();
    let (parent, _) = split(path);
    parent.split('/').any(|name| {
        at.push(name);
        at.is_symlink()
    })
}

/// The plain way.
fn plain(root: &Path, step: &Step) -> Said {
    let at = |path: &str| -> Result<PathBuf, Errno> {
        match through_links(root, path) {
            true => Err(Errno::NOTDIR),
            false => Ok(root.join(path)),
        }
    };
    let opened = |path: &str, flags: OFlags| -> Result<fs::File, Errno> {
        let path = at(path)?;
        let directory = path.symlink_metadata().map_err(errno)?.is_dir();
        if directory {
            return Err(Errno::ISDIR);
        }
        Ok(open(path, flags | OFlags::NOFOLLOW, Mode::empty())?.into())
    };
    match step {
        Step::Mkdir(p) => fs::DirBuilder::new()
            .mode(0o755)
            .create(at(p)?)
            .map(|()| vec![])
            .map_err(errno),
        Step::Create(p, mode) => {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let file: fs::File = open(at(p)?, flags, Mode::empty())?.into();
            file.set_permissions(PermissionsExt::from_mode(*mode))
                .map_err(errno)?;
            Ok(vec![])
        }
        Step::Write(p, from, d) => {
            let file = opened(p, OFlags::WRONLY)?;
            file.write_all_at(d, *from).map_err(errno)?;
            Ok(vec![])
        }
        Step::Append(p, d) => {
            let mut file = opened(p, OFlags::WRONLY | OFlags::APPEND)?;
            std::io::Write::write_all(&mut file, d).map_err(errno)?;
            Ok(vec![])
        }
        Step::Read(p, from, n) => {
            let file = opened(p, OFlags::RDONLY)?;
            let mut out = vec![0; *n];
            let n = file.read_at(&mut out, *from).map_err(errno)?;
            out.truncate(n);
            Ok(out)
        }
        Step::Truncate(p, n) => {
            let file = opened(p, OFlags::WRONLY)?;
            file.set_len(*n).map_err(errno)?;
            Ok(vec![])
        }
        Step::Chmod(p, mode) => {
            let path = at(p)?;
            match path.symlink_metadata().map_err(errno)?.is_symlink() {
                true => Err(Errno::OPNOTSUPP),
                false => fs::set_permissions(path, PermissionsExt::from_mode(*mode))
                    .map(|()| vec![])
                    .map_err(errno),
            }
        }
        Step::Unlink(p) => fs::remove_file(at(p)?).map(|()| vec![]).map_err(errno),
        Step::Rmdir(p) => fs::remove_dir(at(p)?).map(|()| vec![]).map_err(errno),
        Step::Rename(p, q, flags) => {
            let flags = RenameFlags::from_bits_retain(*flags);
            renameat_with(CWD, at(p)?, CWD, at(q)?, flags).map(|()| vec![])
        }
        Step::Link(p, q) => linkat(CWD, at(p)?, CWD, at(q)?, AtFlags::empty()).map(|()| vec![]),
        Step::Symlink(p, q) => symlink(p, at(q)?).map(|()| vec![]).map_err(errno),
        Step::List(p) => {
            let path = at(p)?;
            if path.is_symlink() {
                return Err(Errno::NOTDIR);
            }
            let mut names: Vec<_> = fs::read_dir(path)
                .map_err(errno)?
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            Ok(names.join("\n").into())
        }
        Step::Forget(p) => at(p)?.symlink_metadata().map(|_| vec![]).map_err(errno),
        Step::Host(p, d) => host_write(&root.join(p), d),
    }
}

/// All that is in a directory: permissions, links, size, and content or target.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let m = path.symlink_metadata().unwrap();
        let content = if m.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            vec![]
        } else if m.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let links = if m.is_dir() { 0 } else { m.nlink() };
        all.insert(
            path.strip_prefix(root).unwrap().into(),
            (m.mode(), links, content),
        );
    }
    all
}

fn same(steps: &[Step], descriptors: usize) -> Result<(), TestCaseError> {
    let limits = Limits {
        descriptors,
        ..LIMITS
    };
    let c = Client::with(&ShareOptions::default(), &limits);
    let root = tempfile::tempdir().unwrap();
    for (n, step) in steps.iter().enumerate() {
        // Errors may differ in which of two things is wrong first; that something is, must not.
        let (ours, theirs) = (guest(&c, step), plain(root.path(), step));
        match (&ours, &theirs) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b, "step {}: {:?}", n, step),
            (Err(_), Err(_)) => {}
            _ => prop_assert!(false, "step {n}, {step:?}: {ours:?} and {theirs:?}"),
        }
    }
    prop_assert_eq!(tree(&c.host("")), tree(root.path()));
    // What the guest knows fits what is there.
    for path in tree(root.path()).keys().filter_map(|p| p.to_str()) {
        let known = c.find(path).and_then(|node| c.getattr(node));
        let there = root.path().join(path).symlink_metadata().unwrap();
        prop_assert_eq!(known.map(|a| a.mode), Ok(there.mode()), "{}", path);
    }
    prop_assert_eq!(ROOT, 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn a_shared_directory_is_like_any_other(steps in prop::collection::vec(step(), 1..120)) {
        same(&steps, 100)?;
    }

    #[test]
    fn it_is_with_few_descriptors(steps in prop::collection::vec(step(), 1..120)) {
        same(&steps, 2)?;
    }
}
