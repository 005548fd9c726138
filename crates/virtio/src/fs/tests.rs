use super::*;
use crate::mock::{Driver, Told, running};
use donjon_fs::ShareOptions;
use donjon_memory::Ram;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    nodes: 1000,
    descriptors: 100,
    handles: 100,
};
/// Where requests and answers are.
const REQUEST: u64 = 0x1000;
const REPLY: u64 = 0x2_0000;
const INIT: u32 = 26;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;

struct Setup {
    place: TempDir,
    device: Arc<Fs>,
    ram: Arc<Ram>,
    drivers: Vec<Driver>,
    told: Arc<Told>,
}

fn device(place: &TempDir) -> Arc<Fs> {
    let share = Share::open(place.path(), &ShareOptions::default()).unwrap();
    Fs::new(&share, &"work".parse().unwrap(), &LIMITS)
}

fn setup() -> Setup {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("f"), "content").unwrap();
    let device = device(&place);
    let ram = Arc::new(Ram::new(4 << 20).unwrap());
    let (drivers, told) = running(&*device, &ram, 0);
    Setup {
        place,
        device,
        ram,
        drivers,
        told,
    }
}

fn request(op: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let len = (40 + body.len()) as u32;
    let mut bytes = [len.to_le_bytes(), op.to_le_bytes()].concat();
    bytes.extend(9u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

impl Setup {
    /// Offers a request, without telling; its head.
    fn offer(&mut self, n: usize, at: u64, op: u32, node: u64, body: &[u8], room: u32) -> u16 {
        let bytes = request(op, node, body);
        self.drivers[n].write(REQUEST + at, &bytes);
        // The header apart, as Linux has it.
        let mut parts = vec![(REQUEST + at, 40, false)];
        if bytes.len() > 40 {
            parts.push((REQUEST + at + 40, bytes.len() as u32 - 40, false));
        }
        if room > 0 {
            parts.push((REPLY + at, 16, true));
            parts.push((REPLY + at + 16, room, true));
        }
        self.drivers[n].add(&parts)
    }

    fn ask(&mut self, op: u32, node: u64, body: &[u8], room: u32) -> Vec<u8> {
        let head = self.offer(1, 0, op, node, body, room);
        self.device.notify(1);
        let (used, written) = self.drivers[1].wait(&self.told);
        assert_eq!(used, head);
        self.drivers[1].read(REPLY, written as usize)
    }

    fn init(&mut self) {
        let body = [7u32, 38, 0, 0].map(u32::to_le_bytes).concat();
        assert_eq!(self.ask(INIT, 0, &body, 64).len(), 80);
    }

    fn open(&mut self) -> Vec<u8> {
        let entry = self.ask(LOOKUP, 1, b"f\0", 128);
        let node = u64::from_le_bytes(entry[16..24].try_into().unwrap());
        self.ask(OPEN, node, &[0; 8], 16)[16..24].to_vec()
    }
}

fn read_of(handle: &[u8], size: u32) -> Vec<u8> {
    [handle, &[0; 8], &size.to_le_bytes(), &[0; 20]].concat()
}

#[test]
fn the_configuration_has_the_tag_and_one_request_queue() {
    let s = setup();
    let mut config = [0xff; 44];
    s.device.read_config(0, &mut config);
    assert_eq!(&config[..5], b"work\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        (s.device.kind(), s.device.queue_sizes()),
        (26, vec![QUEUE_SIZE; 2])
    );
    for bad in ["", "a\0", &"x".repeat(37)] {
        assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
    }
    assert!("x".repeat(36).parse::<Tag>().is_ok());
}

#[test]
fn requests_are_answered_many_at_once() {
    let mut s = setup();
    s.init();
    let handle = s.open();
    let answer = s.ask(READ, 0, &read_of(&handle, 100), 100);
    assert_eq!(&answer[16..], b"content");
    for round in 0..20 {
        let mut heads: Vec<_> = (0..50)
            .map(|n| s.offer(1, n * 0x200, READ, 0, &read_of(&handle, 100), 100))
            .collect();
        s.device.notify(1);
        while !heads.is_empty() {
            let (head, written) = s.drivers[1].wait(&s.told);
            assert_eq!(written, 23, "round {round}");
            let at = heads.iter().position(|h| *h == head).expect("each once");
            heads.swap_remove(at);
        }
    }
    // What has no answer comes back as well.
    let head = s.offer(0, 0, FORGET, 2, &1u64.to_le_bytes(), 0);
    s.device.notify(0);
    assert_eq!(s.drivers[0].wait(&s.told), (head, 0));
    assert_eq!(s.told.resets.load(SeqCst), 0);
}

#[test]
fn a_stopped_queue_has_nothing_under_way() {
    let mut s = setup();
    s.init();
    let handle = s.open();
    for n in 0..100 {
        s.offer(1, n * 0x200, READ, 0, &read_of(&handle, 100), 100);
    }
    s.device.notify(1);
    let state = s.device.stop_queue(1).unwrap();
    assert_eq!(state.next_available, state.next_used);
    assert!(s.device.stop_queue(1).is_none());
    // The rest is done when it goes on.
    s.drivers[1].state = state;
    s.device.start_queue(1, s.drivers[1].queue(1, 0, &s.told));
    for _ in 0..100 {
        s.drivers[1].wait(&s.told);
    }
}

#[test]
fn a_saved_device_goes_on() {
    let mut s = setup();
    s.init();
    let handle = s.open();
    for n in 0..2 {
        s.drivers[usize::from(n)].state = s.device.stop_queue(n).unwrap();
    }
    let Migrate::State(record) = s.device.migrate() else {
        panic!("it has a state")
    };
    s.device.reset();
    s.device = device(&s.place);
    s.device.restore(&record).unwrap();
    for n in 0..2 {
        s.device
            .start_queue(n, s.drivers[usize::from(n)].queue(n, 0, &s.told));
    }
    let answer = s.ask(READ, 0, &read_of(&handle, 100), 100);
    assert_eq!(&answer[16..], b"content");
    let share = Share::open(s.place.path(), &ShareOptions::default()).unwrap();
    let other = Fs::new(&share, &"other".parse().unwrap(), &LIMITS);
    let refused = other.restore(&record).unwrap_err().to_string();
    assert!(refused.contains("\"work\""), "{refused}");
    let mut damaged = record.clone();
    damaged.bytes.truncate(record.bytes.len() - 1);
    assert!(s.device.restore(&damaged).is_err());
}

#[test]
fn a_reset_ends_the_session() {
    let mut s = setup();
    s.init();
    s.device.reset();
    let (drivers, told) = running(&*s.device, &s.ram, 0);
    // A transport connects once, so this is told to nobody.
    (s.drivers, s.told) = (drivers, told);
    let answer = s.ask(LOOKUP, 1, b"f\0", 128);
    assert_eq!(answer[4..8], (-5i32).to_le_bytes(), "EIO: it has not begun");
}

#[test]
fn nonsense_breaks_the_device_and_nothing_else() {
    for parts in [
        vec![(REQUEST, 39, false), (REPLY, 100, true)],
        vec![(REPLY, 100, true)],
        vec![(REQUEST, 40, false)],
        vec![(REQUEST, 40, false), (REPLY, 15, true)],
        vec![(REQUEST, 40, false), (16 << 20, 100, true)],
    ] {
        let mut s = setup();
        s.drivers[1].write(REQUEST, &request(17, 1, &[]));
        s.drivers[1].add(&parts);
        s.device.notify(1);
        let start = Instant::now();
        while s.told.resets.load(SeqCst) == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "{parts:?}");
            std::thread::yield_now();
        }
        assert_eq!(s.drivers[1].used(), None);
        s.device.reset();
    }
}
