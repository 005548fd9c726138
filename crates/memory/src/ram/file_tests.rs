use super::*;
use crate::{Scatter, guest_ram};
use std::io::{Read, Seek, Write};
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;
const WRITABLE: u64 = 0x100_0000_0000 - 0x10_0000;
const READ_ONLY: u64 = HOLE_END;

fn file(pages: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    for page in 0..pages {
        file.write_all(&[0x11 * (page as u8 + 1); PAGE_SIZE]).unwrap();
    }
    file
}

fn content(file: &File) -> Vec<u8> {
    let (mut file, mut all) = (file, vec![]);
    file.rewind().unwrap();
    file.read_to_end(&mut all).unwrap();
    all
}

fn memory(file: File, read_only: bool) -> MemoryFile {
    MemoryFile {
        len: file.metadata().unwrap().len(),
        file: Arc::new(file),
        read_only,
    }
}

/// RAM with a read-only file of two pages below a writable one of three.
fn ram() -> (Arc<Ram>, Arc<File>, Arc<File>) {
    let (writable, read_only) = (memory(file(3), false), memory(file(2), true));
    let files = [(READ_ONLY, read_only.clone()), (WRITABLE, writable.clone())];
    let ram = Ram::with_files(RAM, &files).unwrap();
    (Arc::new(ram), writable.file, read_only.file)
}

#[test]
fn files_have_ranges_of_their_own_behind_gaps() {
    let (ram, writable, read_only) = ram();
    assert_eq!((ram.size(), ram.ranges().len()), (RAM, 3));
    let kinds: Vec<_> = ram.ranges().iter().map(|r| r.kind).collect();
    assert_eq!(
        kinds,
        [RangeKind::Ram, RangeKind::ReadOnlyFile, RangeKind::File],
        "by address"
    );
    let (w, r) = (
        ram.file_range(&writable).unwrap(),
        ram.file_range(&read_only).unwrap(),
    );
    assert_eq!((w.address, w.len, w.offset), (WRITABLE, 3 * PAGE, RAM + PAGE));
    assert_eq!((r.address, r.len), (READ_ONLY, 2 * PAGE));
    assert_eq!(r.offset, w.offset + w.len + PAGE);
    assert!(ram.file_range(&Arc::new(file(1))).is_none());
    assert_eq!(ram.offset(WRITABLE + 3 * PAGE), None);
    assert!(ram.offset_of(READ_ONLY + PAGE, PAGE_SIZE + 1).is_err());
    // What runs over an end ends in a gap: of RAM, of the first file, of the second.
    ram.store(RAM as usize - 4, u64::MAX);
    ram.store((w.offset + w.len) as usize - 4, u64::MAX);
    assert_eq!(ram.load::<u64>(w.offset as usize), 0x1111_1111_1111_1111);
    assert_eq!(ram.load::<u64>(r.offset as usize), 0x1111_1111_1111_1111);
    assert_eq!(ram.load::<u32>((r.offset + r.len) as usize - 4), 0x2222_2222);
    ram.load::<u64>((r.offset + r.len) as usize - 4);
}

#[test]
fn a_writable_file_gets_what_is_stored() {
    let (ram, writable, _) = ram();
    let guarded = ram.guarded_address().unwrap();
    ram.write(WRITABLE + 10, b"through the mapping").unwrap();
    assert_eq!(&content(&writable)[10..29], b"through the mapping");
    let at = ram.offset(WRITABLE + PAGE).unwrap();
    assert_eq!(ram.swap(at, 7u64), 0x2222_2222_2222_2222);
    assert_eq!(content(&writable)[PAGE_SIZE], 7);
    // As other processes do.
    let mut outside = &*writable;
    outside.seek(std::io::SeekFrom::Start(0)).unwrap();
    outside.write_all(b"outside").unwrap();
    let mut seen = [0; 7];
    ram.read(WRITABLE, &mut seen).unwrap();
    assert_eq!(&seen, b"outside");
    assert!(guarded != ram.host_address() && ram.unguard(at));
}

#[test]
fn a_read_only_file_ignores_every_kind_of_store() {
    let (ram, _, read_only) = ram();
    let before = content(&read_only);
    let at = ram.offset(READ_ONLY).unwrap();
    let old = 0x1111_1111_1111_1111u64;
    assert!(!ram.ignored_stores(READ_ONLY));
    ram.read(READ_ONLY, &mut [0; 8]).unwrap();
    assert!(!ram.ignored_stores(READ_ONLY), "loads are none");
    ram.store(at, 1u64);
    assert!(ram.ignored_stores(READ_ONLY) && !ram.ignored_stores(WRITABLE));
    ram.store(at + 3, 1u8);
    assert_eq!(ram.compare_exchange(at, old, 1), Ok(old), "it was equal");
    assert_eq!(ram.compare_exchange(at, 5, 1), Err(old));
    assert_eq!(ram.swap(at, 1u32), old as u32);
    assert_eq!(ram.fetch_add(at, 1u16), old as u16);
    let wide = u128::from(old) << 64 | u128::from(old);
    assert_eq!(ram.compare_exchange_128(at, wide, 1), Ok(wide));
    assert_eq!(ram.compare_exchange_128(at, 0, 1), Err(wide));
    ram.write_at(at, &[1; 5000]);
    ram.copy(0, at, PAGE_SIZE);
    ram.fill(at, 0u8, 2 * PAGE_SIZE);
    ram.write(READ_ONLY + 1, b"x").unwrap();
    assert!(ram.release(at, PAGE_SIZE).is_err());
    assert_eq!(content(&read_only), before);
    // From it, all the same.
    ram.copy(at, 0, 16);
    assert_eq!(ram.load::<u64>(8), old);
    assert!(!ram.unguard(at));
    ram.guarded_address().unwrap();
    ram.code().mark(at, 64);
    assert!(!ram.unguard(at));
    let generation = ram.code().generation(at);
    ram.store(at, 1u64);
    assert_eq!(ram.code().generation(at), generation, "nothing has changed");
}

#[test]
fn code_in_a_file_is_followed() {
    let (ram, ..) = ram();
    let at = ram.offset(WRITABLE + 2 * PAGE).unwrap();
    ram.guarded_address().unwrap();
    let before = ram.code().mark(at, 64);
    assert!(!ram.unguard(at));
    ram.write(WRITABLE + 2 * PAGE + 60, &[0; 4]).unwrap();
    assert_ne!(ram.code().generation(at), before);
    assert!(ram.unguard(at));
}

#[test]
fn devices_cannot_store_to_a_read_only_file() {
    let (ram, _, read_only) = ram();
    let before = content(&read_only);
    let mut list = Scatter::new(&ram);
    list.push(WRITABLE, 4).unwrap();
    assert!(list.is_writable());
    list.push(READ_ONLY, 4).unwrap();
    assert!(!list.is_writable() && list.slice(0..4).is_writable());
    list.store(0, &[9; 8]);
    let mut out = [0; 8];
    list.load(0, &mut out);
    assert_eq!(out, [9, 9, 9, 9, 0x11, 0x11, 0x11, 0x11]);
    // The host's kernel does not store there either.
    let zero = File::open("/dev/zero").unwrap();
    assert!(list.read_from(4..8, zero.as_fd(), None).is_err());
    let guest = guest_ram(&ram);
    assert!(guest.write_obj(0u64, GuestAddress(READ_ONLY)).is_err());
    assert!(guest.write_obj(0u64, GuestAddress(WRITABLE)).is_ok());
    assert_eq!(content(&read_only), before);
    let in_file = ram.offset(WRITABLE).unwrap();
    assert!(
        ram.release(in_file, PAGE_SIZE).is_err(),
        "a balloon takes RAM only"
    );
}

#[test]
fn files_that_cannot_be_memory() {
    let with = |address, f: MemoryFile| Ram::with_files(RAM, &[(address, f)]).err().unwrap();
    let good = memory(file(2), true);
    for address in [RAM - PAGE, 0, HOLE_END + 1, u64::MAX - PAGE + 1] {
        let error = with(address, good.clone());
        assert!(
            matches!(error, MemoryError::Place { .. }),
            "{address:#x}: {error}"
        );
    }
    let len = |len| MemoryFile { len, ..good.clone() };
    assert!(matches!(with(HOLE_END, len(0)), MemoryError::Place { .. }));
    assert!(matches!(with(HOLE_END, len(100)), MemoryError::Place { .. }));
    let short = with(HOLE_END, len(3 * PAGE)).to_string();
    assert!(short.contains("only 8192 bytes"), "{short}");
    let twice = [(HOLE_END, good.clone()), (HOLE_END + PAGE, good.clone())];
    assert!(Ram::with_files(RAM, &twice).is_err());
    // Opened for reading only, but to be written.
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(PAGE).unwrap();
    let unwritable = memory(File::open(path.path()).unwrap(), false);
    assert!(matches!(with(HOLE_END, unwritable), MemoryError::File { .. }));
}

#[test]
#[should_panic(expected = "outside guest RAM")]
fn a_store_beyond_the_last_file_is_caught() {
    let (ram, _, read_only) = ram();
    let range = ram.file_range(&read_only).unwrap();
    ram.store((range.offset + range.len) as usize, 1u8);
}

#[test]
#[should_panic(expected = "outside guest RAM")]
fn a_range_over_a_gap_is_caught() {
    let (ram, ..) = ram();
    ram.fill(RAM as usize - 8, 0u8, 16);
}
