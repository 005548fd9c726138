//! The controller as a PCI function (NVM Express Base 1.4 §2).

use crate::controller::Controller;
use crate::identity::{DEVICE, VENDOR};
use crate::queues::{MAX_QUEUES, Queues};
use crate::registers::at;
use crate::saved::SavedNvme;
use crate::shared::Shared;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_disk::Disk;
use donjon_memory::Ram;
use donjon_pci::{Bar, BarKind, Class, Description, Function, Ids, Interrupts, Msix};
use std::sync::Arc;

/// Registers and doorbells.
const BAR: u8 = 0;
/// One of those in which the specification wants the MSI-X table (BIR 0, 4 or 5).
const MSIX_BAR: u8 = 4;
/// A page of registers and one of doorbells.
const BAR_LEN: u64 = 0x2000;

/// An NVMe controller with one namespace, on PCI Express.
pub struct NvmePci {
    shared: Arc<Shared>,
    queues: Arc<Queues>,
    controller: Lock<Controller>,
}

impl NvmePci {
    /// A controller in front of `disk`, whose host's memory is `ram`, with 1 to 64 I/O queue pairs. Disks of one
    /// domain need different serial numbers: drivers tell them apart by what is drawn from those.
    pub fn new(disk: Arc<Disk>, ram: &Arc<Ram>, queues: u16) -> Arc<Self> {
        let shared = Arc::new(Shared::new(disk, ram));
        let queues = Arc::new(Queues::new(&shared, queues.clamp(1, MAX_QUEUES)));
        Arc::new(Self {
            controller: Lock::new(Controller::new(&shared, &queues)),
            shared,
            queues,
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.shared.disk
    }

    /// The disk has another size: the host is told, if it wants to know (NVM Express Base 1.4 §5.2.1).
    pub fn resized(&self) {
        self.controller.lock().namespace_changed();
    }

    /// The limit has changed: requests that wait for the old one are looked at again.
    pub fn limit_changed(&self) {
        self.queues.wake_all();
    }

    /// A write to doorbell `n`, of four bytes each: tails of submission queues and heads of completion queues by
    /// turns.
    fn doorbell(&self, n: u64, value: u32) {
        let id = (n / 2) as u16;
        let done = match (id, n % 2) {
            (0, 0) => return self.controller.lock().admin_doorbell(value),
            (_, 0) => self.queues.set_tail(id, value),
            _ => self.queues.set_head(id, value),
        };
        match done {
            // Commands may have waited for room.
            Ok(()) if id == 0 => self.controller.lock().run_admin(),
            Ok(()) => {}
            Err(wrong) => self.controller.lock().wrong_doorbell(wrong),
        }
    }
}

impl Function for NvmePci {
    fn description(&self) -> Description {
        Description {
            ids: Ids {
                vendor: VENDOR,
                device: DEVICE,
                subsystem_vendor: VENDOR,
                subsystem: DEVICE,
                revision: 1,
            },
            // Mass storage, non-volatile memory, NVM Express I/O controller.
            class: Class {
                base: 0x01,
                sub: 0x08,
                interface: 0x02,
            },
            express: true,
            bars: vec![Bar {
                index: BAR,
                kind: BarKind::Memory64 { prefetchable: false },
                size: BAR_LEN,
            }],
            // One for the admin queue.
            msix: Some(Msix {
                vectors: self.queues.count() + 1,
                bar: MSIX_BAR,
            }),
            intx: true,
            capabilities: vec![],
        }
    }

    fn connect(&self, interrupts: Arc<Interrupts>) {
        self.shared.signals.connect(interrupts);
    }

    fn read(&self, _: u8, offset: u64, size: u8) -> u64 {
        // Doorbells are write-only.
        if offset >= at::DOORBELLS {
            return 0;
        }
        let controller = self.controller.lock();
        let (word, shift) = (offset & !3, 8 * (offset & 3));
        let low = u64::from(controller.read(word));
        let high = u64::from(controller.read(word + 4));
        let value = (high << 32 | low) >> shift;
        value & u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
    }

    fn write(&self, _: u8, offset: u64, size: u8, value: u64) {
        if !offset.is_multiple_of(4) || !matches!(size, 4 | 8) {
            return;
        }
        if offset >= at::DOORBELLS {
            if size == 4 {
                self.doorbell((offset - at::DOORBELLS) / 4, value as u32);
            }
            return;
        }
        let mut controller = self.controller.lock();
        controller.write(offset, value as u32);
        if size == 8 && offset + 4 < at::DOORBELLS {
            controller.write(offset + 4, (value >> 32) as u32);
        }
    }

    fn bus_master(&self, enabled: bool) {
        self.controller.lock().bus_master(enabled);
    }

    fn reset(&self) {
        self.controller.lock().reset();
    }

    fn migrate(&self) -> Migrate {
        self.controller.lock().save().save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedNvme::open(record)?;
        self.controller.lock().restore(saved)
    }
}
