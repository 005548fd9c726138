//! Virtio devices on PCI with any driver: whatever it writes to rings, registers and RAM, also while the device
//! looks, they answer or ask to be reset, and never panic, hang or leave guest RAM.
//!
//! Input: device, options, accepted features, then eight bytes for each step; see [`Rig::step`].
#![no_main]

use donjon_devices::Migrate;
use donjon_disk::Disk;
use donjon_fs::{Limits, Share, ShareOptions};
use donjon_memory::{MemoryFile, Ram};
use donjon_net::{Backend, Pair as Cable, Port};
use donjon_pci::Function;
use donjon_virtio::balloon::Balloon;
use donjon_virtio::blk::Blk;
use donjon_virtio::console::Console;
use donjon_virtio::fs::Fs;
use donjon_virtio::net::{Net, Settings};
use donjon_virtio::pci::VirtioPci;
use donjon_virtio::pmem::Pmem;
use donjon_virtio::rng::Rng;
use donjon_virtio::vsock::Vsock;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const RAM_SIZE: usize = 512 << 10;
/// The rings of each queue: descriptors, available, used, a page each.
const RINGS: usize = 0x1_0000;
const RING_ROOM: usize = 0x4000;
const AVAILABLE: usize = 0x1000;
const USED: usize = 0x2000;
/// Requests that are put together here, and their data.
const REQUESTS: usize = 0x4_0000;
const DATA: usize = 0x5_0000;
const FILE_SIZE: u64 = 64 << 10;
const CID: u64 = 3;
/// Structures in BAR 0.
const COMMON: u64 = 0;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;

/// The host's side of a device.
enum Host {
    Rng,
    Blk(Arc<Blk>),
    Console(Arc<Console>),
    Balloon(Arc<Balloon>),
    Vsock(Arc<Vsock>),
    Net(Arc<Net>, Arc<dyn Port>),
    Pmem,
    Fs,
}

/// A driver's side of one queue.
#[derive(Clone, Copy)]
struct Ring {
    size: u16,
    next: u16,
    available: u16,
}

struct Rig {
    ram: Arc<Ram>,
    function: Arc<VirtioPci>,
    host: Host,
    features: [u8; 2],
    rings: Vec<Ring>,
}

/// A directory of this process, with a disk and somebody who answers at the vsock's port 1.
fn directory() -> &'static std::path::Path {
    static DIRECTORY: OnceLock<std::path::PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("donjon-fuzz-virtio-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        let port = UnixListener::bind(path.join("vsock_1")).expect("a socket");
        std::thread::spawn(move || {
            for stream in port.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
                let _ = (&stream).write_all(&[0x55; 3000]);
                let _ = (&stream).read(&mut [0; 2000]);
            }
        });
        path
    })
}

fn disk() -> &'static Arc<Disk> {
    static DISK: OnceLock<Arc<Disk>> = OnceLock::new();
    DISK.get_or_init(|| {
        let path = directory().join("disk.raw");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(1 << 20).expect("a megabyte");
        let image = donjon_block::open(&path, &donjon_block::Options::default()).expect("an image");
        Disk::new(image, "fuzz", Default::default())
    })
}

fn share() -> &'static Arc<Share> {
    static SHARE: OnceLock<Arc<Share>> = OnceLock::new();
    SHARE.get_or_init(|| {
        let path = directory().join("shared");
        std::fs::create_dir(&path).expect("a directory");
        std::fs::write(path.join("a"), [0x55; 5000]).expect("a file");
        // What it writes would be there for the next input.
        let options = ShareOptions {
            read_only: true,
            owner: None,
        };
        Share::open(path, &options).expect("it is there")
    })
}

fn vsock() -> &'static Arc<Vsock> {
    static VSOCK: OnceLock<Arc<Vsock>> = OnceLock::new();
    VSOCK.get_or_init(|| Vsock::new(CID, directory().join("vsock")).expect("a socket"))
}

fn ram() -> &'static Arc<Ram> {
    static RAM: OnceLock<Arc<Ram>> = OnceLock::new();
    RAM.get_or_init(|| {
        let [writable, read_only] = files();
        let end = RAM_SIZE as u64;
        let files = [(end, read_only.clone()), (end + FILE_SIZE, writable.clone())];
        Arc::new(Ram::with_files(end, &files).expect("guest RAM"))
    })
}

/// A file that can be written and one that cannot, both right behind RAM.
fn files() -> &'static [MemoryFile; 2] {
    static FILES: OnceLock<[MemoryFile; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        [false, true].map(|read_only| {
            let path = directory().join(format!("pmem-{read_only}"));
            let mut options = File::options();
            let file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path);
            let file = file.expect("a file");
            file.set_len(FILE_SIZE).expect("64 KiB");
            MemoryFile {
                file: Arc::new(file),
                len: FILE_SIZE,
                read_only,
            }
        })
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[device, options, f0, f1], steps)) = bytes.split_first_chunk() else {
        return;
    };
    let mut rig = Rig::new(device, [f0, f1]);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        if options & 1 != 0 {
            let (ram, done) = (rig.ram.clone(), &done);
            s.spawn(move || scribble(&ram, done, options));
        }
        rig.set_up();
        for step in steps.as_chunks().0 {
            rig.step(step);
        }
        rig.function.reset();
        done.store(true, Relaxed);
    });
});

/// Another processor of the guest changes rings and requests.
fn scribble(ram: &Ram, done: &AtomicBool, seed: u8) {
    let mut x = u64::from(seed) + 1;
    while !done.load(Relaxed) {
        // Knuth's MMIX generator.
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = RINGS + (x >> 33) as usize % (DATA - RINGS);
        match x >> 60 {
            0..8 => ram.store(at, (x >> 40) as u8 & 3),
            8..14 => ram.store(at & !7, (x >> 20) as u16 % 130),
            _ => ram.store(at & !7, x.rotate_left(17)),
        }
    }
}

impl Rig {
    fn new(device: u8, features: [u8; 2]) -> Self {
        let ram = ram().clone();
        ram.fill(0, 0u8, RAM_SIZE);
        let (host, function) = match device % 8 {
            0 => (Host::Rng, VirtioPci::new(Rng::new(), &ram)),
            1 => {
                let blk = Blk::new(disk().clone(), 2);
                (Host::Blk(blk.clone()), VirtioPci::new(blk, &ram))
            }
            2 => {
                let console = Console::new(["", "a", "b"]).expect("three ports");
                (Host::Console(console.clone()), VirtioPci::new(console, &ram))
            }
            3 => {
                let balloon = Balloon::new();
                (Host::Balloon(balloon.clone()), VirtioPci::new(balloon, &ram))
            }
            4 => (
                Host::Vsock(vsock().clone()),
                VirtioPci::new(vsock().clone(), &ram),
            ),
            5 => {
                let (near, far) = Cable::new().expect("sockets");
                let settings = Settings {
                    mac: "52:54:00:00:00:01".parse().expect("an address"),
                    mtu: Some(1500),
                    limit: Default::default(),
                };
                let net = Net::new(Arc::new(near), settings);
                let port = far.queue(0).expect("a port");
                (Host::Net(net.clone(), port), VirtioPci::new(net, &ram))
            }
            6 => {
                let file = &files()[usize::from(features[0] & 1)].file;
                let pmem = Pmem::new(file, &ram).expect("it is memory");
                (Host::Pmem, VirtioPci::new(pmem, &ram))
            }
            _ => {
                let limits = Limits {
                    nodes: 100,
                    descriptors: 10,
                    handles: 10,
                };
                let fs = Fs::new(share(), &"fuzz".parse().expect("a tag"), &limits);
                (Host::Fs, VirtioPci::new(fs, &ram))
            }
        };
        Self {
            ram,
            function,
            host,
            features,
            rings: vec![],
        }
    }

    fn common(&self, offset: u64, size: u8, value: u64) {
        self.function.write(0, COMMON + offset, size, value);
    }

    /// What every driver does first.
    fn set_up(&mut self) {
        self.common(0x14, 1, 0);
        self.common(0x14, 1, 3);
        for (select, refused) in [(0, u64::from(self.features[0])), (1, 0)] {
            self.common(0, 4, select);
            let offered = self.function.read(0, COMMON + 4, 4);
            // Those of the rings are the lowest two bits of the second byte.
            let rings = if select == 0 {
                u64::from(self.features[1] & 3) << 28
            } else {
                0
            };
            self.common(8, 4, select);
            self.common(0xc, 4, offered & !refused & !rings);
        }
        self.common(0x14, 1, 0xb);
        self.rings.clear();
        for n in 0..self.function.read(0, COMMON + 0x12, 2) {
            let at = (RINGS + n as usize * RING_ROOM) as u64;
            self.common(0x16, 2, n);
            self.rings.push(Ring {
                size: self.function.read(0, COMMON + 0x18, 2) as u16,
                next: 0,
                available: 0,
            });
            self.ram.fill(at as usize, 0u8, RING_ROOM);
            self.common(0x20, 8, at);
            self.common(0x28, 8, at + AVAILABLE as u64);
            self.common(0x30, 8, at + USED as u64);
            self.common(0x1c, 2, 1);
        }
        self.common(0x14, 1, 0xf);
        self.function.bus_master(true);
    }

    fn ring(&self, n: u8) -> usize {
        usize::from(n) % self.rings.len()
    }

    fn descriptor(&self, table: usize, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = table + usize::from(index) * 16;
        self.ram.store(at, address);
        self.ram.store(at + 8, len);
        self.ram.store(at + 12, flags);
        self.ram.store(at + 14, next);
    }

    fn offer(&mut self, n: usize, head: u16) {
        let at = RINGS + n * RING_ROOM + AVAILABLE;
        let ring = &mut self.rings[n];
        self.ram
            .store(at + 4 + usize::from(ring.available % ring.size) * 2, head);
        ring.available = ring.available.wrapping_add(1);
        self.ram.store(at + 2, ring.available);
    }

    fn notify(&self, n: usize) {
        self.function.write(0, NOTIFY + n as u64 * 4, 2, n as u64);
    }

    /// Offers a buffer of these parts: address, length, and whether the device writes it.
    fn add(&mut self, n: usize, parts: &[(usize, u32, bool)]) {
        let head = self.rings[n].next;
        for (i, (address, len, write)) in parts.iter().enumerate() {
            let size = self.rings[n].size;
            let index = self.rings[n].next % size;
            let next = (index + 1) % size;
            let flags = u16::from(i + 1 < parts.len()) | u16::from(*write) << 1;
            self.descriptor(RINGS + n * RING_ROOM, index, *address as u64, *len, flags, next);
            self.rings[n].next = next;
        }
        self.offer(n, head);
        self.notify(n);
    }

    /// Something that makes sense to the device, more or less.
    fn request(&mut self, n: usize, s: &[u8; 8]) {
        let at = REQUESTS + usize::from(self.rings[n].next) * 64;
        let len = u32::from(s[5]) * 64;
        let word = |byte: u8| u32::from(byte).to_le_bytes();
        let header: Vec<u8> = match self.host {
            Host::Rng => vec![],
            Host::Pmem => word(s[2] & 1).into(),
            // INIT, or an operation with a name or a handle and an offset.
            Host::Fs => {
                let (op, body) = match s[2] {
                    26 => (26, [word(7), word(38), word(0), word(0)].concat()),
                    op if s[7] & 1 == 0 => (op, b"a\0".to_vec()),
                    op => (
                        op,
                        [word(s[7] >> 1), word(0), word(0), word(0), word(s[5])].concat(),
                    ),
                };
                let header = [
                    word(40 + body.len() as u8),
                    word(op),
                    word(1),
                    word(0),
                    word(s[3]),
                ];
                [header.concat(), vec![0; 20], body].concat()
            }
            Host::Blk(_) => [word(s[2]), [0; 4], word(s[3]), word(s[4] & 1)].concat(),
            Host::Console(_) => [word(s[2]), [s[3], 0, s[4], 0]].concat(),
            Host::Balloon(_) => [word(s[2]), word(s[3]), word(s[4]), word(s[6])].concat(),
            // A packet of 64 bytes behind its header, or a command.
            Host::Net(..) => [word(s[2]), word(s[3]), word(s[4]), word(s[6])].concat(),
            Host::Vsock(_) => {
                let cids = [CID.to_le_bytes(), 2u64.to_le_bytes()].concat();
                let ports = [word(s[3]), word(s[4] & 3)].concat();
                let rest = [word(0), [1, 0, s[2], 0], word(s[6]), word(0), word(s[7])].concat();
                let mut header = [cids, ports, rest].concat();
                header[24..28].copy_from_slice(&len.to_le_bytes());
                header[36..40].copy_from_slice(&0x8000u32.to_le_bytes());
                header
            }
        };
        self.ram.write_at(at, &header);
        let header = (at, header.len() as u32, false);
        match s[6] & 3 {
            0 => self.add(n, &[(DATA, len + 64, true)]),
            1 => self.add(n, &[header, (DATA, len, true), (at + 60, 1, true)]),
            _ => self.add(n, &[header, (DATA, len, false), (at + 60, 1, true)]),
        }
    }

    /// The host does something.
    fn host(&mut self, s: &[u8; 8]) {
        let data = vec![s[3]; usize::from(s[4]) * 300];
        match &self.host {
            Host::Rng | Host::Pmem | Host::Fs => {}
            Host::Blk(blk) => blk.resized(),
            Host::Console(console) => {
                let port = &console.ports()[usize::from(s[1]) % 3];
                match s[2] % 6 {
                    0 => drop(port.input(&data)),
                    1 => port.connect(Box::new(std::io::sink())).expect("a thread"),
                    2 => port.disconnect(),
                    3 => port.resize(s[3].into(), s[4].into()),
                    4 => port.discard_input(),
                    _ => drop(port.guest_open()),
                }
            }
            Host::Balloon(balloon) => {
                balloon.set_target(u64::from(s[1]) << 12);
                balloon.ask_statistics();
                let _ = (balloon.actual(), balloon.statistics());
            }
            Host::Net(net, port) => {
                net.set_link(s[1] & 1 == 0);
                let mut packet = vec![0; 12];
                packet[0] = s[1] >> 1;
                packet[1] = s[2];
                packet.extend(&data);
                // Whatever is wrong with it.
                let _ = port.send(&&packet[..]);
                let _ = port.receive(&mut &mut [0; 2000][..]);
            }
            Host::Vsock(vsock) => {
                if let Ok(mut stream) = UnixStream::connect(vsock.path()) {
                    let _ = stream.write_all(format!("CONNECT {}\n", s[2] & 3).as_bytes());
                    let _ = stream.write_all(&data[..data.len().min(1000)]);
                }
            }
        }
    }

    fn restore(&mut self, s: &[u8; 8]) {
        let Migrate::State(mut record) = self.function.migrate() else {
            return;
        };
        if s[1] & 1 != 0 && !record.bytes.is_empty() {
            let at = usize::from(s[2]) % record.bytes.len();
            record.bytes[at] ^= s[3];
        }
        self.function.bus_master(false);
        if self.function.restore(&record).is_err() {
            self.set_up();
        } else {
            self.function.bus_master(true);
        }
    }

    fn step(&mut self, s: &[u8; 8]) {
        let n = self.ring(s[1]);
        let half = |at: usize| u16::from_le_bytes([s[at], s[at + 1]]);
        let value = u64::from(half(4)) | u64::from(half(6)) << 16;
        match s[0] % 16 {
            0 => self.ram.store(usize::from(half(2)) * 8 + 4, value as u32),
            1 => {
                let len = if s[4] == 0xff {
                    u32::MAX - 4
                } else {
                    u32::from(s[4]) * 37
                };
                let address = u64::from(half(6)) * 8 + if s[5] == 0xff { u64::MAX << 20 } else { 0 };
                let index = u16::from(s[2]) % 128;
                self.descriptor(
                    RINGS + n * RING_ROOM,
                    index,
                    address,
                    len,
                    (s[3] & 7).into(),
                    s[5].into(),
                );
            }
            2 => {
                self.offer(n, half(2));
                self.notify(n);
            }
            3 => self.notify(usize::from(s[1])),
            4 | 5 => self.request(n, s),
            6 => self
                .function
                .write(0, DEVICE + u64::from(s[1]), 1 << (s[2] & 3), value),
            7 => self.common(u64::from(s[1]) % 64, 1 << (s[2] & 3), value),
            8 => {
                for at in [COMMON, 0x1000, DEVICE, NOTIFY] {
                    self.function.read(0, at + u64::from(s[1]), 1 << (s[2] & 3));
                }
            }
            9 => self.host(s),
            10 => self.restore(s),
            11 => {
                self.function.bus_master(false);
                self.function.bus_master(true);
            }
            12 => std::thread::sleep(Duration::from_micros(100)),
            13 => {
                // An indirect table of four, which may lead anywhere.
                let table = DATA + usize::from(s[2]) * 16;
                for i in 0..4u16 {
                    let at = (DATA + usize::from(s[3]) * 32) as u64;
                    let next = if s[4] & 1 == 0 { i + 1 } else { s[5].into() };
                    self.descriptor(
                        table,
                        i,
                        at,
                        s[6].into(),
                        u16::from(i < 3) | u16::from(s[7] >> i & 1) << 1,
                        next,
                    );
                }
                let index = self.rings[n].next;
                self.rings[n].next = (index + 1) % self.rings[n].size;
                let len = if s[4] & 2 == 0 {
                    64
                } else {
                    u32::from(half(5)) * 16
                };
                self.descriptor(RINGS + n * RING_ROOM, index, table as u64, len, 4, 0);
                self.offer(n, index);
                self.notify(n);
            }
            14 => {
                // Event index, flags, or the index itself.
                let at = RINGS + n * RING_ROOM + AVAILABLE;
                let place = [0, 2, 4 + usize::from(self.rings[n].size) * 2];
                self.ram.store(at + place[usize::from(s[2]) % 3], half(4));
                self.notify(n);
            }
            _ => {
                if s[2] & 1 == 0 {
                    self.common(0x16, 2, n as u64);
                    self.common(0x3a, 2, 1);
                } else {
                    self.features = [s[3], s[4]];
                    self.set_up();
                }
            }
        }
    }
}
