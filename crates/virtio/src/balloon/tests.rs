use super::*;
use crate::mock::{Driver, Told, running};
use donjon_memory::Ram;
use std::time::Duration;

const ALL: u64 = feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::REPORTING;
const LIST: u64 = 0x20_0000;
const SOON: Duration = Duration::from_secs(20);

struct Guest {
    balloon: Arc<Balloon>,
    ram: Arc<Ram>,
    d: Vec<Driver>,
    told: Arc<Told>,
}

fn guest_of(size: u64, features: u64) -> Guest {
    let (balloon, ram) = (Balloon::new(), Arc::new(Ram::new(size).unwrap()));
    let (d, told) = running(&*balloon, &ram, features);
    Guest {
        balloon,
        ram,
        d,
        told,
    }
}

fn guest() -> Guest {
    guest_of(16 << 20, ALL)
}

impl Guest {
    #[track_caller]
    fn name(&mut self, queue: usize, pages: impl IntoIterator<Item = u32>) {
        let bytes: Vec<u8> = pages.into_iter().flat_map(u32::to_le_bytes).collect();
        self.d[queue].write(LIST, &bytes);
        self.d[queue].add(&[(LIST, bytes.len() as u32, false)]);
        self.balloon.notify(queue as u16);
        assert_eq!(self.d[queue].wait(&self.told).1, 0);
    }

    fn tell(&mut self, values: &[(u16, u64)]) {
        let entry = |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let bytes: Vec<u8> = values.iter().flat_map(entry).collect();
        self.d[2].write(LIST, &bytes);
        self.d[2].add(&[(LIST, bytes.len() as u32, false)]);
        self.balloon.notify(2);
    }

    fn blocks(&self) -> u64 {
        rustix::fs::fstat(self.ram.fd()).unwrap().st_blocks as u64 * 512
    }
}

/// Waits for something that happens on another thread.
#[track_caller]
fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(start.elapsed() < SOON);
        std::thread::yield_now();
    }
}

/// Bytes of shared memory that this process has in its address space.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssShmem:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn pages_given_up_go_back_to_the_host() {
    const SIZE: u64 = 256 << 20;
    let mut g = guest_of(SIZE, ALL);
    g.ram.fill(8 << 20, 0xffu8, (SIZE - (8 << 20)) as usize);
    let before = (resident(), g.blocks());
    g.balloon.set_target((128 << 20) + 5);
    assert_eq!(g.told.changes.load(SeqCst), 1);
    let mut config = [0; 8];
    g.balloon.read_config(0, &mut config);
    assert_eq!(config, [0, 0x80, 0, 0, 0, 0, 0, 0]);
    // From the top down, as an allocator would, 256 at a time.
    for n in 0..128u32 {
        g.name(0, (0..256).map(|i| 0xffff - (n * 256 + i)));
    }
    g.balloon.write_config(4, &0x8000u32.to_le_bytes());
    assert_eq!(g.balloon.actual(), 128 << 20);
    let after = (resident(), g.blocks());
    let slack = 16 << 20;
    assert!(after.0 + (128 << 20) <= before.0 + slack, "{before:?} {after:?}");
    assert!(after.1 + (128 << 20) <= before.1 + slack, "{before:?} {after:?}");
    assert_eq!(g.ram.load::<u8>((SIZE / 2 - 1) as usize), 0xff);
    assert_eq!(g.ram.load::<u8>((SIZE / 2) as usize), 0);
    // It takes one back.
    g.name(1, [0xffff]);
    g.ram.store((SIZE - 8) as usize, 1u64);
    assert_eq!(g.ram.load::<u64>((SIZE - 8) as usize), 1);
}

#[test]
fn free_pages_that_are_reported_go_back_too() {
    // By the specification, without a gap, and without statistics.
    for (queue, features) in [(4, ALL), (3, ALL), (2, feature::REPORTING)] {
        let mut g = guest_of(16 << 20, features);
        g.ram.fill(4 << 20, 0xffu8, 8 << 20);
        let before = g.blocks();
        let parts = [
            (4 << 20, 2 << 20, true),
            ((8 << 20) + 1, 8192, true),
            (10 << 20, 4095, true),
            (11 << 20, 1 << 20, false),
        ];
        // The driver's last one is the wrong way round and must come first.
        g.d[queue].add(&[parts[3], parts[0], parts[1], parts[2]]);
        g.balloon.notify(queue as u16);
        g.d[queue].wait(&g.told);
        assert_eq!(before - g.blocks(), (2 << 20) + 4096);
        assert_eq!(g.ram.load::<u8>(8 << 20), 0xff);
        assert_eq!(g.ram.load::<u8>((8 << 20) + 4096), 0);
        assert_eq!(g.ram.load::<u8>((8 << 20) + 8192), 0xff);
        assert_eq!(g.ram.load::<u8>(10 << 20), 0xff);
        assert_eq!(g.ram.load::<u8>(11 << 20), 0xff);
    }
}

#[test]
fn statistics_come_when_asked_for() {
    let mut g = guest();
    assert_eq!(g.balloon.statistics(), None);
    g.balloon.ask_statistics();
    g.tell(&[(4, 1 << 30), (5, 2 << 30), (0xffff, 3)]);
    let s = until(|| g.balloon.statistics());
    assert_eq!(
        (s.free_memory, s.total_memory, s.swap_in),
        (Some(1 << 30), Some(2 << 30), None)
    );
    assert!(s.age < SOON);
    let named: Vec<_> = s.values().collect();
    assert_eq!(named, [("free_memory", 1 << 30), ("total_memory", 2 << 30)]);
    assert_eq!(g.d[2].used(), None, "kept until somebody asks");
    g.balloon.ask_statistics();
    g.d[2].wait(&g.told);
    g.tell(&[(4, 7)]);
    until(|| g.balloon.statistics().filter(|s| s.free_memory == Some(7)));
    // Saved with the buffer in hand, it is in the ring again; what it said is not new.
    g.d[2].state = g.balloon.stop_queue(2).unwrap();
    let Migrate::State(record) = g.balloon.migrate() else {
        panic!()
    };
    let other = Balloon::new();
    other.restore(&record).unwrap();
    other.connect(g.told.clone());
    other.start(ALL);
    other.start_queue(2, g.d[2].queue(2, 0, &g.told));
    until(|| (!other.memory.lock().known).then_some(()));
    assert_eq!(other.statistics(), None);
    other.ask_statistics();
    g.d[2].wait(&g.told);
}

#[test]
fn nonsense_is_survived() {
    let mut g = guest();
    g.ram.fill(12 << 20, 0xffu8, 1 << 20);
    g.name(
        0,
        [u32::MAX, 0x1000, 0xc0000, 0xfff_ffff, 0xc00, 0xc00, 0xc01, 0xbff],
    );
    assert_eq!(g.ram.load::<u8>(12 << 20), 0);
    assert_eq!(g.ram.load::<u8>((12 << 20) + 0x2000), 0xff);
    for queue in [0, 1] {
        g.name(queue, []);
        g.d[queue].add(&[(LIST, 7, false)]);
        g.d[queue].add(&[(LIST, 4096, true)]);
        g.balloon.notify(queue as u16);
        g.d[queue].wait(&g.told);
        g.d[queue].wait(&g.told);
    }
    // Buffers of statistics beyond the one.
    for _ in 0..50 {
        g.tell(&[(4, 7), (4, 8)]);
    }
    g.d[2].add(&[(LIST, 100, true)]);
    until(|| g.balloon.statistics());
    for _ in 0..50 {
        g.balloon.ask_statistics();
        g.d[2].wait(&g.told);
    }
    // Config writes of any shape.
    for (offset, len) in [(0, 8), (3, 2), (7, 4), (4000, 8), (usize::MAX, 1)] {
        g.balloon.write_config(offset, &vec![0xff; len]);
    }
    assert_eq!(g.balloon.target(), 0);
    g.balloon.notify(77);
    // A gigabyte of page numbers.
    let parts = [(0, 8 << 20, false); 100];
    g.d[0].add(&parts);
    g.balloon.notify(0);
    until(|| (g.told.resets.load(SeqCst) == 1).then_some(()));
    g.balloon.reset();
    assert_eq!(g.balloon.actual(), 0);
}

#[test]
fn damaged_records_are_refused() {
    let b = Balloon::new();
    b.set_target(1 << 30);
    let Migrate::State(record) = b.migrate() else {
        panic!()
    };
    for len in 0..record.bytes.len() {
        let bytes = record.bytes[..len].to_vec();
        assert!(
            b.restore(&Record {
                bytes,
                ..record.clone()
            })
            .is_err()
        );
    }
    let other = Balloon::new();
    other.restore(&record).unwrap();
    assert_eq!(other.target(), 1 << 30);
}

#[test]
fn reset_while_everything_runs() {
    let ram = Arc::new(Ram::new(16 << 20).unwrap());
    let balloon = Balloon::new();
    for round in 0..50u32 {
        let (mut d, _) = running(&*balloon, &ram, ALL);
        for n in 0..round % 20 {
            d[0].write(LIST, &(0xc00 + n).to_le_bytes());
            for queue in [0, 2, 4] {
                d[queue].add(&[(LIST, 4, queue == 4)]);
                balloon.notify(queue as u16);
            }
            balloon.ask_statistics();
        }
        if round % 2 == 0 {
            for queue in 0..5 {
                assert!(balloon.stop_queue(queue).is_some() || queue > 4);
            }
        }
        balloon.reset();
    }
}
