//! Images that lie.

use super::{DESCRIPTOR, GRAIN, GRAINS, Place, content, deflated, image, options, read};
use crate::manage;
use crate::{Options, open};
use proptest::prelude::*;
use std::path::Path;

/// Why it cannot be read.
#[track_caller]
fn refused(path: &Path) -> String {
    match read(path) {
        Ok(_) => panic!("it is read"),
        Err(e) => e,
    }
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
    for n in 0..(GRAINS as u64).div_ceil(3) {
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
