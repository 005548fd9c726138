use super::*;
use crate::mock::{Driver, Part, Told, running};
use donjon_block::{Options, open};
use donjon_limit::Limit;
use donjon_memory::Ram;
use std::path::Path;

const HEADER: u64 = 0x1000;
const STATUS: u64 = 0x2000;
const DATA: u64 = 0x10000;

struct Rig {
    blk: Arc<Blk>,
    driver: Driver,
    told: Arc<Told>,
    _directory: tempfile::TempDir,
}

fn disk(directory: &Path, sectors: u64, read_only: bool, io_uring: bool) -> Arc<Disk> {
    let path = directory.join("disk.raw");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(sectors * SECTOR)
        .unwrap();
    let options = Options {
        read_only,
        ..Options::default()
    };
    let image = open(&path, &options).unwrap();
    let build = if io_uring {
        Disk::new
    } else {
        Disk::without_io_uring
    };
    build(image, "serial-no-1", Limit::default())
}

fn rig(read_only: bool, io_uring: bool) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let blk = Blk::new(disk(directory.path(), 2048, read_only, io_uring), 1);
    let ram = Arc::new(Ram::new(8 << 20).unwrap());
    let (mut drivers, told) = running(&*blk, &ram, 0);
    Rig {
        blk,
        driver: drivers.remove(0),
        told,
        _directory: directory,
    }
}

impl Rig {
    /// Sends a request and waits: its status and how many bytes were written.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
        let header = [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[0xaa]);
        let parts: Vec<_> = [(HEADER, 16, false)]
            .into_iter()
            .chain(data.iter().copied())
            .chain([(STATUS, 1, true)])
            .collect();
        let head = self.driver.add(&parts);
        self.blk.notify(0);
        let (used, written) = self.driver.wait(&self.told);
        assert_eq!(used, head);
        (self.driver.read(STATUS, 1)[0], written)
    }
}

#[test]
fn what_is_written_is_read_again() {
    for io_uring in [true, false] {
        let mut rig = rig(false, io_uring);
        let bytes: Vec<_> = (0..4096u32).map(|n| (n * 7 % 251) as u8).collect();
        rig.driver.write(DATA, &bytes);
        // In parts that are no multiple of a sector.
        let out = [(DATA, 100, false), (DATA + 100, 3996, false)];
        assert_eq!(rig.request(1, 5, &out), (0, 1));
        assert_eq!(rig.request(4, 0, &[]), (0, 1));
        let input = [(DATA + 0x8000, 1, true), (DATA + 0x9000, 4095, true)];
        assert_eq!(rig.request(0, 5, &input), (0, 4097));
        let seen = [
            rig.driver.read(DATA + 0x8000, 1),
            rig.driver.read(DATA + 0x9000, 4095),
        ]
        .concat();
        assert_eq!(seen, bytes);
        let mut id = [0; 20];
        assert_eq!(rig.request(8, 0, &[(DATA, 20, true)]), (0, 21));
        id.copy_from_slice(&rig.driver.read(DATA, 20));
        assert_eq!(&id, b"serial-no-1\0\0\0\0\0\0\0\0\0");
        // Write zeroes over the middle.
        let segment = [
            6u64.to_le_bytes().as_slice(),
            &2u32.to_le_bytes(),
            &1u32.to_le_bytes(),
        ]
        .concat();
        rig.driver.write(DATA, &segment);
        assert_eq!(rig.request(13, 0, &[(DATA, 16, false)]), (0, 1));
        assert_eq!(rig.request(0, 5, &[(DATA, 4096, true)]), (0, 4097));
        let mut zeroed = bytes;
        zeroed[512..1536].fill(0);
        assert_eq!(rig.driver.read(DATA, 4096), zeroed);
        // Discard takes no flags.
        let segment = [
            6u64.to_le_bytes().as_slice(),
            &2u32.to_le_bytes(),
            &0u32.to_le_bytes(),
        ]
        .concat();
        rig.driver.write(DATA, &segment);
        assert_eq!(rig.request(11, 0, &[(DATA, 16, false)]), (0, 1));
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let mut rig = rig(false, true);
    let data = [(DATA, 1024, true)];
    assert_eq!(rig.request(0, 2047, &data), (1, 1), "past the end");
    assert_eq!(rig.request(0, u64::MAX, &data), (1, 1), "past everything");
    assert_eq!(rig.request(0, u64::MAX / 512, &data), (1, 1));
    assert_eq!(rig.request(0, 0, &[(DATA, 100, true)]), (1, 1), "no whole sector");
    assert_eq!(rig.request(77, 0, &data), (2, 1), "no such request");
    let segment = [
        0u64.to_le_bytes().as_slice(),
        &u32::MAX.to_le_bytes(),
        &0u32.to_le_bytes(),
    ]
    .concat();
    rig.driver.write(DATA, &segment);
    assert_eq!(
        rig.request(11, 0, &[(DATA, 16, false)]),
        (1, 1),
        "too much at once"
    );
    assert_eq!(rig.request(11, 0, &[(DATA, 12, false)]), (1, 1), "half a segment");
    assert_eq!(rig.request(0, 0, &data), (0, 1025), "still alive");
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut rig = rig(true, true);
    assert_ne!(rig.blk.features() & feature::READ_ONLY, 0);
    assert_eq!(rig.request(1, 0, &[(DATA, 512, false)]), (1, 1));
    assert_eq!(rig.request(0, 0, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn nonsense_in_the_ring_asks_for_a_reset() {
    // No header, no status, a buffer outside RAM, a writable part before a readable one, a loop.
    let parts: [&[Part]; 4] = [
        &[(HEADER, 8, false), (STATUS, 1, true)],
        &[(HEADER, 16, false)],
        &[(HEADER, 16, false), (1 << 40, 512, true), (STATUS, 1, true)],
        &[(STATUS, 1, true), (HEADER, 16, false)],
    ];
    for parts in parts {
        let mut rig = rig(false, true);
        rig.driver.add(parts);
        rig.blk.notify(0);
        wait_for_reset(&rig);
    }
    let mut rig = rig(false, true);
    rig.driver.descriptor(3, HEADER, 16, 1, 3);
    rig.driver.offer(3);
    rig.blk.notify(0);
    wait_for_reset(&rig);
    // A reset brings it back.
    rig.blk.reset();
    let ram = rig.driver.ram.clone();
    let (mut drivers, told) = running(&*rig.blk, &ram, 0);
    (rig.driver, rig.told) = (drivers.remove(0), told);
    assert_eq!(rig.request(0, 0, &[(DATA, 512, true)]), (0, 513));
}

fn wait_for_reset(rig: &Rig) {
    use std::sync::atomic::Ordering::SeqCst;
    let start = std::time::Instant::now();
    while rig.told.resets.load(SeqCst) == 0 {
        assert!(start.elapsed().as_secs() < 20, "nobody asks for a reset");
        std::thread::yield_now();
    }
}

#[test]
fn many_requests_are_under_way_at_once_and_survive_a_stop() {
    let mut rig = rig(false, true);
    const COUNT: u64 = 60;
    for n in 0..COUNT {
        let (header, data) = (HEADER + n * 16, DATA + n * 4096);
        let request = [1u32.to_le_bytes().as_slice(), &[0; 4], &(n * 8).to_le_bytes()].concat();
        rig.driver.write(header, &request);
        rig.driver.write(data, &[n as u8 + 1; 4096]);
        rig.driver
            .add(&[(header, 16, false), (data, 4096, false), (STATUS + n, 1, true)]);
    }
    rig.blk.notify(0);
    let state = rig.blk.stop_queue(0).unwrap();
    assert_eq!(
        (state.next_available, state.next_used),
        (COUNT as u16, COUNT as u16)
    );
    let features = crate::device::feature::VERSION_1;
    rig.driver.state = state;
    rig.blk.start_queue(0, rig.driver.queue(0, features, &rig.told));
    for n in 0..COUNT {
        assert!(rig.driver.used().is_some(), "{n}");
    }
    for n in 0..COUNT {
        assert_eq!(rig.request(0, n * 8, &[(DATA, 4096, true)]), (0, 4097));
        assert_eq!(rig.driver.read(DATA, 4096), [n as u8 + 1; 4096], "{n}");
    }
}

#[test]
fn a_limit_holds_requests_back_and_lets_go_when_it_is_lifted() {
    let mut rig = rig(false, true);
    let limit = "iops=1,iops-burst=1".parse().unwrap();
    let now = std::time::Instant::now();
    rig.blk.disk().limiter().set(now, limit);
    let start = std::time::Instant::now();
    for _ in 0..3 {
        // The first has what is in the bucket, the second goes into debt.
        assert_eq!(rig.request(0, 0, &[(DATA, 512, true)]), (0, 513));
    }
    assert!(
        start.elapsed().as_millis() > 500,
        "three within {:?}",
        start.elapsed()
    );
    let far = "iops=1,iops-burst=1".parse().unwrap();
    rig.blk.disk().limiter().set(now, far);
    rig.blk.disk().limiter().set(now, Limit::default());
    rig.blk.limit_changed();
    for _ in 0..100 {
        assert_eq!(rig.request(0, 0, &[(DATA, 512, true)]), (0, 513));
    }
}
