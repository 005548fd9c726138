//! vmdk images of any content: they are read or refused, and never panic, hang or take memory without bound. However
//! a range is read, it is the same.
#![no_main]

use donjon_block::{Format, Image, Options, manage, open};
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Larger disks are only read at their beginning and end.
const REACH: u64 = 1 << 20;

/// Descriptors of the image and of the file beside it: as names in /proc/self/fd they are the same for each input.
const NUMBERS: [i32; 2] = [900, 901];

/// A file in memory with that descriptor.
fn file(number: i32, content: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory");
    let numbered = rustix::io::fcntl_dupfd_cloexec(&memory, number).expect("a descriptor");
    assert_eq!(numbered.as_raw_fd(), number);
    File::from(memory).write_all(content).expect("written");
    numbered
}

// The steps, with their length before them, then the image, with its length before it, and a file that it may name.
fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else {
        return;
    };
    let Some((steps, rest)) = rest.split_at_checked(usize::from(count)) else {
        return;
    };
    let Some((len, rest)) = rest.split_first_chunk() else {
        return;
    };
    let (image, extent) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let _files = [file(NUMBERS[0], image), file(NUMBERS[1], extent)];
    let path = PathBuf::from(format!("/proc/self/fd/{}", NUMBERS[0]));
    // The texts must hold for whatever the image says.
    let _ = manage::info(&path, None).map_err(|e| e.to_string());
    let _ = manage::check(&path, None, false).map_err(|e| e.to_string());
    let options = Options {
        format: Some(Format::Vmdk),
        read_only: true,
        lock: true,
    };
    match open(&path, &options) {
        Ok(image) => steps.chunks_exact(3).for_each(|s| step(&image, s[0], s[1], s[2])),
        Err(e) => drop(e.to_string()),
    }
});

fn step(image: &Image, what: u8, at: u8, len: u8) {
    let size = image.size();
    let offset = u64::from(at) * 2503 % size.min(REACH);
    let offset = if what & 1 == 0 { offset } else { size - 1 - offset };
    let len = (u64::from(len) * 97 + 1).min(size - offset);
    let mut out = vec![0xee; len as usize];
    let whole = match image.read_bytes(offset, &mut out) {
        Ok(()) => true,
        Err(e) => {
            drop(e.to_string());
            false
        }
    };
    if let Ok(extent) = image.extent(offset, len) {
        assert!((1..=len).contains(&extent.len), "an extent of no length");
        let part = &out[..extent.len as usize];
        assert!(
            extent.data || !whole || part.iter().all(|b| *b == 0),
            "a hole has data"
        );
    }
    if let Some(direct) = image.direct(offset, len, false) {
        let mut same = vec![0; len as usize];
        direct
            .file
            .read_exact_at(&mut same, direct.at)
            .expect("it is there");
        assert!(whole && same == out, "read otherwise without the image");
    }
    assert!(image.write_bytes(offset, &out).is_err());
}
