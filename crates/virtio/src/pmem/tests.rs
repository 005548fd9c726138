use super::*;
use crate::mock::{Driver, Told, running};
use donjon_memory::MemoryFile;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const START: u64 = 0xc0_0000_0000;
const SIZE: u64 = 2 * ALIGNMENT;

struct Setup {
    ram: Arc<Ram>,
    device: Arc<Pmem>,
    driver: Driver,
    told: Arc<Told>,
}

fn setup(read_only: bool) -> Setup {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let file = MemoryFile {
        file: Arc::new(file),
        len: SIZE,
        read_only,
    };
    let ram = Arc::new(Ram::with_files(4 << 20, &[(START, file.clone())]).unwrap());
    let device = Pmem::new(&file.file, &ram).unwrap();
    let (mut drivers, told) = running(&*device, &ram, 0);
    Setup {
        ram,
        device,
        driver: drivers.remove(0),
        told,
    }
}

impl Setup {
    /// A request of this type; the response.
    fn request(&mut self, kind: u32) -> u32 {
        self.driver.write(0x1000, &kind.to_le_bytes());
        self.driver.write(0x2000, &[0xee; 4]);
        let head = self.driver.add(&[(0x1000, 4, false), (0x2000, 4, true)]);
        self.device.notify(0);
        assert_eq!(self.driver.wait(&self.told), (head, 4));
        self.ram.load(0x2000)
    }
}

#[test]
fn the_configuration_says_where_it_is() {
    let s = setup(false);
    let mut config = [0; 24];
    s.device.read_config(0, &mut config);
    let expected = [START.to_le_bytes(), SIZE.to_le_bytes(), [0; 8]];
    assert_eq!(config, expected.as_flattened());
    assert_eq!((s.device.kind(), s.device.queue_sizes()), (27, vec![QUEUE_SIZE]));
    assert!(Pmem::new(&Arc::new(tempfile::tempfile().unwrap()), &s.ram).is_none());
}

#[test]
fn flushes_are_answered() {
    let mut s = setup(false);
    s.ram.write(START + SIZE - 4, b"last").unwrap();
    for _ in 0..3 {
        assert_eq!(s.request(0), 0);
    }
    assert_eq!(s.request(7), 1, "there is no such request");
    // Many at once.
    for _ in 0..20 {
        s.driver.add(&[(0x1000, 4, false), (0x2000, 4, true)]);
    }
    s.device.notify(0);
    for _ in 0..20 {
        assert_eq!(s.driver.wait(&s.told).1, 4);
    }
    let state = s.device.stop_queue(0).unwrap();
    assert_eq!(state.next_available, 24);
    assert_eq!(s.told.resets.load(SeqCst), 0);
}

#[test]
fn a_read_only_device_says_what_was_lost() {
    let mut s = setup(true);
    assert_eq!(s.request(0), 0);
    s.ram.write(START + 100, b"lost").unwrap();
    assert_eq!(s.request(0), 1);
    assert_eq!(s.request(0), 1, "it stays lost");
}

#[test]
fn nonsense_breaks_the_device_and_nothing_else() {
    for parts in [
        vec![(0x1000, 4, false)],
        vec![(0x2000, 4, true)],
        vec![(0x1000, 3, false), (0x2000, 4, true)],
        vec![(0x1000, 4, false), (0x2000, 3, true)],
        // Where it cannot answer.
        vec![(0x1000, 4, false), (START, 4, true)],
        vec![(0x1000, 4, false), (START + SIZE, 4, true)],
    ] {
        let mut s = setup(true);
        s.driver.add(&parts);
        s.device.notify(0);
        let start = Instant::now();
        while s.told.resets.load(SeqCst) == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "{parts:?}");
            std::thread::yield_now();
        }
        assert_eq!(s.driver.used(), None);
        s.device.reset();
    }
}

#[test]
fn it_is_restored_where_it_was() {
    let s = setup(false);
    let Migrate::State(record) = s.device.migrate() else {
        panic!("it has a state")
    };
    s.device.restore(&record).unwrap();
    let other = SavedPmem {
        start: START,
        size: ALIGNMENT,
    };
    let Migrate::State(record) = other.save() else {
        panic!("it has a state")
    };
    let refused = s.device.restore(&record).unwrap_err().to_string();
    assert!(refused.contains("persistent memory"), "{refused}");
}
