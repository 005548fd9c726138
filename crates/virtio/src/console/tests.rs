use super::outlet::CAPACITY;
use super::port::BACKLOG;
use super::*;
use crate::mock::{Driver, Told, running};
use donjon_memory::Ram;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

const SOON: Duration = Duration::from_secs(20);
const BUFFERS: u64 = 0x20_0000;

fn ram() -> Arc<Ram> {
    Arc::new(Ram::new(8 << 20).unwrap())
}

/// Sends what is written to a channel.
struct Sink(Sender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .send(bytes.to_vec())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes nothing before its gate is gone.
struct Gated(Receiver<()>, Sink);

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sink(port: &ConsolePort) -> Receiver<Vec<u8>> {
    let (out, got) = channel();
    port.connect(Box::new(Sink(out))).unwrap();
    got
}

#[track_caller]
fn expect(got: &Receiver<Vec<u8>>, text: &[u8]) {
    let mut all = vec![];
    while all.len() < text.len() {
        all.extend(got.recv_timeout(SOON).expect("output"));
    }
    assert!(all == text, "{} bytes instead of {}", all.len(), text.len());
}

/// A guest with the driver's habits.
struct Guest {
    console: Arc<Console>,
    d: Vec<Driver>,
    told: Arc<Told>,
}

impl Guest {
    fn with(console: &Arc<Console>, ram: &Arc<Ram>) -> Self {
        let (d, told) = running(&**console, ram, feature::SIZE | feature::MULTIPORT);
        Self {
            console: console.clone(),
            d,
            told,
        }
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let mut m = port.to_le_bytes().to_vec();
        m.extend([event, value].map(u16::to_le_bytes).concat());
        self.send(3, &m);
    }

    /// Sends a buffer on a queue and waits until it is taken.
    #[track_caller]
    fn send(&mut self, queue: usize, bytes: &[u8]) {
        self.offer(queue, bytes);
        self.d[queue].wait(&self.told);
    }

    fn offer(&mut self, queue: usize, bytes: &[u8]) {
        self.d[queue].write(BUFFERS, bytes);
        self.d[queue].add(&[(BUFFERS, bytes.len() as u32, false)]);
        self.console.notify(queue as u16);
    }

    /// Offers a buffer of `len` bytes on a queue and waits for what comes.
    #[track_caller]
    fn hear(&mut self, queue: usize, len: u32) -> Vec<u8> {
        let at = BUFFERS + 0x10_0000;
        self.d[queue].add(&[(at, len, true)]);
        self.console.notify(queue as u16);
        let (_, n) = self.d[queue].wait(&self.told);
        self.d[queue].read(at, n as usize)
    }

    #[track_caller]
    fn control(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let m = self.hear(2, 4096);
        let half = |at: usize| u16::from_le_bytes([m[at], m[at + 1]]);
        (u32::from(half(0)), half(4), half(6), m[8..].to_vec())
    }

    /// From DEVICE_READY to open ports.
    #[track_caller]
    fn set_up(&mut self) {
        self.say(0, 0, 1);
        for port in 0..self.console.ports().len() as u32 {
            assert_eq!(self.control(), (port, 1, 0, vec![]));
        }
        for port in 0..self.console.ports().len() as u32 {
            self.say(port, 3, 1);
            self.say(port, 6, 1);
        }
    }
}

fn pair() -> (Arc<Console>, Guest) {
    let console = Console::new(["", "donjon.agent"]).unwrap();
    let guest = Guest::with(&console, &ram());
    (console, guest)
}

#[test]
fn ports_are_announced_as_the_specification_has_it() {
    let (console, mut g) = pair();
    console.ports()[0].resize(132, 43);
    let _out = sink(&console.ports()[1]);
    g.say(0, 0, 1);
    assert_eq!(g.control(), (0, 1, 0, vec![]));
    assert_eq!(g.control(), (1, 1, 0, vec![]));
    g.say(0, 3, 1);
    assert_eq!(g.control(), (0, 4, 1, vec![]), "a console");
    assert_eq!(g.control(), (0, 5, 0, vec![132, 0, 43, 0]));
    g.say(1, 3, 1);
    assert_eq!(g.control(), (1, 7, 1, b"donjon.agent".to_vec()));
    assert_eq!(g.control(), (1, 6, 1, vec![]));
    console.ports()[1].disconnect();
    assert_eq!(g.control(), (1, 6, 0, vec![]));
    // Both news of a host that comes, goes and comes back arrive.
    let _out = sink(&console.ports()[1]);
    assert_eq!(g.control(), (1, 6, 1, vec![]));
    let _out = sink(&console.ports()[1]);
    assert_eq!(g.control(), (1, 6, 0, vec![]));
    assert_eq!(g.control(), (1, 6, 1, vec![]));
    let changes = g.told.changes.load(SeqCst);
    console.ports()[0].resize(80, 25);
    assert_eq!(g.control(), (0, 5, 0, vec![80, 0, 25, 0]));
    assert_eq!(g.told.changes.load(SeqCst), changes + 1);
    let mut config = [0; 12];
    console.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn bytes_pass_both_ways_and_openings_are_told() {
    let (console, mut g) = pair();
    let agent = console.port("donjon.agent").unwrap().clone();
    let (said, heard) = channel();
    agent.on_guest(move |open| said.send(open).unwrap());
    let (out0, out1) = (sink(&console.ports()[0]), sink(&agent));
    assert_eq!(agent.input(b"early"), 5);
    g.set_up();
    assert!(heard.recv_timeout(SOON).unwrap() && agent.guest_open());
    assert_eq!(g.hear(4, 3), b"ear");
    assert_eq!(g.hear(4, 100), b"ly");
    g.send(5, b"from the agent");
    expect(&out1, b"from the agent");
    g.send(1, b"login: ");
    expect(&out0, b"login: ");
    console.ports()[0].input(b"root\n");
    assert_eq!(g.hear(0, 100), b"root\n");
    g.say(1, 6, 0);
    assert!(!heard.recv_timeout(SOON).unwrap());
    // Waits for the next who opens it.
    agent.input(b"later");
    g.say(1, 6, 1);
    assert_eq!(g.hear(4, 100), b"later");
    // The driver goes and comes back.
    console.reset();
    assert!(heard.recv_timeout(SOON).unwrap());
    assert!(!heard.recv_timeout(SOON).unwrap());
    let mut g = Guest::with(&console, &ram());
    g.set_up();
    g.send(5, b"again");
    expect(&out1, b"again");
}

#[test]
fn a_driver_without_multiport_has_one_console() {
    let console = Console::new(["", "x"]).unwrap();
    let (d, told) = running(&*console, &ram(), feature::SIZE);
    let out = sink(&console.ports()[0]);
    let mut g = Guest {
        console: console.clone(),
        d,
        told,
    };
    console.ports()[0].input(b"ls\n");
    assert_eq!(g.hear(0, 64), b"ls\n");
    g.send(1, b"# ");
    expect(&out, b"# ");
    console.ports()[0].resize(10, 20);
    assert_eq!(g.told.changes.load(SeqCst), 1);
}

#[test]
fn megabytes_of_input_arrive_with_back_pressure() {
    let (console, mut g) = pair();
    g.set_up();
    let agent = console.ports()[1].clone();
    let (room, wait) = channel();
    agent.on_room(move || room.send(()).unwrap_or_default());
    let data: Vec<u8> = (0..1 << 20).map(|i| (i / 8 * 31) as u8).collect();
    let refusals = AtomicUsize::new(0);
    let mut got = vec![];
    std::thread::scope(|s| {
        let (agent, data, refusals) = (&agent, &data, &refusals);
        s.spawn(move || {
            let mut rest = &data[..];
            loop {
                rest = &rest[agent.input(rest)..];
                if rest.is_empty() {
                    return;
                }
                refusals.fetch_add(1, SeqCst);
                wait.recv_timeout(SOON).expect("told of room");
            }
        });
        while got.len() < data.len() {
            got.extend(g.hear(4, 4096));
        }
    });
    assert!(got == data);
    assert!(refusals.load(SeqCst) >= data.len() / BACKLOG - 1);
}

#[test]
fn a_channel_holds_its_output_back_and_loses_none() {
    let (console, mut g) = pair();
    g.set_up();
    let ((open, gate), (out, got)) = (channel(), channel());
    console.ports()[1]
        .connect(Box::new(Gated(gate, Sink(out))))
        .unwrap();
    let data: Vec<u8> = (0..3 * CAPACITY).map(|i| (i / 8 * 37) as u8).collect();
    g.offer(5, &data);
    // Everything that fits has been taken, and nothing given back.
    let fits = |c: &Console| c.ports()[1].state_is_full();
    while !fits(&console) {
        std::thread::yield_now();
    }
    assert_eq!(g.d[5].used(), None);
    assert!(!console.ports()[1].flush(Duration::ZERO));
    // Saved and restored meanwhile, it goes on where it was.
    g.d[5].state = console.stop_queue(5).unwrap();
    console.start_queue(5, g.d[5].queue(5, 0, &g.told));
    drop(open);
    g.d[5].wait(&g.told);
    expect(&got, &data);
}

#[test]
fn a_console_that_nobody_reads_does_not_stop_the_guest() {
    let console = Console::with_patience([""], Duration::from_millis(20)).unwrap();
    let mut g = Guest::with(&console, &ram());
    let ((open, gate), (out, got)) = (channel(), channel());
    console.ports()[0]
        .connect(Box::new(Gated(gate, Sink(out))))
        .unwrap();
    for _ in 0..8 {
        g.send(1, &[b'x'; CAPACITY]);
    }
    drop(open);
    assert!(console.ports()[0].flush(SOON));
    let mut kept = got.try_iter().map(|b| b.len()).sum::<usize>();
    assert!(kept < 8 * CAPACITY);
    g.send(1, b"here again");
    while kept < 10 {
        kept += got.recv_timeout(SOON).unwrap().len();
    }
    assert_eq!(got.recv_timeout(SOON).unwrap(), b"here again");
    // Nobody is connected.
    console.ports()[0].disconnect();
    g.send(1, &[b'y'; 4 * CAPACITY]);
}

#[test]
fn nonsense_from_the_driver_is_survived() {
    let (console, mut g) = pair();
    let out = sink(&console.ports()[1]);
    for message in [
        &b""[..],
        b"abc",
        &[0xff; 8],
        &[0xff; 4000],
        &[9, 0, 0, 0, 3, 0, 1, 0],
    ] {
        g.send(3, message);
    }
    for event in 0..20 {
        for port in [0, 1, 2, u32::MAX] {
            g.say(port, event, 1);
        }
    }
    // Asked over and over without a buffer for the answers.
    for _ in 0..1000 {
        g.say(0, 0, 1);
    }
    assert_eq!(g.control(), (0, 1, 0, vec![]));
    assert_eq!(g.control(), (1, 1, 0, vec![]));
    g.say(1, 3, 1);
    g.say(1, 6, 1);
    // Buffers the wrong way round, and empty ones.
    console.ports()[1].input(b"x");
    g.d[4].add(&[(BUFFERS, 100, false)]);
    g.d[4].add(&[(BUFFERS, 0, true)]);
    console.notify(4);
    assert_eq!(g.d[4].wait(&g.told).1, 0);
    assert_eq!(g.d[4].wait(&g.told).1, 0);
    g.d[5].add(&[(BUFFERS, 100, true)]);
    console.notify(5);
    g.d[5].wait(&g.told);
    g.send(5, b"alive");
    expect(&out, b"alive");
    assert_eq!(g.hear(4, 1), b"x");
    // No room for a message.
    g.d[2].add(&[(BUFFERS, 7, true)]);
    console.notify(2);
    let start = std::time::Instant::now();
    while g.told.resets.load(SeqCst) == 0 {
        assert!(start.elapsed() < SOON);
        std::thread::yield_now();
    }
    console.reset();
}

#[test]
fn state_is_saved_and_damage_refused() {
    let (console, mut g) = pair();
    let _out = sink(&console.ports()[1]);
    g.set_up();
    assert_eq!(g.control(), (0, 4, 1, vec![]));
    console.ports()[1].input(b"waiting");
    let Migrate::State(record) = console.migrate() else {
        panic!()
    };
    // On a host that has not connected the port: the guest hears of that, after what it has not heard yet.
    let other = Console::new(["", "donjon.agent"]).unwrap();
    let opened = Arc::new(Mutex::new(vec![]));
    let (said, agent) = (opened.clone(), &other.ports()[1]);
    agent.on_guest(move |open| said.lock().unwrap().push(open));
    other.restore(&record).unwrap();
    assert_eq!(*opened.lock().unwrap(), [true]);
    let mut h = Guest::with(&other, &ram());
    assert_eq!(h.control(), (1, 7, 1, b"donjon.agent".to_vec()));
    assert_eq!(h.hear(4, 100), b"waiting");

    let fewer = Console::new([""]).unwrap();
    assert!(matches!(
        fewer.restore(&record),
        Err(RestoreError::Damaged { .. })
    ));
    for len in 0..record.bytes.len() {
        let short = Record {
            bytes: record.bytes[..len].to_vec(),
            ..record.clone()
        };
        assert!(other.restore(&short).is_err());
    }
    let mut long = SavedConsole::open(&record).unwrap();
    long.ports[0].overfill();
    let Migrate::State(long) = long.save() else {
        panic!()
    };
    assert!(other.restore(&long).is_err());
}

#[test]
fn ports_that_cannot_be() {
    assert_eq!(Console::new([""; 0]).err(), Some(PortsError::Number(0)));
    assert_eq!(
        Console::new(["a", "a"]).err(),
        Some(PortsError::Twice("a".into()))
    );
    assert!(matches!(
        Console::new(["x".repeat(256)]).err(),
        Some(PortsError::Name(_))
    ));
    assert!(Console::new(["", "", ""]).is_ok());
}

#[test]
fn reset_while_everything_runs() {
    let ram = ram();
    let console = Console::new(["", "a"]).unwrap();
    let port = console.ports()[1].clone();
    let _out = sink(&port);
    let stop = AtomicUsize::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            while stop.load(SeqCst) == 0 {
                port.input(&[1; 1000]);
                port.resize(1, 1);
                port.discard_input();
            }
        });
        for round in 0..50 {
            let mut g = Guest::with(&console, &ram);
            g.say(0, 0, 1);
            for _ in 0..round % 8 {
                g.offer(5, &[0; 5000]);
                g.offer(3, &[1, 0, 0, 0, 6, 0, 1, 0]);
            }
            console.reset();
        }
        stop.store(1, SeqCst);
    });
}
