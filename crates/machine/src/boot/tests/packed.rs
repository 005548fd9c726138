//! Kernels inside bzImages, unpacked on the host.

use super::*;
use crate::boot::sample::bzimage_with_payload;
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;
use std::io::Write;

/// What kernels are compressed with.
const FORMATS: [&str; 5] = ["gzip", "xz", "lzma", "lz4", "zstd"];

/// Where the kernel that unpacks itself is entered.
const OWN_ENTRY: u64 = LOAD_ADDRESS + 0x200;

/// As the kernel's build does it.
fn pack(format: &str, kernel: &[u8]) -> Vec<u8> {
    let options = LzmaOptions::new_preset(0).unwrap();
    let xz = |stream| {
        let mut encoder = XzEncoder::new_stream(vec![], stream);
        encoder.write_all(kernel).unwrap();
        encoder.finish().unwrap()
    };
    let mut packed = match format {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
            encoder.write_all(kernel).unwrap();
            return encoder.finish().unwrap();
        }
        "xz" => {
            let mut filters = Filters::new();
            filters.x86().lzma2(&options);
            xz(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap())
        }
        "lzma" => xz(Stream::new_lzma_encoder(&options).unwrap()),
        "lz4" => lz4::tests::frame(&kernel.chunks(8 << 20).collect::<Vec<_>>()),
        "zstd" => zstd::encode_all(kernel, 3).unwrap(),
        other => panic!("{other}"),
    };
    packed.extend((kernel.len() as u32).to_le_bytes());
    packed
}

/// A payload without its size, with this size instead.
fn with_size(packed: &[u8], size: u32) -> Vec<u8> {
    [&packed[..packed.len() - 4], &size.to_le_bytes()].concat()
}

/// Gives a changed bzImage its checksum again.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - 4;
    let sum = checksum::of(&file[..end]);
    file[end..].copy_from_slice(&sum.to_le_bytes());
    file
}

/// Where a bzImage with this payload is entered, which must be possible.
fn entry(payload: &[u8]) -> u64 {
    let ram = ram();
    let state = load(&source(bzimage_with_payload(CODE, payload)), &ram, RSDP).unwrap();
    assert!(ram.offset(state.rip).is_some());
    state.rip
}

#[test]
fn what_is_inside_is_entered_by_pvh_with_all_it_needs() {
    for format in FORMATS {
        let (ram, source) = (
            ram(),
            source(bzimage_with_payload(b"", &pack(format, &pvh_elf(CODE)))),
        );
        let state = load(&source, &ram, RSDP).unwrap();
        assert_eq!(state.rip, LOAD_ADDRESS, "{format}");
        assert_eq!(state.cr0 & (cr0::PE | cr0::PG), cr0::PE);
        assert_eq!(bytes(&ram, LOAD_ADDRESS, CODE.len()), CODE);

        let info = bytes(&ram, state.gpr[Gpr::Rbx as usize], 56);
        let module = bytes(&ram, bytes::u64_at(&info, 16), 16);
        assert_eq!(bytes(&ram, bytes::u64_at(&module, 0), 6), b"070701");
        assert_eq!(bytes(&ram, bytes::u64_at(&info, 24), 14), b"console=ttyS0\0");
        assert_eq!(bytes::u64_at(&info, 32), RSDP);
        assert_eq!(bytes::u32_at(&info, 48), 5);
    }
}

#[test]
fn long_kernels_arrive_whole() {
    // More than the pieces that are under way at a time, with stretches of zeros, and no multiple of anything.
    let code: Vec<u8> = (0..9_999_999u32)
        .map(|i| if i >> 14 & 3 == 1 { 0 } else { (i ^ i >> 9) as u8 })
        .collect();
    for format in FORMATS {
        let ram = Ram::new(64 << 20).unwrap();
        let kernel = bzimage_with_payload(b"", &pack(format, &pvh_elf(&code)));
        load(&source(kernel), &ram, RSDP).unwrap();
        assert!(bytes(&ram, LOAD_ADDRESS, code.len()) == code, "{format}");
    }
}

#[test]
fn the_guest_unpacks_it_if_the_host_must_not() {
    let mut s = source(bzimage_with_payload(CODE, &pack("lz4", &pvh_elf(CODE))));
    s.kernel = s.kernel.with_unpack(Unpack::Never);
    let state = load(&s, &ram(), RSDP).unwrap();
    assert!(state.rip == OWN_ENTRY && state.cr0 & cr0::PG != 0);
}

#[test]
fn the_guest_unpacks_what_the_host_cannot() {
    let packed = pack("zstd", &pvh_elf(CODE));
    assert_eq!(entry(&packed), LOAD_ADDRESS);
    let lzo = [b"\x89LZO\0\x0d\x0a\x1a\x0a", &packed[..]].concat();
    assert_eq!(entry(&lzo), OWN_ENTRY, "no such format");
    assert_eq!(entry(b"\x28\xb5\x2f\xfd"), OWN_ENTRY, "too short");
    assert_eq!(entry(&pack("xz", &[0x90; 5000])), OWN_ENTRY, "not ELF");
    assert_eq!(entry(&pack("gzip", b"")), OWN_ENTRY, "nothing");

    let changed = |at: usize, value: &[u8]| {
        let mut kernel = pvh_elf(CODE);
        kernel[at..at + value.len()].copy_from_slice(value);
        entry(&pack("lz4", &kernel))
    };
    assert_eq!(changed(64 + 2 * 56 + 8, &[17]), OWN_ENTRY, "no PVH note");
    assert_eq!(
        changed(64 + 2 * 56 + 16, &[0, 0, 0, 9]),
        OWN_ENTRY,
        "entry elsewhere"
    );
    assert_eq!(changed(64 + 24, &[0; 8]), OWN_ENTRY, "segment in low memory");
    assert_eq!(changed(64 + 40, &[0, 0, 0, 0x10]), OWN_ENTRY, "segment too long");
    assert_eq!(changed(32, &[0, 0x10]), OWN_ENTRY, "segment table far away");
}

#[test]
fn the_pvh_entry_of_old_kernels_is_not_for_us() {
    let mut file = bzimage_with_payload(CODE, &pack("lz4", &pvh_elf(CODE)));
    for (version, expected) in [
        (b"4.20.", OWN_ENTRY),
        (b"MT86+", OWN_ENTRY),
        (b"5.0.0", LOAD_ADDRESS),
    ] {
        file[0x300..0x305].copy_from_slice(version);
        let state = load(&source(sealed(file.clone())), &ram(), RSDP).unwrap();
        assert_eq!(state.rip, expected, "{}", version.escape_ascii());
    }
}

#[test]
fn a_payload_outside_the_file_is_left_alone() {
    for (field, value) in [(0x248, u32::MAX), (0x24c, u32::MAX), (0x24c, 0), (0x248, 0)] {
        let mut file = bzimage_with_payload(CODE, &pack("lz4", &pvh_elf(CODE)));
        file[field..field + 4].copy_from_slice(&value.to_le_bytes());
        let state = load(&source(sealed(file)), &ram(), RSDP).unwrap();
        assert_eq!(state.rip, OWN_ENTRY, "{field:#x} {value:#x}");
    }
}

#[test]
fn damage_leaves_it_to_the_guest() {
    let kernel = pvh_elf(&[0x90; 600]);
    for format in FORMATS {
        let whole = pack(format, &kernel);
        for len in 0..whole.len() - 4 {
            let cut = [&whole[..len], &(kernel.len() as u32).to_le_bytes()].concat();
            // A gzip stream ends in its size, which is back in place then.
            if format != "gzip" || cut != whole {
                assert_eq!(entry(&cut), OWN_ENTRY, "{format} {len}");
            }
        }
        for size in [0, 1, kernel.len() as u32 - 1, kernel.len() as u32 + 1, 16 << 20] {
            assert_eq!(entry(&with_size(&whole, size)), OWN_ENTRY, "{format} {size}");
        }
        // Not every format notices every change, but each is survived.
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            entry(&flipped);
        }
    }
}

#[test]
fn bombs_do_not_go_off() {
    // More than memory, by what it claims, and by what it is.
    let bomb = [pvh_elf(CODE), vec![0; 20 << 20]].concat();
    for format in FORMATS {
        let packed = pack(format, &bomb);
        assert!(packed.len() < 1 << 20, "{format}");
        assert_eq!(entry(&packed), OWN_ENTRY, "{format}");
        assert_eq!(entry(&with_size(&packed, 1 << 20)), OWN_ENTRY, "{format}");
        assert_eq!(entry(&with_size(&packed, u32::MAX)), OWN_ENTRY, "{format}");
    }
}

#[test]
fn command_line_and_initrd_keep_the_limits_of_the_bzimage() {
    let mut file = bzimage_with_payload(CODE, &pack("lz4", &pvh_elf(CODE)));
    file[0x22c..0x230].copy_from_slice(&0x3f_ffffu32.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x20_0000u32.to_le_bytes());
    let mut s = source(sealed(file.clone()));
    let ram = ram();
    let state = load(&s, &ram, RSDP).unwrap();
    assert_eq!(state.rip, LOAD_ADDRESS);
    let info = bytes(&ram, state.gpr[Gpr::Rbx as usize], 56);
    let module = bytes(&ram, bytes::u64_at(&info, 16), 16);
    assert_eq!(bytes::u64_at(&module, 0), (4 << 20) - 4096);

    s.command_line = "x".repeat(2048);
    let e = load(&s, &ram, RSDP).unwrap_err();
    assert!(e.to_string().contains("this kernel takes 2047"), "{e}");
    // All of the memory below the limit is the kernel's own.
    file[0x260..0x264].copy_from_slice(&0x30_0000u32.to_le_bytes());
    let e = load(&source(sealed(file)), &ram, RSDP).unwrap_err();
    assert!(matches!(e, BootError::InitrdSize { .. }), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_payloads_are_loaded_or_left_to_the_guest(
        format in 0..FORMATS.len(),
        inner in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        outer in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut kernel = pvh_elf(CODE);
        for (at, value) in inner {
            kernel[at.index(0x100)] = value;
        }
        let mut packed = pack(FORMATS[format], &kernel);
        for (at, value) in outer {
            let len = packed.len();
            packed[at.index(len)] = value;
        }
        entry(&packed);
    }
}
