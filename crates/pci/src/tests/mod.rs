//! The bus as a guest sees it, through ports and memory.

mod bars;
mod config;
mod hostile;
mod hotplug;
mod interrupts;
mod saved;

use crate::*;
use donjon_devices::bus::Buses;
use donjon_devices::line::SharedLine;
use donjon_devices::{LineSink, Migrate, MmioDevice, MsiSink, PortDevice, Record, RestoreError};
use donjon_engine::CpuIo;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

const ECAM: u64 = 0xe000_0000;
const LOW: Range<u64> = 0xc000_0000..0xe000_0000;
const HIGH: Range<u64> = 1 << 39..1 << 40;
const PORTS: Range<u64> = 0x1000..0x1_0000;
/// An I/O APIC where PCs have it.
const FIXED: u64 = 0xfec0_0000;
const HOTPLUG: u16 = 0x660;

/// Remembers what it was sent.
#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl Messages {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

#[derive(Default)]
struct Level(AtomicBool);

impl LineSink for Level {
    fn set(&self, level: bool) {
        self.0.store(level, SeqCst);
    }
}

/// Tells threads to stop, also when a test fails: it would wait for them for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A device on the board at which nothing else may appear.
struct Fixed;

impl MmioDevice for Fixed {
    fn read(&self, _: u64, _: u8) -> u64 {
        0xf1
    }
    fn write(&self, _: u64, _: u8, _: u64) {}
}

impl PortDevice for Fixed {
    fn read(&self, _: u16, _: u8) -> u32 {
        0xf1
    }
    fn write(&self, _: u16, _: u8, _: u32) {}
}

/// A function whose BARs read as their number and the offset.
#[derive(Default)]
struct Sample {
    bars: Vec<Bar>,
    vectors: u16,
    interrupts: OnceLock<Arc<Interrupts>>,
    log: Mutex<Vec<String>>,
    master: AtomicBool,
    scratch: AtomicU32,
}

const MSIX_BAR: u8 = 1;

impl Sample {
    fn with(bars: Vec<Bar>, vectors: u16) -> Arc<Self> {
        Arc::new(Self {
            bars,
            vectors,
            ..Self::default()
        })
    }

    /// One BAR of each kind, and MSI-X.
    fn new() -> Arc<Self> {
        let bar = |index, kind, size| Bar { index, kind, size };
        let bars = vec![
            bar(0, BarKind::Memory32 { prefetchable: false }, 0x4000),
            bar(2, BarKind::Io, 0x20),
            bar(4, BarKind::Memory64 { prefetchable: true }, 1 << 20),
        ];
        Self::with(bars, 3)
    }

    fn interrupts(&self) -> &Interrupts {
        self.interrupts.get().expect("it is on a bus")
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn say(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
}

impl Function for Sample {
    fn description(&self) -> Description {
        Description {
            ids: Ids {
                vendor: 0x1af4,
                device: 0x1042,
                subsystem_vendor: 0x1af4,
                subsystem: 0x40,
                revision: 1,
            },
            class: Class {
                base: 1,
                sub: 0x80,
                interface: 0,
            },
            express: true,
            bars: self.bars.clone(),
            msix: (self.vectors > 0).then_some(Msix {
                vectors: self.vectors,
                bar: MSIX_BAR,
            }),
            intx: true,
            capabilities: vec![
                Capability {
                    bytes: vec![9, 0, 8, 1, 2, 3, 4, 5],
                    writable: vec![],
                },
                Capability {
                    bytes: vec![9, 0, 8, 5, 0, 0, 0, 0],
                    writable: vec![0xff, 0xff, 0, 0, 0xf0, 0, 0xff, 0xff],
                },
            ],
        }
    }

    fn connect(&self, interrupts: Arc<Interrupts>) {
        assert!(self.interrupts.set(interrupts).is_ok(), "connected once");
    }

    fn read(&self, bar: u8, offset: u64, size: u8) -> u64 {
        let len = self
            .bars
            .iter()
            .find(|b| b.index == bar)
            .expect("its own BARs only")
            .size;
        assert!(offset + u64::from(size) <= len);
        u64::from(bar) << 56 | offset
    }

    fn write(&self, bar: u8, offset: u64, size: u8, value: u64) {
        self.read(bar, offset, size);
        self.say(format!("{bar}+{offset:#x} {size} {value:#x}"));
    }

    /// The second capability has a counter of its reads in bytes 6 and 7.
    fn config_read(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        if index == 1 && at.start >= 6 {
            let n = self.scratch.fetch_add(1, SeqCst) as u16;
            body[6..8].copy_from_slice(&n.to_le_bytes());
        }
    }

    fn config_write(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        self.say(format!("capability {index} {at:?} {:02x?}", &body[at.clone()]));
    }

    fn bus_master(&self, enabled: bool) {
        assert_ne!(
            self.master.swap(enabled, SeqCst),
            enabled,
            "only changes are told"
        );
        self.say(format!("master {enabled}"));
    }

    fn reset(&self) {
        assert!(!self.master.load(SeqCst), "no longer a master");
        self.say("reset");
    }

    fn migrate(&self) -> Migrate {
        let bytes = self.scratch.load(SeqCst).to_le_bytes().to_vec();
        Migrate::State(Record {
            kind: "sample".into(),
            version: 1,
            bytes,
        })
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let bytes = record
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| RestoreError::Damaged {
                kind: "sample",
                what: "length".into(),
            })?;
        assert!(!self.master.load(SeqCst));
        self.scratch.store(u32::from_le_bytes(bytes), SeqCst);
        Ok(())
    }
}

struct Board {
    io: Arc<Buses>,
    bus: Arc<Bus>,
    messages: Arc<Messages>,
    lines: Vec<Arc<Level>>,
    events: Arc<AtomicUsize>,
}

impl Board {
    fn new(devices: Vec<Device>) -> Self {
        Self::try_new(devices).unwrap()
    }

    fn try_new(devices: Vec<Device>) -> Result<Self, PlugError> {
        let io = Arc::new(Buses::default());
        let messages = Arc::new(Messages::default());
        let lines: Vec<_> = (0..INTX_LINES).map(|_| Arc::new(Level::default())).collect();
        let events = Arc::new(AtomicUsize::new(0));
        let raised = events.clone();
        io.mmio.add(FIXED, 0x1000, Arc::new(Fixed)).unwrap();
        let wiring = Wiring {
            msi: messages.clone(),
            intx: std::array::from_fn(|n| SharedLine::new(lines[n].clone())),
            irqs: [10, 11, 10, 11, 10, 11, 10, 11],
            windows: Windows {
                ports: PORTS,
                low: LOW,
                high: HIGH,
            },
            event: Box::new(move || {
                raised.fetch_add(1, SeqCst);
            }),
        };
        let bus = Bus::new(&io, wiring, devices)?;
        io.mmio.add(ECAM, ECAM_BUS_LEN, bus.ecam()).unwrap();
        io.ports
            .add(0xcf8, CONFIG_LEN, bus.config_ports(Arc::new(Fixed)))
            .unwrap();
        io.ports
            .add(HOTPLUG.into(), crate::hotplug::HOTPLUG_LEN, bus.hotplug_ports())
            .unwrap();
        Ok(Self {
            io,
            bus,
            messages,
            lines,
            events,
        })
    }

    /// A board with one function in slot 3.
    fn with(function: Arc<Sample>) -> Self {
        Self::new(vec![Device::at(3, function)])
    }

    fn config(&self, slot: u8, register: u64, size: u8) -> u32 {
        self.io.mmio_read(ECAM + (u64::from(slot) << 15) + register, size) as u32
    }

    fn set_config(&self, slot: u8, register: u64, size: u8, value: u32) {
        self.io
            .mmio_write(ECAM + (u64::from(slot) << 15) + register, size, value.into());
    }

    /// Offset of the first capability with this ID, or of the next one after another.
    fn capability(&self, slot: u8, id: u8, after: Option<u64>) -> u64 {
        let mut at = after.map_or(u64::from(self.config(slot, 0x34, 1)), |a| {
            u64::from(self.config(slot, a + 1, 1))
        });
        while at != 0 && self.config(slot, at, 1) != u32::from(id) {
            at = self.config(slot, at + 1, 1).into();
        }
        at
    }

    /// Where a memory BAR is.
    fn bar(&self, slot: u8, bar: u64) -> u64 {
        let low = self.config(slot, 0x10 + 4 * bar, 4);
        let high = if low & 4 != 0 {
            self.config(slot, 0x14 + 4 * bar, 4)
        } else {
            0
        };
        u64::from(high) << 32 | u64::from(low & !15)
    }
}
