//! The controller as a host's driver sees it: rings in RAM, registers, and interrupts through a PCI bus.

mod admin;
mod driver;
mod events;
mod hostile;
mod interrupts;
mod io;
mod life;
mod property;

use crate::NvmePci;
use crate::registers::at;
use donjon_block::{Options, open};
use donjon_devices::bus::Buses;
use donjon_devices::line::SharedLine;
use donjon_devices::{LineSink, MsiSink};
use donjon_disk::Disk;
use donjon_engine::CpuIo;
use donjon_limit::Limit;
use donjon_memory::Ram;
use donjon_pci::{Bus, Device, ECAM_BUS_LEN, Function, INTX_LINES, Windows, Wiring};
use driver::{Numbers, Pair, Sqe, pattern, sqe, transfer};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const RAM: u64 = 16 << 20;
const DATA: u64 = 4 << 20;
const ECAM: u64 = 0xe000_0000;
const SLOT: u64 = 3;
const SECTORS: u64 = 8192;

/// MSI-X messages: how many of each data value, at most 31.
#[derive(Default)]
struct Messages(Mutex<[usize; 32]>);

impl MsiSink for Messages {
    fn send(&self, _: u64, data: u32) {
        self.0.lock().unwrap()[data as usize] += 1;
    }
}

#[derive(Default)]
struct Level(AtomicBool);

impl LineSink for Level {
    fn set(&self, level: bool) {
        self.0.store(level, SeqCst);
    }
}

struct Rig {
    nvme: Arc<NvmePci>,
    ram: Arc<Ram>,
    io: Arc<Buses>,
    _bus: Arc<Bus>,
    messages: Arc<Messages>,
    level: Arc<Level>,
    pairs: Vec<Pair>,
    next_cid: u16,
    directory: Arc<tempfile::TempDir>,
}

#[derive(Clone, Copy)]
struct Setup {
    read_only: bool,
    io_uring: bool,
    queues: u16,
}

const SETUP: Setup = Setup {
    read_only: false,
    io_uring: true,
    queues: 4,
};

fn disk(directory: &std::path::Path, setup: Setup) -> Arc<Disk> {
    let path = directory.join("disk.raw");
    std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .unwrap()
        .set_len(SECTORS * 512)
        .unwrap();
    let options = Options {
        read_only: setup.read_only,
        ..Options::default()
    };
    let image = open(&path, &options).unwrap();
    let build = if setup.io_uring {
        Disk::new
    } else {
        Disk::without_io_uring
    };
    build(image, "serial-no-1", Limit::default())
}

impl Rig {
    /// A controller at power-on, with bus mastering.
    fn cold(setup: Setup) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let disk = disk(directory.path(), setup);
        Self::plug(disk, ram, setup, directory)
    }

    fn plug(disk: Arc<Disk>, ram: Arc<Ram>, setup: Setup, directory: Arc<tempfile::TempDir>) -> Self {
        let nvme = NvmePci::new(disk, &ram, setup.queues);
        let io = Arc::new(Buses::default());
        let (messages, level) = (Arc::new(Messages::default()), Arc::new(Level::default()));
        let wiring = Wiring {
            msi: messages.clone(),
            intx: std::array::from_fn(|_| SharedLine::new(Arc::new(Level::default()))),
            irqs: [10; INTX_LINES],
            windows: Windows {
                ports: 0x1000..0x1_0000,
                low: 0xc000_0000..0xe000_0000,
                high: 1 << 39..1 << 40,
            },
            event: Box::new(|| {}),
        };
        let mut wiring = wiring;
        wiring.intx[SLOT as usize] = SharedLine::new(level.clone());
        let bus = Bus::new(&io, wiring, vec![Device::at(SLOT as u8, nvme.clone())]).unwrap();
        io.mmio.add(ECAM, ECAM_BUS_LEN, bus.ecam()).unwrap();
        let rig = Self {
            nvme,
            ram,
            io,
            _bus: bus,
            messages,
            level,
            pairs: vec![],
            next_cid: 0,
            directory,
        };
        rig.set_command(6);
        rig
    }

    /// A controller that is ready, with one pair of I/O queues of 64 entries.
    fn new(setup: Setup) -> Self {
        let mut rig = Self::cold(setup);
        rig.enable();
        rig.add_pair(1, 64);
        rig
    }

    fn config(&self, register: u64) -> u32 {
        self.io.mmio_read(ECAM + (SLOT << 15) + register, 4) as u32
    }

    fn set_config(&self, register: u64, value: u32) {
        self.io
            .mmio_write(ECAM + (SLOT << 15) + register, 4, value.into());
    }

    /// The command register: memory is 2, bus master 4.
    fn set_command(&self, value: u32) {
        self.set_config(4, value);
    }

    fn get(&self, register: u64) -> u32 {
        self.nvme.read(0, register, 4) as u32
    }

    fn put(&self, register: u64, value: u32) {
        self.nvme.write(0, register, 4, value.into());
    }
}
