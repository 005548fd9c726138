//! Archives that want to get out, or to take all there is.

use super::*;
use tar::{Builder, EntryType, Header};

/// An entry with names that no honest archiver writes.
fn evil(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) {
    let mut header = Header::new_gnu();
    let old = header.as_gnu_mut().unwrap();
    let n = name.len().min(100);
    old.name[..n].copy_from_slice(&name[..n]);
    let n = link.len().min(100);
    old.linkname[..n].copy_from_slice(&link[..n]);
    header.set_entry_type(kind);
    header.set_mode(0o6777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

type Entry<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(vec![]);
    for (kind, name, link, content) in entries {
        evil(&mut archive, *kind, name, link, content);
    }
    archive.into_inner().unwrap()
}

/// Everything in a directory, with its content.
fn listing(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                waiting.push(path.clone());
            }
            let content = if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                vec![]
            };
            found.push((path, content));
        }
    }
    found.sort();
    found
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

#[test]
fn nothing_is_written_outside() {
    let attempts: &[&[Entry<'_>]] = &[
        &[(FILE, b"../evil", b"", b"x")],
        &[(FILE, b"a/../../evil", b"", b"x")],
        &[(FILE, b"..", b"", b"x")],
        &[(DIRECTORY, b"../evil", b"", b"")],
        &[(SYMLINK, b"../evil", b"x", b"")],
        &[(SYMLINK, b"out", b"..", b""), (FILE, b"out/evil", b"", b"x")],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (FILE, b"out/victim", b"", b"x"),
        ],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (DIRECTORY, b"out/evil", b"", b""),
        ],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (DIRECTORY, b"out", b"", b""),
        ],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (SYMLINK, b"out/evil", b"x", b""),
        ],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (LINK, b"out/evil", b"out", b""),
        ],
        // Two links that lead out only together.
        &[
            (DIRECTORY, b"d", b"", b""),
            (SYMLINK, b"d/up", b"..", b""),
            (SYMLINK, b"out", b"d/up/..", b""),
            (FILE, b"out/evil", b"", b"x"),
        ],
        // A directory that becomes a link.
        &[
            (DIRECTORY, b"d", b"", b""),
            (SYMLINK, b"d", b"../outside", b""),
            (FILE, b"d/victim", b"", b"x"),
        ],
        // Hard links to files outside, to be written through.
        &[(LINK, b"h", b"../outside/victim", b""), (FILE, b"h", b"", b"x")],
        &[
            (SYMLINK, b"out", b"../outside", b""),
            (LINK, b"h", b"out/victim", b""),
        ],
        // A link is replaced by the file of its name, not followed.
        &[
            (SYMLINK, b"l", b"../outside/victim", b""),
            (FILE, b"l", b"", b"x"),
        ],
        &[
            (SYMLINK, b"l", b"../outside/victim", b""),
            (LINK, b"h", b"l", b""),
            (FILE, b"h", b"", b"x"),
        ],
        &[
            (EntryType::GNULongName, b"././@LongLink", b"", b"../evil\0"),
            (FILE, b"x", b"", b"x"),
        ],
        &[
            (
                EntryType::GNULongLink,
                b"././@LongLink",
                b"",
                b"../outside/victim\0",
            ),
            (LINK, b"x", b"x", b""),
        ],
        &[
            (EntryType::XHeader, b"x", b"", b"16 path=../evil\n"),
            (FILE, b"x", b"", b"x"),
        ],
        &[
            (SYMLINK, b"out", b"/proc/self/cwd", b""),
            (FILE, b"out/evil-donjon", b"", b"x"),
        ],
    ];
    for attempt in attempts {
        let place = tempdir().unwrap();
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "victim").unwrap();
        let result = receive(
            &Target::Directory(inside.clone()),
            &archive(attempt)[..],
            Options { preserve: false },
        );
        assert_eq!(
            listing(&outside),
            [(outside.join("victim"), b"victim".to_vec())],
            "{attempt:?}"
        );
        assert_eq!(
            fs::metadata(outside.join("victim")).unwrap().nlink(),
            1,
            "{attempt:?}"
        );
        let mut names: Vec<_> = fs::read_dir(place.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["inside", "outside"], "{attempt:?}");
        assert!(!Path::new("evil-donjon").exists());
        // None of them goes unnoticed but those that stay inside.
        let harmless = matches!(attempt[0], (SYMLINK, b"l", ..));
        assert_eq!(result.is_ok(), harmless, "{attempt:?}: {result:?}");
    }
}

#[test]
fn absolute_names_are_refused() {
    let place = tempdir().unwrap();
    let victim = place.path().join("victim");
    let name = victim.as_os_str().as_bytes();
    let inside = Target::Directory(place.path().join("inside"));
    for entries in [
        &[(FILE, name, &b""[..], &b"x"[..])][..],
        &[
            (SYMLINK, b"out", place.path().as_os_str().as_bytes(), b""),
            (FILE, b"out/victim", b"", b"x"),
        ],
    ] {
        let result = receive(&inside, &archive(entries)[..], Options::default());
        assert!(matches!(result, Err(CopyError::Outside(_))), "{result:?}");
        assert!(!victim.exists());
    }
}

#[test]
fn one_file_is_one_file() {
    let place = tempdir().unwrap();
    let to = Target::File(place.path().join("file"));
    for entries in [
        &[(DIRECTORY, &b"d"[..], &b""[..], &b""[..])][..],
        &[(LINK, b"l", b"/etc/passwd", b"")],
        &[(EntryType::Char, b"c", b"", b"")],
        &[(FILE, b"a", b"", b"1"), (FILE, b"b", b"", b"2")],
    ] {
        let result = receive(&to, &archive(entries)[..], Options::default());
        assert!(matches!(result, Err(CopyError::NotOneFile(_))), "{result:?}");
    }
    // Its name is what the receiver says, whatever the archive says.
    fs::remove_file(place.path().join("file")).unwrap();
    receive(
        &to,
        &archive(&[(FILE, b"../../evil", b"", b"x")])[..],
        Options::default(),
    )
    .unwrap();
    assert_eq!(
        listing(place.path()),
        [(place.path().join("file"), b"x".to_vec())]
    );
}

#[test]
fn devices_are_not_made_and_rights_not_given() {
    let place = tempdir().unwrap();
    let entries: [Entry<'_>; 4] = [
        (EntryType::Char, b"null", b"", b""),
        (EntryType::Block, b"disk", b"", b""),
        (EntryType::Fifo, b"fifo", b"", b""),
        (FILE, b"file", b"", b"x"),
    ];
    let report = receive(
        &Target::Directory(place.path().into()),
        &archive(&entries)[..],
        Options::default(),
    )
    .unwrap();
    assert_eq!((report.skipped, report.files), (3, 1));
    assert_eq!(listing(place.path()).len(), 1);
    let mode = fs::metadata(place.path().join("file")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o777);
}

#[test]
fn names_are_bounded() {
    /// Zeroes for ever, that are not to be kept.
    struct Endless(Cursor<Vec<u8>>);
    impl Read for Endless {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(out)? {
                0 => {
                    out.fill(b'a');
                    Ok(out.len())
                }
                n => Ok(n),
            }
        }
    }
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let stream = Endless(Cursor::new(header.as_bytes().to_vec()));
        let place = tempdir().unwrap();
        let result = receive(
            &Target::Directory(place.path().into()),
            stream,
            Options::default(),
        );
        assert!(matches!(result, Err(CopyError::Unsupported(..))), "{result:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_archives_stay_inside(
        damage in prop::collection::vec((0usize..8192, any::<u8>()), 1..20),
        cut in 0usize..8192,
    ) {
        let place = tempdir().unwrap();
        let inside = place.path().join("inside");
        let mut bytes = archive(&[
            (DIRECTORY, b"d", b"", b""),
            (FILE, b"d/f", b"", b"content"),
            (SYMLINK, b"d/l", b"f", b""),
            (LINK, b"h", b"d/f", b""),
            (EntryType::GNULongName, b"././@LongLink", b"", b"d/long\0"),
            (FILE, b"x", b"", b"x"),
        ]);
        for (at, byte) in damage {
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
        }
        bytes.truncate(cut.max(512));
        let _ = receive(&Target::Directory(inside), &bytes[..], Options::default());
        prop_assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
