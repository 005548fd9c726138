//! The PCI transport (virtio 1.2 §4.1), without the legacy interface.

mod registers;
mod signals;

use crate::device::{Device, kind};
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_memory::Ram;
use donjon_pci::{Bar, BarKind, Capability, Class, Description, Function, Ids, Interrupts, Msix};
use registers::{Registers, SavedTransport};
use signals::Signals;
use std::ops::Range;
use std::sync::Arc;

const VENDOR: u16 = 0x1af4;
/// Device IDs of the modern interface start here.
const FIRST_DEVICE: u16 = 0x1040;

/// The structures in BAR 0, a page each.
mod place {
    pub const BAR: u8 = 0;
    pub const COMMON: u64 = 0;
    pub const ISR: u64 = 0x1000;
    pub const DEVICE: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x3000;
    pub const PAGE: u64 = 0x1000;
    pub const LEN: u64 = 0x4000;
    /// Bytes between the notification addresses of two queues.
    pub const NOTIFY_MULTIPLIER: u32 = 4;
}

/// Capability types (virtio 1.2 §4.1.4).
mod cfg {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}

/// Vendor-specific capability ID.
const VENDOR_SPECIFIC: u8 = 9;
/// The index of the PCI configuration access capability among ours.
const PCI_CFG: usize = 4;
/// Offsets in it.
const CFG_BAR: usize = 4;
const CFG_OFFSET: usize = 8;
const CFG_LENGTH: usize = 12;
const CFG_DATA: usize = 16;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Arc<dyn Device>,
    signals: Arc<Signals>,
    registers: Lock<Registers>,
}

impl VirtioPci {
    /// Puts `device`, whose buffers are in `ram`, on PCI.
    pub fn new(device: Arc<dyn Device>, ram: &Arc<Ram>) -> Arc<Self> {
        let sizes = device.queue_sizes();
        let signals = Arc::new(Signals::new(sizes.len()));
        device.connect(signals.clone());
        let registers = Lock::new(Registers::new(device.clone(), ram, signals.clone(), &sizes));
        Arc::new(Self {
            device,
            signals,
            registers,
        })
    }

    /// What is on PCI.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn class(&self) -> Class {
        let (base, sub) = match self.device.kind() {
            kind::NET => (0x02, 0x00),
            kind::BLOCK => (0x01, 0x80),
            kind::CONSOLE | kind::VSOCK => (0x07, 0x80),
            kind::PMEM => (0x05, 0x80),
            _ => (0xff, 0x00),
        };
        Class {
            base,
            sub,
            interface: 0,
        }
    }
}

/// A `virtio_pci_cap` (virtio 1.2 §4.1.4), with what some kinds have behind it.
fn capability(kind: u8, offset: u64, len: u64, more: &[u8]) -> Capability {
    let mut bytes = vec![
        VENDOR_SPECIFIC,
        0,
        16 + more.len() as u8,
        kind,
        place::BAR,
        0,
        0,
        0,
    ];
    bytes.extend((offset as u32).to_le_bytes());
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend(more);
    Capability {
        bytes,
        writable: vec![],
    }
}

impl Function for VirtioPci {
    fn description(&self) -> Description {
        let page = place::PAGE;
        let mut access = capability(cfg::PCI, 0, 0, &[0; 4]);
        access.writable = vec![0; 20];
        access.writable[CFG_BAR] = 0xff;
        access.writable[CFG_OFFSET..].fill(0xff);
        let device = FIRST_DEVICE + self.device.kind();
        Description {
            ids: Ids {
                vendor: VENDOR,
                device,
                subsystem_vendor: VENDOR,
                subsystem: device,
                revision: 1,
            },
            class: self.class(),
            express: true,
            bars: vec![Bar {
                index: place::BAR,
                kind: BarKind::Memory32 { prefetchable: false },
                size: place::LEN,
            }],
            // One for changes of configuration.
            msix: Some(Msix {
                vectors: self.signals.queues() as u16 + 1,
                bar: 1,
            }),
            intx: true,
            capabilities: vec![
                capability(cfg::COMMON, place::COMMON, page, &[]),
                capability(cfg::ISR, place::ISR, page, &[]),
                capability(cfg::DEVICE, place::DEVICE, page, &[]),
                capability(
                    cfg::NOTIFY,
                    place::NOTIFY,
                    page,
                    &place::NOTIFY_MULTIPLIER.to_le_bytes(),
                ),
                access,
            ],
        }
    }

    fn connect(&self, interrupts: Arc<Interrupts>) {
        self.signals.connect(interrupts);
    }

    fn read(&self, bar: u8, offset: u64, size: u8) -> u64 {
        let at = offset % place::PAGE;
        match (bar, offset - at) {
            (place::BAR, place::COMMON) => self.registers.lock().read(at, size),
            (place::BAR, place::ISR) if at == 0 => self.signals.take_isr().into(),
            (place::BAR, place::DEVICE) => {
                let mut out = [0; 8];
                let n = usize::from(size.min(8));
                self.device.read_config(at as usize, &mut out[..n]);
                u64::from_le_bytes(out)
            }
            _ => 0,
        }
    }

    fn write(&self, bar: u8, offset: u64, size: u8, value: u64) {
        let at = offset % place::PAGE;
        match (bar, offset - at) {
            (place::BAR, place::COMMON) => self.registers.lock().write(at, size, value),
            (place::BAR, place::DEVICE) => {
                let data = value.to_le_bytes();
                self.device
                    .write_config(at as usize, &data[..usize::from(size.min(8))]);
            }
            (place::BAR, place::NOTIFY) => {
                let queue = at / u64::from(place::NOTIFY_MULTIPLIER);
                if queue < self.signals.queues() as u64 {
                    self.device.notify(queue as u16);
                }
            }
            _ => {}
        }
    }

    fn config_read(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        if index == PCI_CFG
            && at.end > CFG_DATA
            && let Some((bar, offset, len)) = window(body)
        {
            let value = self.read(bar, offset, len).to_le_bytes();
            body[CFG_DATA..].copy_from_slice(&value[..4]);
        }
    }

    fn config_write(&self, index: usize, body: &mut [u8], at: Range<usize>) {
        if index == PCI_CFG
            && at.end > CFG_DATA
            && let Some((bar, offset, len)) = window(body)
        {
            let value = u32_at(body, CFG_DATA) & u32::MAX >> (32 - 8 * u32::from(len));
            self.write(bar, offset, len, value.into());
        }
    }

    fn bus_master(&self, enabled: bool) {
        self.registers.lock().bus_master(enabled);
    }

    fn reset(&self) {
        self.registers.lock().reset();
    }

    fn migrate(&self) -> Migrate {
        match self.registers.lock().save() {
            Ok(saved) => saved.save(),
            Err(refusal) => refusal,
        }
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedTransport::open(record)?;
        self.registers.lock().restore(saved)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What the PCI configuration access capability points to: BAR, offset and length (virtio 1.2 §4.1.4.9).
fn window(body: &[u8]) -> Option<(u8, u64, u8)> {
    let (bar, offset, len) = (body[CFG_BAR], u32_at(body, CFG_OFFSET), u32_at(body, CFG_LENGTH));
    let fits = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len) && u64::from(offset) < place::LEN;
    (bar == place::BAR && fits).then_some((bar, offset.into(), len as u8))
}
