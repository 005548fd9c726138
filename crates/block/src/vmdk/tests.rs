//! Images that tools rarely make, and images that lie.

use crate::manage;
use crate::{Format, Options, open};
use flate2::write::ZlibEncoder;
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};
<<<<<<< HEAD
=======
use std::process::Command;
>>>>>>> 7fd140cae81417bc72368ea2cabb6543c967842f

const GRAIN: usize = 4096;
/// Entries of a grain table.
const ENTRIES: usize = 16;
const GRAINS: usize = 40;
/// The last grain is not all there.
const SIZE: usize = GRAINS * GRAIN - 1024;
const DESCRIPTOR: &str =
    "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"custom\"\n";

/// What the images have: zeroes in the second table's grains and some others.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    for (n, grain) in bytes.chunks_mut(GRAIN).enumerate() {
        if n / ENTRIES != 1 && n % 5 != 0 {
            let line = format!("grain {n} ");
            grain
                .iter_mut()
                .zip(line.bytes().cycle())
                .for_each(|(b, c)| *b = c);
        }
    }
    bytes
}

/// A file that is made sector by sector.
#[derive(Default)]
struct Sectors(Vec<u8>);

impl Sectors {
    fn add(&mut self, bytes: &[u8]) -> u32 {
        let at = self.0.len() / 512;
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        at as u32
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// `flags` and `directory` as stored; 3 sectors of descriptor behind it.
fn header(flags: u32, directory: u64, compressed: bool) -> Vec<u8> {
    let mut bytes = Sectors(vec![0; 512]);
    bytes.put(0, b"KDMV\x01\0\0\0");
    bytes.put(8, &flags.to_le_bytes());
    let numbers = [(12, SIZE / 512), (20, GRAIN / 512), (28, 1), (36, 3), (64, 4)];
    for (at, number) in numbers {
        bytes.put(at, &(number as u64).to_le_bytes());
    }
    bytes.put(44, &(ENTRIES as u32).to_le_bytes());
    bytes.put(56, &directory.to_le_bytes());
    bytes.put(73, b"\n \r\n");
    bytes.put(77, &[u8::from(compressed)]);
    bytes.0
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image with its tables behind its grains; `stream` has them compressed, and the directory known to the footer
/// alone.
fn image(stream: bool) -> Vec<u8> {
    let flags = if stream { 0x30001 } else { 5 };
    let mut file = Sectors::default();
    file.add(&header(flags, u64::MAX, stream));
    let mut descriptor = DESCRIPTOR.as_bytes().to_vec();
    descriptor.resize(3 * 512, 0);
    file.add(&descriptor);
    let mut entries = vec![0u32; GRAINS.next_multiple_of(ENTRIES)];
    for (n, grain) in content().chunks(GRAIN).enumerate() {
        if grain.iter().all(|b| *b == 0) {
            // A grain of zeroes, or none.
            entries[n] = u32::from(!stream && n % 2 == 0);
            continue;
        }
        entries[n] = match stream {
            true => {
                let packed = deflated(grain);
                let lba = (n * GRAIN / 512) as u64;
                let marker = [
                    &lba.to_le_bytes()[..],
                    &(packed.len() as u32).to_le_bytes(),
                    &packed,
                ];
                file.add(&marker.concat())
            }
            false => {
                let mut whole = grain.to_vec();
                whole.resize(GRAIN, 0);
                file.add(&whole)
            }
        };
    }
    let bytes = |table: &[u32]| table.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<u8>>();
    let tables: Vec<u32> = entries
        .chunks(ENTRIES)
        .map(|table| match table.iter().all(|e| *e == 0) {
            true => 0,
            false => file.add(&bytes(table)),
        })
        .collect();
    let directory = file.add(&bytes(&tables)).into();
    if stream {
        let mut marker = [0; 512];
        marker[12] = 3;
        file.add(&marker);
        file.add(&header(flags, directory, stream));
        file.add(&[0; 512]);
    } else {
        file.put(56, &directory.to_le_bytes());
    }
    file.0
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn options() -> Options {
    Options {
        format: Some(Format::Vmdk),
        read_only: true,
        ..Options::default()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let image = open(path, &options()).map_err(|e| e.to_string())?;
    let mut out = vec![0xee; image.size() as usize];
    image.read_bytes(0, &mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

/// Why it cannot be read.
#[track_caller]
fn refused(path: &Path) -> String {
    match read(path) {
        Ok(_) => panic!("it is read"),
        Err(e) => e,
    }
}

#[test]
fn grains_are_found_and_unpacked() {
    let place = Place::new();
    for stream in [false, true] {
        let path = place.file("a.vmdk", &image(stream));
        assert!(read(&path).unwrap() == content());
<<<<<<< HEAD
=======
        // QEMU finds the same in it.
        let raw = path.with_extension("raw");
        let converted = Command::new("qemu-img")
            .args(["convert", "-f", "vmdk", "-O", "raw"])
            .args([&path, &raw])
            .status();
        assert!(
            converted
                .expect("qemu-img is installed (Debian: qemu-utils)")
                .success()
        );
        assert!(std::fs::read(raw).unwrap() == content());
>>>>>>> 7fd140cae81417bc72368ea2cabb6543c967842f
        let image = open(&path, &options()).unwrap();
        let mut at = 0;
        let mut zeroes = 0;
        while at < image.size() {
            let extent = image.extent(at, image.size() - at).unwrap();
            zeroes += if extent.data { 0 } else { extent.len };
            at += extent.len;
        }
        let expected = content()
            .chunks(GRAIN)
            .filter(|g| g.iter().all(|b| *b == 0))
            .count()
            * GRAIN;
        assert_eq!(zeroes, expected as u64);
        // Four grains in a row are one transfer, unless they are compressed.
        assert_eq!(
            image
                .direct(GRAIN as u64 + 7, 4 * GRAIN as u64 - 7, false)
                .is_some(),
            !stream
        );
        assert!(image.direct(0, 5 * GRAIN as u64, false).is_none());
    }
}

#[test]
fn a_zeroed_grain_is_one_only_if_the_header_says_so() {
    let place = Place::new();
    let mut bytes = image(false);
    bytes[8] = 1;
    let seen = read(&place.file("a.vmdk", &bytes)).unwrap();
    // Sector 1, where the descriptor is.
    assert!(seen.starts_with(DESCRIPTOR.as_bytes()));
}

#[test]
fn impossible_headers_are_refused() {
    let place = Place::new();
    let all = [0xff; 8];
    let wrong: [(usize, &[u8], &str); 18] = [
        (0, b"KDMW", "not a vmdk image"),
        (4, &[0], "vmdk version 0 is not supported"),
        (4, &[4], "vmdk version 4 is not supported"),
        (8, &[5, 0, 1], "contradicts the flags"),
        (12, &all, "capacity is impossible"),
        (
            12,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f],
            "grain directory lies outside",
        ),
        (20, &[9], "grain size"),
        (20, &[4], "grain size"),
        (20, &[0, 0x20], "grain size"),
        (20, &all, "grain size"),
        (28, &all, "only an extent"),
        (36, &[0, 0x10], "larger than 1 MiB"),
        (44, &[0], "grain table"),
        (44, &[1, 2], "grain table"),
        (56, &[0; 8], "grain directory"),
        (
            56,
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            "grain directory",
        ),
        (73, b"\r\n \n", "transferred as text"),
        (77, &[2], "compression algorithm 2 is not supported"),
    ];
    for (at, patch, part) in wrong {
        let mut bytes = image(false);
        bytes[at..at + patch.len()].copy_from_slice(patch);
        let error = refused(&place.file("a.vmdk", &bytes));
        assert!(error.contains(part), "{at} {patch:?}: {error}");
    }
    for first in [&b"COWD"[..], b"\xbe\xba\xfe\xca\0\0\0\0"] {
        let path = place.file("a.vmdk", &[first, &[0; 4096]].concat());
        let refused = open(&path, &Options::default()).unwrap_err().to_string();
        assert!(refused.contains("an extent of ESX"), "{refused}");
    }
}

/// A grain's marker is where the first grain is: right behind the descriptor.
#[test]
fn damaged_grains_end_in_errors() {
    let place = Place::new();
    let wrong: [(usize, &[u8], &str); 6] = [
        (0, &[9], "belongs elsewhere"),
        (8, &[0; 4], "impossible length"),
        (8, &[1, 0x20], "impossible length"),
        (8, &[0xff; 4], "impossible length"),
        (8, &[5], "does not unpack"),
        (20, &[0x5a; 8], "does not unpack"),
    ];
    for (at, patch, part) in wrong {
        let mut bytes = image(true);
        bytes[2048 + at..2048 + at + patch.len()].copy_from_slice(patch);
        let error = refused(&place.file("a.vmdk", &bytes));
        assert!(
            error.contains(part) && error.contains("copy it anew"),
            "{at}: {error}"
        );
    }
    // Less than a grain.
    let mut bytes = image(true);
    let short = deflated(&[1; GRAIN - 1]);
    bytes[2056..2060].copy_from_slice(&(short.len() as u32).to_le_bytes());
    bytes[2060..2060 + short.len()].copy_from_slice(&short);
    let error = refused(&place.file("a.vmdk", &bytes));
    assert!(error.contains("does not unpack"), "{error}");
}

#[test]
fn what_is_cut_off_is_not_read_as_zeroes() {
    let place = Place::new();
    for stream in [false, true] {
        let bytes = image(stream);
        let mut refused = 0;
        for len in (0..bytes.len()).step_by(256) {
            match read(&place.file("a.vmdk", &bytes[..len])) {
                Ok(seen) => assert!(seen == content(), "{len}"),
                Err(_) => refused += 1,
            }
        }
        // Only what fills the last sector may be missing.
        assert!(refused + 1 >= bytes.len() / 256);
    }
}

#[test]
fn disks_are_put_together() {
    let place = Place::new();
    place.file("flat", &[b'f'; 2048]);
    place.file("sparse", &image(false));
    place.file("stream", &image(true));
    // The second is cut to whole sectors that its capacity was rounded up from.
    let lines = "RW 2 FLAT \"flat\" 1\nRW 0 SPARSE \"none\"\nRW 3 ZERO\nRDONLY 300 SPARSE \"sparse\"\n\
                 RW 318 SPARSE \"stream\"\nRW 1 VMFS \"flat\"\n";
    let text = DESCRIPTOR.to_owned() + lines;
    let expected = [
        &[b'f'; 1024][..],
        &[0; 3 * 512],
        &content()[..300 * 512],
        &content(),
        &[b'f'; 512],
    ]
    .concat();
    let path = place.file("a.vmdk", text.as_bytes());
    assert!(read(&path).unwrap() == expected);
    // The same text in a file that has a header for it.
    let mut embedded = Sectors::default();
    embedded.add(&header(1, 0, false));
    embedded.put(12, &[0; 8]);
    embedded.add(text.as_bytes());
    let path = place.file("b.vmdk", &embedded.0);
    assert!(read(&path).unwrap() == expected);
    let info = &manage::info(&path, None).unwrap()[0];
    let kinds: Vec<_> = info
        .vmdk
        .iter()
        .flat_map(|v| &v.extents)
        .map(|e| e.kind)
        .collect();
    assert_eq!(kinds, ["FLAT", "ZERO", "SPARSE", "SPARSE", "FLAT"]);
}

#[test]
fn disks_that_cannot_be_put_together_are_refused() {
    let place = Place::new();
    place.file("flat", &[1; 1024]);
    place.file("sparse", &image(false));
    place.file("cowd", &[&b"COWD"[..], &[0; 2048]].concat());
    std::fs::create_dir(place.0.path().join("directory")).unwrap();
    let secret = place.file("secret", b"secret");
    let outside = Place::new();
    let wrong = [
        ("RW 2 FLAT \"flat\" 1", "shorter than its descriptor says"),
        (
            "RW 2 FLAT \"flat\" 36028797018963968",
            "shorter than its descriptor says",
        ),
        ("RW 18014398509481984 ZERO", "more than a disk can have"),
        (
            "RW 18014398509481983 ZERO\nRW 1 ZERO",
            "more than a disk can have",
        ),
        ("RW 36028797018963968 ZERO", "more than a disk can have"),
        ("RW 319 SPARSE \"sparse\"", "capacity is less"),
        ("RW 1 SPARSE \"flat\"", "no vmdk signature"),
        ("RW 1 SPARSE \"a.vmdk\"", "no vmdk signature"),
        (
            "RW 1 SPARSE \"cowd\"",
            "a.vmdk: a COWD extent, as of ESX, is not supported",
        ),
        ("RW 1 SPARSE \"directory\"", "is a directory"),
        ("RW 1 FLAT \"none\" 0", "copy it from where"),
        ("", "names no extents"),
    ];
    for (line, part) in wrong {
        let error = refused(&place.file("a.vmdk", (DESCRIPTOR.to_owned() + line).as_bytes()));
        assert!(error.contains(part), "{line}: {error}");
    }
    for name in [secret.to_str().unwrap(), "../secret"] {
        let line = format!("{DESCRIPTOR}RW 1 FLAT \"{name}\" 0");
        let error = refused(&outside.file("a.vmdk", line.as_bytes()));
        assert!(error.contains("not beside it"), "{error}");
    }
    let long = DESCRIPTOR.to_owned() + &"#".repeat(1 << 20);
    let error = refused(&place.file("a.vmdk", long.as_bytes()));
    assert!(error.contains("larger than 1 MiB"), "{error}");
}

fn use_it(path: &Path) {
    let _ = manage::info(path, None).map_err(|e| e.to_string());
    let Ok(image) = open(path, &options()) else {
        return;
    };
    let size = image.size();
    let mut out = vec![0; 3 * GRAIN];
<<<<<<< HEAD
    for n in 0..(GRAINS as u64 + 2) / 3 {
=======
    for n in 0..(GRAINS as u64).div_ceil(3) {
>>>>>>> 7fd140cae81417bc72368ea2cabb6543c967842f
        for at in [n * out.len() as u64, size.saturating_sub((n + 1) * 9000)] {
            let len = size.saturating_sub(at).min(out.len() as u64);
            let part = &mut out[..len as usize];
            let whole = image.read_bytes(at, part).is_ok();
            let extent = image.extent(at, len);
            if let (true, Ok(extent)) = (whole, extent) {
                assert!(extent.len <= len && (extent.len > 0 || len == 0));
                assert!(extent.data || part[..extent.len as usize].iter().all(|b| *b == 0));
            }
            if let Some(direct) = image.direct(at, len, false) {
                let mut same = vec![0; len as usize];
                std::os::unix::fs::FileExt::read_exact_at(&*direct.file, &mut same, direct.at).unwrap();
                assert!(whole && same == part);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// In the header, the footer, the tables or a grain.
    #[test]
    fn any_damage_ends_in_errors(
        stream: bool,
        patches in prop::collection::vec((0usize..5, 0usize..128, any::<u64>(), 0u32..8), 1..4),
        cut in prop::option::of(0usize..200_000),
    ) {
        let place = Place::new();
        let mut bytes = image(stream);
        let len = bytes.len();
        let regions = [0, 2048, len - 1024, len - 2048, len - 512];
        for (region, at, value, width) in patches {
            let at = regions[region] + at;
            let value = value.to_le_bytes();
            let end = (at + 1 + width as usize).min(len);
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        bytes.truncate(cut.unwrap_or(len));
        use_it(&place.file("a.vmdk", &bytes));
    }
}
