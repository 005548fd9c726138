//! Whatever a host does to an NVMe controller: registers, doorbells, commands and memory of any content, saving in
//! the middle of it. It answers, refuses or waits, and never panics, hangs or leaves guest RAM; afterwards it works.
//!
//! Input: steps of eight bytes.
#![no_main]

use donjon_block::{Options, open};
use donjon_disk::Disk;
use donjon_memory::Ram;
use donjon_nvme::NvmePci;
use donjon_pci::Function;
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock};

const RAM: u64 = 1 << 20;
const DISK: u64 = 1 << 20;
/// Registers (NVM Express Base 1.4 §3.1).
const CC: u64 = 0x14;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
const READY: u32 = 1 | 6 << 16 | 4 << 20;
/// Entries of each queue.
const ENTRIES: u32 = 16;

struct Machine {
    nvme: Arc<NvmePci>,
    ram: Arc<Ram>,
    tails: [u32; 3],
    command: [u32; 16],
}

/// Where the rings of queue `n` are: submission, completion.
fn rings(n: usize) -> (u64, u64) {
    let at = 0x1000 + n as u64 * 0x2000;
    (at, at + 0x1000)
}

impl Machine {
    fn new() -> Self {
        let file = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory");
        let file = File::from(file);
        file.set_len(DISK).expect("a size");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let image = open(&path, &Options::default()).expect("a raw image");
        let ram = Arc::new(Ram::new(RAM).expect("guest RAM"));
        // Its threads are fewer, and each does what it does before the next step more often than not.
        let disk = Disk::without_io_uring(image, "fuzz", Default::default());
        Self {
            nvme: NvmePci::new(disk, &ram, 2),
            ram,
            tails: [0; 3],
            command: [0; 16],
        }
    }

    fn put(&self, register: u64, value: u32) {
        self.nvme.write(0, register, 4, value.into());
    }

    fn send(&mut self, n: usize) {
        let at = rings(n).0 + u64::from(self.tails[n]) * 64;
        for (i, word) in self.command.iter().enumerate() {
            self.ram.store(at as usize + i * 4, *word);
        }
        self.tails[n] = (self.tails[n] + 1) % ENTRIES;
        self.put(DOORBELLS + n as u64 * 8, self.tails[n]);
    }

    /// As new, then ready with two pairs of I/O queues.
    fn start(&mut self) {
        self.nvme.bus_master(false);
        self.nvme.reset();
        self.ram.fill(0, 0u8, RAM as usize);
        self.tails = [0; 3];
        self.nvme.bus_master(true);
        self.put(AQA, (ENTRIES - 1) * 0x1_0001);
        self.nvme.write(0, ASQ, 8, rings(0).0);
        self.nvme.write(0, ACQ, 8, rings(0).1);
        self.put(CC, READY);
        for n in 1..3 {
            for (opcode, at) in [(5, rings(n).1), (1, rings(n).0)] {
                self.command = [0; 16];
                self.command[0] = opcode;
                self.command[6] = at as u32;
                self.command[10] = n as u32 | (ENTRIES - 1) << 16;
                self.command[11] = 1 | (n as u32) << 16;
                self.send(0);
            }
        }
        for entry in 0..4 {
            let at = rings(0).1 as usize + entry * 16 + 12;
            let status = self.ram.load::<u32>(at) >> 16;
            assert_eq!(status, 1, "admin command {entry}");
        }
        self.put(DOORBELLS + 4, 4);
        self.command = [0; 16];
        self.command[1] = 1;
        self.command[6] = 0x2_0000;
        self.command[8] = 0x2_1000;
    }

    fn step(&mut self, [what, a, b, c, value @ ..]: [u8; 8]) {
        let value = u32::from_le_bytes(value);
        match what % 8 {
            0 => self.put(u64::from(a % 16) * 4, value),
            1 => self.put(DOORBELLS + u64::from(a % 12) * 4, value),
            2 => self.command[usize::from(a % 16)] = value,
            // An opcode and a place on the disk; then it is sent.
            3 => {
                self.command[0] = u32::from(a) | u32::from(value as u16) << 16;
                self.command[10] = c.into();
                self.send(usize::from(b % 3));
            }
            4 => {
                let at = usize::from(u16::from_le_bytes([a, b])) * 8;
                self.ram.store(at, u64::from(value) | u64::from(c) << 56);
            }
            5 => self.nvme.bus_master(a & 1 != 0),
            6 => {
                if let donjon_devices::Migrate::State(mut record) = self.nvme.migrate() {
                    let at = usize::from(b) % record.bytes.len().max(1);
                    record.bytes[at] ^= c;
                    let _ = self.nvme.restore(&record).map_err(|e| e.to_string());
                }
            }
            _ => {
                self.nvme.resized();
                self.nvme.read(0, u64::from(a), b % 8 + 1);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    static MACHINE: OnceLock<Mutex<Machine>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| Mutex::new(Machine::new()));
    let mut machine = machine.lock().expect("no panic before");
    machine.start();
    for step in bytes.chunks_exact(8).take(200) {
        machine.step(step.try_into().expect("eight bytes"));
    }
    machine.nvme.bus_master(false);
});
