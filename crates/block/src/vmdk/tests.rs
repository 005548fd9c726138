//! Images that tools rarely make.

mod hostile;

use crate::manage;
use crate::{Format, Options, open};
use flate2::write::ZlibEncoder;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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

#[test]
fn grains_are_found_and_unpacked() {
    let place = Place::new();
    for stream in [false, true] {
        let path = place.file("a.vmdk", &image(stream));
        assert!(read(&path).unwrap() == content());
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
