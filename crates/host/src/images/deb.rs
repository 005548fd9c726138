//! Debian binary packages (deb(5)): an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! Nothing is extracted to a path that the package chose: the caller is shown every file and takes what it
//! knows. A package is treated as hostile all the same.

use super::unpack::Compression;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// A package's files together, unpacked, bytes. Debian's largest kernel package has about 0.6 GiB.
const DATA_LIMIT: u64 = 2 << 30;
/// The same for the control archive.
const CONTROL_LIMIT: u64 = 16 << 20;
/// Members of the outer archive that are looked at; dpkg writes three.
const MEMBERS: usize = 16;
/// Length of an `ar` member header (ar(5)).
const AR_HEADER: usize = 60;

/// Why a package could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The file could not be read, or the compressed data in it is damaged.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// The file is something else, or cut short.
    #[error("not a Debian package: {0}")]
    NotADeb(String),
    /// A path that leads out of the directory the package is unpacked in.
    #[error("holds the path {0:?}, which leads outside")]
    Path(String),
}

/// A package file.
pub struct Deb {
    file: File,
}

/// One file of a package.
pub struct DebFile<'a> {
    /// Its path, relative and without `.` or `..`.
    pub path: &'a Path,
    /// Its length, bytes.
    pub size: u64,
    /// Its content.
    pub content: &'a mut dyn Read,
}

impl Deb {
    /// Opens the package at `path`.
    pub fn open(path: &Path) -> Result<Self, DebError> {
        let mut deb = Self {
            file: File::open(path)?,
        };
        let version = deb.member("debian-binary")?.1;
        let mut text = String::new();
        version.take(16).read_to_string(&mut text)?;
        match text.trim_end().split_once('.') {
            Some(("2", _)) => Ok(deb),
            _ => Err(DebError::NotADeb(format!(
                "format version {:?}, where 2.x is known",
                text.trim_end()
            ))),
        }
    }

    /// The value of one field of the control file, such as `Version`; continuation lines are not joined.
    pub fn field(&mut self, name: &str) -> Result<Option<String>, DebError> {
        let mut text = String::new();
        self.each("control.tar", CONTROL_LIMIT, |file| {
            if file.path == Path::new("control") {
                file.content.read_to_string(&mut text)?;
            }
            Ok(())
        })?;
        let value = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        Ok(value)
    }

    /// Shows every regular file to `visit`, in the package's order.
    pub fn files(&mut self, visit: impl FnMut(DebFile<'_>) -> Result<(), DebError>) -> Result<(), DebError> {
        self.each("data.tar", DATA_LIMIT, visit)
    }

    fn each(
        &mut self,
        member: &str,
        limit: u64,
        mut visit: impl FnMut(DebFile<'_>) -> Result<(), DebError>,
    ) -> Result<(), DebError> {
        let (compression, input) = self.member(member)?;
        let mut archive = tar::Archive::new(compression.reader(BufReader::new(input), limit)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = tidy(&entry.path()?)?;
            if entry.header().entry_type().is_file() {
                let size = entry.size();
                visit(DebFile {
                    path: &path,
                    size,
                    content: &mut entry,
                })?;
            }
        }
        Ok(())
    }

    /// The content of the member `name`, whatever its compression.
    fn member(&mut self, name: &str) -> Result<(Compression, io::Take<&mut File>), DebError> {
        let not = |what: String| DebError::NotADeb(what);
        self.file.rewind()?;
        let mut magic = [0; 8];
        fill(&mut self.file, &mut magic)?
            .then_some(())
            .ok_or_else(|| not("too short".into()))?;
        if magic != *b"!<arch>\n" {
            return Err(not("it does not begin like an ar archive".into()));
        }
        let length = self.file.metadata()?.len();
        let mut at = magic.len() as u64;
        for _ in 0..MEMBERS {
            let mut header = [0; AR_HEADER];
            if !fill(&mut self.file, &mut header)? {
                break;
            }
            at += AR_HEADER as u64;
            if header[58..] != *b"`\n" {
                return Err(not(format!(
                    "no archive member at byte {}",
                    at - AR_HEADER as u64
                )));
            }
            let text =
                |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_owned();
            let size: u64 = text(48..58)
                .parse()
                .map_err(|_| not("a member without a size".into()))?;
            if size > length.saturating_sub(at) {
                return Err(not(format!(
                    "cut short: a member of {size} bytes begins at byte {at} of {length}"
                )));
            }
            let full = text(0..16);
            let full = full.trim_end_matches('/');
            let (stem, compression) = Compression::of_name(full);
            if stem == name {
                return Ok((compression, (&mut self.file).take(size)));
            }
            if full.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
                return Err(not(format!(
                    "{full} is compressed in a way that is not known here (xz and zstd are)"
                )));
            }
            // Members begin at even offsets.
            at += size + size % 2;
            self.file.seek(SeekFrom::Start(at))?;
        }
        Err(not(format!("no {name} in it")))
    }
}

/// Fills the buffer; `false` if the input ends before.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn tidy(path: &Path) -> Result<PathBuf, DebError> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => out.push(name),
            _ => return Err(DebError::Path(path.display().to_string())),
        }
    }
    Ok(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A tar archive of these files; the names are written as they are, however odd.
    pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            out.append(&header, *content).unwrap();
        }
        out.into_inner().unwrap()
    }

    /// An ar archive of these members.
    pub fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = ar::Builder::new(Vec::new());
        for (name, content) in members {
            let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
            out.append(&header, *content).unwrap();
        }
        out.into_inner().unwrap()
    }

    /// A package with this control file and these files.
    pub fn deb_of(control: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let control = liblzma::encode_all(&tar_of(&[("./control", control.as_bytes())])[..], 1).unwrap();
        let data = liblzma::encode_all(&tar_of(files)[..], 1).unwrap();
        ar_of(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", &control),
            ("data.tar.xz", &data),
        ])
    }

    fn open(bytes: &[u8]) -> Result<Deb, DebError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Deb::open(file.path())
    }

    fn names(deb: &mut Deb) -> Result<Vec<String>, DebError> {
        let mut names = Vec::new();
        deb.files(|f| {
            let mut content = Vec::new();
            f.content.read_to_end(&mut content)?;
            names.push(format!("{} {} {}", f.path.display(), f.size, content.len()));
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn fields_and_files_of_a_good_package() {
        let control = "Package: p\nVersion: 1:2.3-4\nDepends: a (= 1), b\nDescription: x\n more\n";
        let mut deb = open(&deb_of(control, &[("./boot/k", b"kernel"), ("usr/bin/b", b"")])).unwrap();
        assert_eq!(deb.field("Version").unwrap().as_deref(), Some("1:2.3-4"));
        assert_eq!(deb.field("depends").unwrap().as_deref(), Some("a (= 1), b"));
        assert_eq!(deb.field("Nothing").unwrap(), None);
        assert_eq!(names(&mut deb).unwrap(), ["boot/k 6 6", "usr/bin/b 0 0"]);
    }

    #[test]
    fn zstd_and_plain_members_are_read_too() {
        let data = tar_of(&[("f", b"1")]);
        for (name, data) in [
            ("data.tar", data.clone()),
            ("data.tar.zst", zstd::encode_all(&data[..], 1).unwrap()),
        ] {
            let mut deb = open(&ar_of(&[("debian-binary", b"2.0\n"), (name, &data)])).unwrap();
            assert_eq!(names(&mut deb).unwrap(), ["f 1 1"], "{name}");
        }
    }

    #[test]
    fn things_that_are_not_packages_say_why() {
        let v = ("debian-binary", &b"2.0\n"[..]);
        let cases: [(Vec<u8>, &str); 6] = [
            (vec![], "too short"),
            (b"PK\x03\x04 some zip file".to_vec(), "ar archive"),
            (ar_of(&[("debian-binary", b"3.0\n")]), "format version"),
            (ar_of(&[("x", b"")]), "no debian-binary"),
            (ar_of(&[v]), "no data.tar"),
            (ar_of(&[v, ("data.tar.lz4", b"")]), "not known here"),
        ];
        for (bytes, expected) in cases {
            let error = open(&bytes)
                .and_then(|mut d| names(&mut d))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
    }

    #[test]
    fn a_package_cut_anywhere_is_an_error() {
        let whole = deb_of("Package: p\n", &[("a", b"0123456789"), ("b", &[7; 3000])]);
        for cut in 0..whole.len() - 1 {
            let result = open(&whole[..cut]).and_then(|mut d| names(&mut d));
            assert!(result.is_err(), "cut at {cut} of {}", whole.len());
        }
    }

    #[test]
    fn a_changed_byte_never_panics() {
        let whole = deb_of("Package: p\n", &[("a", b"0123456789")]);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            let _ = open(&bytes).and_then(|mut d| names(&mut d));
        }
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for path in ["../x", "a/../../x", "/etc/passwd", "./.."] {
            let mut deb = open(&deb_of("", &[(path, b"1")])).unwrap();
            assert!(matches!(names(&mut deb), Err(DebError::Path(_))), "{path}");
        }
    }
}
