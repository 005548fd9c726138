//! qcow2 images of any content, and any work on them: they are used or refused, and never panic, hang or take
//! memory without bound. What works without an error is right: what was written is read.
#![no_main]

use donjon_block::{Format, Image, Options, manage, open};
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// Larger disks are only read and written at their beginning.
const REACH: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else {
        return;
    };
    let Some((steps, image)) = rest.split_at_checked(usize::from(count)) else {
        return;
    };
    let mut file =
        File::from(rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all(image).expect("written");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // The texts must hold for whatever the image says.
    let _ = manage::info(path.as_ref(), None).map_err(|e| e.to_string());
    let _ = manage::check(path.as_ref(), None, false).map_err(|e| e.to_string());
    for read_only in [true, false] {
        let options = Options {
            format: Some(Format::Qcow2),
            read_only,
            lock: true,
        };
        match open(&path, &options) {
            Ok(image) => steps.chunks_exact(3).for_each(|s| step(&image, s[0], s[1], s[2])),
            Err(e) => drop(e.to_string()),
        }
    }
    let _ = manage::check(path.as_ref(), None, true).map_err(|e| e.to_string());
});

fn step(image: &Image, what: u8, at: u8, len: u8) {
    let reach = image.size().min(REACH);
    let offset = u64::from(at) * 251 % reach.max(1);
    let len = (u64::from(len) * 97 + 1).min(reach - offset.min(reach));
    let mut out = vec![0; len as usize];
    match what % 6 {
        0 => drop(image.read_bytes(offset, &mut out)),
        1 => {
            let data = vec![at | 1; len as usize];
            if image.write_bytes(offset, &data).is_ok() && image.read_bytes(offset, &mut out).is_ok() {
                assert!(out == data, "what was written is not read");
            }
        }
        2 => drop(image.discard(offset, len)),
        3 => {
            if image.write_zeroes(offset, len, at & 1 == 0).is_ok()
                && image.read_bytes(offset, &mut out).is_ok()
            {
                assert!(out.iter().all(|b| *b == 0), "zeroes are not read");
            }
        }
        4 => drop(image.direct(offset, len, at & 1 == 0)),
        _ => drop(image.flush()),
    }
}
