//! Building an image of Debian from its packages: mmdebstrap installs them, without privilege where the host's kernel
//! has user namespaces, from the mirrors that the host's own apt uses.

use super::apt::Apt;
use super::disk::{self, DiskError, NewDisk};
use super::{Complaint, ImageError};
use crate::cache::{Cache, CacheError};
use crate::progress::Progress;
use crate::record::RecordError;
use crate::store::{ImageRecord, Kind, Store, StoreError, Stored, now};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What is installed beside what Debian calls essential.
const PACKAGES: &[&str] = &[
    "bash-completion",
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "less",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "nano",
    "openssh-server",
    "procps",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
];

/// Files that are put over those of the packages: path, permissions, content.
const FILES: &[(&str, u32, &str)] = &[
    // The one locale that the C library has without generating it. Without a choice cloud-init tries en_US, and fails.
    ("etc/default/locale", 0o644, "LANG=C.UTF-8\n"),
    ("etc/fstab", 0o644, "LABEL=debian / ext4 errors=remount-ro 0 0\n"),
    ("etc/hostname", 0o644, "debian\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    // systemd makes one at the first boot.
    ("etc/machine-id", 0o444, ""),
    (
        "etc/systemd/network/80-dhcp.network",
        0o644,
        include_str!("../../debian/dhcp.network"),
    ),
    (
        "etc/systemd/system/ssh.service.d/keys.conf",
        0o644,
        include_str!("../../debian/ssh-keys.conf"),
    ),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/login.conf",
        0o644,
        include_str!("../../debian/console-login.conf"),
    ),
    (
        "etc/systemd/system/serial-getty@hvc0.service.d/login.conf",
        0o644,
        include_str!("../../debian/console-login.conf"),
    ),
    (
        "etc/cloud/cloud.cfg.d/90_datasources.cfg",
        0o644,
        include_str!("../../debian/datasources.cfg"),
    ),
    (
        "etc/cloud/ds-identify.cfg",
        0o644,
        include_str!("../../debian/ds-identify.cfg"),
    ),
];

/// What packages made while they were installed and each domain has to make for itself.
const REMOVED: &[&str] = &[
    "etc/ssh/ssh_host_ecdsa_key",
    "etc/ssh/ssh_host_ecdsa_key.pub",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/ssh/ssh_host_rsa_key",
    "etc/ssh/ssh_host_rsa_key.pub",
];

/// Links: path and target.
const LINKS: &[(&str, &str)] = &[
    ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
    (
        "etc/systemd/system/dbus-org.freedesktop.network1.service",
        "/lib/systemd/system/systemd-networkd.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    ),
    (
        "etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
        "/lib/systemd/system/systemd-networkd.socket",
    ),
    (
        "etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service",
        "/lib/systemd/system/systemd-networkd-wait-online.service",
    ),
];

/// Bytes of an image's disk; what is not used takes no room.
const SIZE: u64 = 16 << 30;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// apt, or the cache.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No such suite.
    #[error(
        "{0:?} is not a suite of Debian; write it as debian:bookworm, with lower-case letters, digits and hyphens"
    )]
    Suite(String),
    /// The host does not know where it is.
    #[error(
        "the host's apt has no packages of Debian {suite}: it has {there}. Build one of these, such as \
         `donjon image build debian:{first}`, or add {suite} to /etc/apt/sources.list.d{apt}",
        apt = .apt.as_ref().map(|said| format!(" (apt said: {said})")).unwrap_or_default()
    )]
    NotThere {
        /// What was asked for.
        suite: String,
        /// What there is.
        there: String,
        /// One of them.
        first: String,
        /// What apt complained about.
        apt: Option<String>,
    },
    /// The store of images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A program is missing.
    #[error(
        "Debian images are made by mmdebstrap, which is not on this host: `sudo apt-get install mmdebstrap`"
    )]
    NoMmdebstrap,
    /// It could not be started.
    #[error("cannot run mmdebstrap: {0}; see whether `mmdebstrap --version` works")]
    Spawn(io::Error),
    /// It failed.
    #[error(
        "mmdebstrap failed:\n{said}\n{advice}",
        said = super::indented(.said),
        advice = advice(.said)
    )]
    Failed {
        /// Its last lines.
        said: String,
    },
}

fn advice(said: &str) -> &'static str {
    if said.contains("unshare") || said.contains("newuidmap") || said.contains("subuid") {
        "To build as an ordinary user, the host needs user namespaces: `sudo apt-get install uidmap`, \
         `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`, and log in again"
    } else if said.contains("No space left") {
        "Free some disk space; mmdebstrap needs 2 GB in $TMPDIR (or /tmp)"
    } else {
        "See whether `sudo apt-get update` works on this host, then try again"
    }
}

/// Makes the image of a suite and calls it `name`, unless one of that name is there that came at `since` (seconds since
/// 1970) or later. Who wants the same meanwhile waits.
pub fn build(
    store: &Store,
    cache: &Cache,
    suite: &str,
    name: &str,
    since: u64,
    progress: &dyn Progress,
) -> Result<Stored, DebianError> {
    let _making = store.making(name, || {
        progress.step(&format!("waiting for another donjon that makes {name}"));
    })?;
    match store.image(name) {
        Ok(stored) if stored.image.created >= since => return Ok(stored),
        Ok(_) | Err(StoreError::Unknown { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let draft = store.begin()?;
    let packages = draft.scratch("packages.tar");
    let date = install(cache, suite, &packages, progress)?;
    progress.step(&format!("Debian {suite}: making a disk of it"));
    let archive = File::open(&packages)
        .map_err(RecordError::io("open", &packages))
        .map_err(StoreError::from)?;
    let layers: Vec<Box<dyn Read>> = vec![
        Box::new(BufReader::new(archive)),
        Box::new(Cursor::new(layer(date))),
    ];
    let how = NewDisk {
        label: "debian",
        seed: &format!("debian {suite} {date}"),
        size: SIZE,
        date,
    };
    let id = disk::of_archives(&draft, layers, &how)?;
    let record = ImageRecord {
        id,
        kind: Kind::System,
        source: format!("Debian {suite}, packages of {date}"),
        system: super::import::system_name(&draft.disk()),
        size: SIZE,
        cloud_init: false,
        created: now(),
    };
    progress.finish();
    Ok(draft.keep(record, name)?)
}

/// Whether this is the name of a Debian image, and of which suite.
pub fn suite(name: &str) -> Option<&str> {
    match name.strip_prefix("debian") {
        Some("") => Some("bookworm"),
        Some(rest) => rest.strip_prefix(':'),
        None => None,
    }
}

/// Installs a suite's packages into the archive `tar`; when the newest of the packages' lists was made, seconds since
/// 1970: no file is younger.
fn install(cache: &Cache, suite: &str, tar: &Path, progress: &dyn Progress) -> Result<u64, DebianError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if suite.is_empty() || !suite.bytes().all(plain) || suite.starts_with('-') {
        return Err(DebianError::Suite(suite.into()));
    }
    let command = [OsString::from("apt-get")];
    let (sources, date) = {
        let lock = cache.lock(|| progress.step("waiting for another donjon that uses apt"))?;
        let apt = Apt::new(&command, &cache.path("apt"))?;
        progress.step("fetching Debian's package lists");
        let complaint = apt.update(progress)?;
        let sources = sources(&apt, suite, complaint)?;
        let date = apt.newest_list(suite);
        drop(lock);
        (sources, date)
    };
    progress.step(&format!("installing Debian {suite}"));
    mmdebstrap(suite, &sources, date, tar, progress)?;
    Ok(date)
}

/// The lines of sources.list(5) for the suite, its updates and security updates.
fn sources(apt: &Apt<'_>, suite: &str, complaint: Option<Complaint>) -> Result<String, DebianError> {
    let all = apt.sources()?;
    let of = |release: &str| {
        release == suite
            || release
                .strip_prefix(suite)
                .is_some_and(|rest| matches!(rest, "-updates" | "-security" | "/updates"))
    };
    let lines: Vec<String> = all
        .iter()
        .filter(|s| of(&s.release) && s.component == "main")
        .map(|s| format!("deb {} {} {}\n", s.uri, s.release, s.component))
        .collect();
    if all.iter().any(|s| s.release == suite && s.component == "main") {
        return Ok(lines.concat());
    }
    let mut there: Vec<&str> = all
        .iter()
        .map(|s| s.release.as_str())
        .filter(|r| !r.contains(['-', '/']))
        .collect();
    there.sort_unstable();
    there.dedup();
    Err(DebianError::NotThere {
        suite: suite.into(),
        there: if there.is_empty() {
            "none".into()
        } else {
            there.join(", ")
        },
        first: there.first().map_or("bookworm", |s| s).into(),
        apt: complaint.map(|c| c.said),
    })
}

fn mmdebstrap(
    suite: &str,
    sources: &str,
    date: u64,
    tar: &Path,
    progress: &dyn Progress,
) -> Result<(), DebianError> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .args(["--", suite])
        .arg(tar)
        .arg("-")
        // What is made while packages are configured gets this date.
        .env("SOURCE_DATE_EPOCH", date.to_string())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => DebianError::NoMmdebstrap,
        _ => DebianError::Spawn(e),
    })?;
    if let Some(mut input) = child.stdin.take() {
        // If it ends early, what it says is of more interest.
        let _ = input.write_all(sources.as_bytes());
    }
    let mut said = vec![];
    let output = child
        .stderr
        .take()
        .into_iter()
        .flat_map(|e| BufReader::new(e).split(b'\n'));
    for line in output.map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(step) = step(&line) {
            progress.step(&format!("Debian {suite}: {step}"));
        } else if let Some(percent) = percent(&line) {
            progress.percent(percent);
        }
        said.push(line);
        if said.len() > 12 {
            said.remove(0);
        }
    }
    let status = child.wait().map_err(DebianError::Spawn)?;
    match status.success() {
        true => Ok(()),
        false => Err(DebianError::Failed {
            said: said.join("\n"),
        }),
    }
}

/// What mmdebstrap is about, for people.
fn step(line: &str) -> Option<&'static str> {
    let info = line.strip_prefix("I: ")?;
    let steps = [
        ("running apt-get update", "fetching package lists"),
        ("downloading packages", "downloading packages"),
        ("extracting archives", "unpacking essential packages"),
        ("installing essential", "installing essential packages"),
        ("installing remaining", "installing packages"),
        ("cleaning package", "cleaning up"),
        ("creating tarball", "archiving"),
    ];
    steps
        .iter()
        .find(|(begins, _)| info.starts_with(begins))
        .map(|(_, step)| *step)
}

/// The figure in a progress bar such as `done 42.0%`.
fn percent(line: &str) -> Option<f32> {
    let word = line.split_whitespace().find_map(|w| w.strip_suffix('%'))?;
    word.parse().ok().filter(|p: &f32| (0.0..=100.0).contains(p))
}

/// A tar archive of the files and links that are put over those of the packages.
fn layer(date: u64) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(date);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    let infallible = "a vector takes everything";
    let mut directories = std::collections::BTreeSet::new();
    for path in FILES
        .iter()
        .map(|f| f.0)
        .chain(LINKS.iter().map(|l| l.0))
        .chain(REMOVED.iter().copied())
    {
        directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    for directory in directories {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive
            .append_data(&mut header, directory, io::empty())
            .expect(infallible);
    }
    for (path, mode, content) in FILES {
        let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .expect(infallible);
    }
    for path in REMOVED {
        let (directory, name) = path.rsplit_once('/').expect("a file in a directory");
        let mut header = header(tar::EntryType::Regular, 0o644, 0);
        // A whiteout (OCI image specification, "Image Layer Filesystem Changeset").
        archive
            .append_data(&mut header, format!("{directory}/.wh.{name}"), io::empty())
            .expect(infallible);
    }
    for (path, target) in LINKS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, path, target).expect(infallible);
    }
    archive.into_inner().expect(infallible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        assert_eq!(suite("debian"), Some("bookworm"));
        assert_eq!(suite("debian:trixie"), Some("trixie"));
        assert_eq!(suite("debianish"), None);
        assert_eq!(suite("tiny"), None);
    }

    #[test]
    fn the_layer_is_an_archive_and_the_same_each_time() {
        let layer = layer(1_700_000_000);
        assert_eq!(layer, super::layer(1_700_000_000));
        let mut archive = tar::Archive::new(&layer[..]);
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into_owned())
            .collect();
        assert!(paths.contains(&std::path::PathBuf::from("etc/systemd/network/80-dhcp.network")));
        assert!(paths.contains(&std::path::PathBuf::from("etc/resolv.conf")));
    }

    #[test]
    fn progress_is_understood() {
        assert_eq!(step("I: creating tarball..."), Some("archiving"));
        assert_eq!(step("W: creating"), None);
        assert_eq!(percent("done 42.5% [====   ]"), Some(42.5));
        assert_eq!(percent("done"), None);
    }

    #[test]
    fn a_suite_that_could_be_an_option_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        for bad in ["", "-x", "a b", "../x", "Bookworm"] {
            let error = install(&cache, bad, Path::new("/x"), &crate::progress::Silent)
                .err()
                .unwrap();
            assert!(error.to_string().contains("debian:bookworm"), "{bad}: {error}");
        }
    }

    /// Tells a test when somebody waits.
    struct Steps(std::sync::Mutex<std::sync::mpsc::Sender<String>>);

    impl Progress for Steps {
        fn step(&self, what: &str) {
            self.0.lock().unwrap().send(what.into()).unwrap();
        }
        fn percent(&self, _: f32) {}
        fn finish(&self) {}
    }

    #[test]
    fn who_wants_what_another_makes_waits_and_has_it_then() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("store"));
        let cache = Cache::at(directory.path().join("cache"));
        // Whoever tries to make this one fails.
        let build = |since, progress: &dyn Progress| build(&store, &cache, "-", "debian:x", since, progress);
        let asked = now();
        let making = store.making("debian:x", || panic!("nobody makes it")).unwrap();
        let (say, hear) = std::sync::mpsc::channel();
        let steps = Steps(std::sync::Mutex::new(say));
        let stored = std::thread::scope(|s| {
            let waiting = s.spawn(|| build(asked, &steps));
            assert!(hear.recv().unwrap().contains("debian:x"));
            let draft = store.begin().unwrap();
            std::fs::write(draft.disk(), "disk").unwrap();
            let image = ImageRecord {
                id: "a".repeat(64),
                kind: Kind::System,
                source: String::new(),
                system: None,
                size: 4,
                cloud_init: false,
                created: now(),
            };
            draft.keep(image, "debian:x").unwrap();
            drop(making);
            waiting.join().unwrap().unwrap()
        });
        assert_eq!(stored.image.id, "a".repeat(64));
        // An older one is made anew if that is wanted, and else taken as it is.
        let later = stored.image.created + 1;
        let silent = crate::progress::Silent;
        assert!(matches!(build(later, &silent), Err(DebianError::Suite(_))));
        assert_eq!(build(0, &silent).unwrap().image, stored.image);
    }
}
