//! The common configuration structure (virtio 1.2 §4.1.4.3), and the device's life that it drives.

use super::signals::{NO_VECTOR, Signals};
use crate::device::{Device, feature};
use crate::queue::{Queue, QueueState};
use donjon_devices::state::Saved;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_memory::Ram;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// Device status bits (virtio 1.2 §2.1).
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
    /// What a driver may set.
    pub const DRIVERS: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Offsets of the fields.
mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_NOTIFY_DATA: u64 = 0x38;
    pub const QUEUE_RESET: u64 = 0x3a;
}

/// One queue as the driver sets it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct QueueRegisters {
    state: QueueState,
    enabled: bool,
    vector: u16,
}

/// What is saved of a virtio device on PCI.
#[derive(Serialize, Deserialize)]
pub struct SavedTransport {
    status: u8,
    needs_reset: bool,
    generation: u8,
    isr: u8,
    vector: u16,
    selects: (u32, u32, u16),
    features: u64,
    queues: Vec<QueueRegisters>,
    device: Option<Record>,
}

impl Saved for SavedTransport {
    const KIND: &'static str = "virtio-pci";
    const VERSION: u16 = 1;
}

pub struct Registers {
    device: Arc<dyn Device>,
    ram: Arc<Ram>,
    signals: Arc<Signals>,
    sizes: Vec<u16>,
    status: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    /// What the driver accepted.
    features: u64,
    queues: Vec<QueueRegisters>,
    /// The device may reach memory.
    master: bool,
    /// Queues are being served.
    serving: Vec<bool>,
}

impl Registers {
    pub fn new(device: Arc<dyn Device>, ram: &Arc<Ram>, signals: Arc<Signals>, sizes: &[u16]) -> Self {
        let mut registers = Self {
            device,
            ram: ram.clone(),
            signals,
            sizes: sizes.to_vec(),
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            features: 0,
            queues: vec![],
            master: false,
            serving: vec![false; sizes.len()],
        };
        registers.power_on();
        registers
    }

    fn power_on(&mut self) {
        self.status = 0;
        (self.device_feature_select, self.driver_feature_select) = (0, 0);
        self.queue_select = 0;
        self.features = 0;
        self.queues = self.sizes.iter().map(|size| fresh(*size)).collect();
    }

    fn offered(&self) -> u64 {
        self.device.features() | feature::TRANSPORT
    }

    /// Device reset (virtio 1.2 §2.4).
    pub fn reset(&mut self) {
        self.device.reset();
        self.serving.fill(false);
        self.signals.reset();
        self.power_on();
    }

    fn running(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// Serves queue `n` if it should be.
    fn serve(&mut self, n: usize) {
        let q = self.queues[n];
        if !self.running() || !self.master || !q.enabled || self.serving[n] {
            return;
        }
        match Queue::new(n as u16, &q.state, self.features, &self.ram, self.signals.clone()) {
            Ok(queue) => {
                self.serving[n] = true;
                self.device.start_queue(n as u16, queue);
            }
            Err(why) => {
                tracing::warn!(
                    queue = n,
                    "the guest's virtio driver must reset its device: {why}"
                );
                crate::Notifier::needs_reset(&*self.signals);
            }
        }
    }

    /// Serves queue `n` no longer.
    fn halt(&mut self, n: usize) {
        if std::mem::take(&mut self.serving[n])
            && let Some(state) = self.device.stop_queue(n as u16)
        {
            self.queues[n].state = state;
        }
    }

    fn each_queue(&mut self, act: impl Fn(&mut Self, usize)) {
        for n in 0..self.queues.len() {
            act(self, n);
        }
    }

    pub fn bus_master(&mut self, enabled: bool) {
        self.master = enabled;
        self.each_queue(if enabled { Self::serve } else { Self::halt });
    }

    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let q = self.queues.get(usize::from(self.queue_select));
        let half = |value: u64, at: u64| if offset == at { value } else { value >> 32 };
        let state = q.map(|q| q.state).unwrap_or_default();
        let value = match offset {
            at::DEVICE_FEATURE_SELECT => self.device_feature_select.into(),
            at::DEVICE_FEATURE => word(self.offered(), self.device_feature_select).into(),
            at::DRIVER_FEATURE_SELECT => self.driver_feature_select.into(),
            at::DRIVER_FEATURE => word(self.features, self.driver_feature_select).into(),
            at::CONFIG_VECTOR => self.signals.vector.load(SeqCst).into(),
            at::QUEUES => self.queues.len() as u64,
            at::STATUS => {
                let broken = self.signals.needs_reset.load(SeqCst) != 0;
                (self.status | if broken { status::NEEDS_RESET } else { 0 }).into()
            }
            at::GENERATION => self.signals.generation.load(SeqCst).into(),
            at::QUEUE_SELECT => self.queue_select.into(),
            // Zero says that there is no such queue.
            at::QUEUE_SIZE => state.size.into(),
            at::QUEUE_VECTOR => q.map_or(NO_VECTOR, |q| q.vector).into(),
            at::QUEUE_ENABLE => q.is_some_and(|q| q.enabled).into(),
            at::QUEUE_NOTIFY_OFF | at::QUEUE_NOTIFY_DATA => self.queue_select.into(),
            at::QUEUE_DESC..at::QUEUE_DRIVER => half(state.descriptors, at::QUEUE_DESC),
            at::QUEUE_DRIVER..at::QUEUE_DEVICE => half(state.driver, at::QUEUE_DRIVER),
            at::QUEUE_DEVICE..at::QUEUE_NOTIFY_DATA => half(state.device, at::QUEUE_DEVICE),
            _ => 0,
        };
        value & u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
    }

    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if size == 8 {
            self.write(offset, 4, value & 0xffff_ffff);
            self.write(offset + 4, 4, value >> 32);
            return;
        }
        match (offset, size) {
            (at::DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = value as u32,
            (at::DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = value as u32,
            (at::DRIVER_FEATURE, 4) if self.status & status::FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.features = self.features & !(0xffff_ffff << shift) | value << shift;
            }
            (at::CONFIG_VECTOR, 2) => {
                let vector = self.signals.vector_or_none(value as u16);
                self.signals.vector.store(vector, SeqCst);
            }
            (at::STATUS, 1) => self.write_status(value as u8),
            (at::QUEUE_SELECT, 2) => self.queue_select = value as u16,
            _ => self.write_queue(offset, size, value),
        }
    }

    fn write_queue(&mut self, offset: u64, size: u8, value: u64) {
        let n = usize::from(self.queue_select);
        let Some(q) = self.queues.get_mut(n) else {
            return;
        };
        match (offset, size) {
            (at::QUEUE_VECTOR, 2) => {
                q.vector = self.signals.vector_or_none(value as u16);
                self.signals.vectors[n].store(q.vector, SeqCst);
            }
            (at::QUEUE_RESET, 2) if value == 1 => self.reset_queue(n),
            // A queue is set up before it is enabled.
            _ if q.enabled => {}
            (at::QUEUE_SIZE, 2) => {
                let size = value as u16;
                if size.is_power_of_two() && size <= self.sizes[n] {
                    q.state.size = size;
                }
            }
            (at::QUEUE_ENABLE, 2) if value == 1 => {
                q.enabled = true;
                self.serve(n);
            }
            (at::QUEUE_DESC..at::QUEUE_DRIVER, 4) => set_half(&mut q.state.descriptors, offset, value),
            (at::QUEUE_DRIVER..at::QUEUE_DEVICE, 4) => set_half(&mut q.state.driver, offset, value),
            (at::QUEUE_DEVICE..at::QUEUE_NOTIFY_DATA, 4) => set_half(&mut q.state.device, offset, value),
            _ => {}
        }
    }

    /// Queue reset (virtio 1.2 §2.6.1).
    fn reset_queue(&mut self, n: usize) {
        if self.features & feature::RING_RESET == 0 || !self.queues[n].enabled {
            return;
        }
        self.halt(n);
        self.queues[n] = QueueRegisters {
            vector: self.queues[n].vector,
            ..fresh(self.sizes[n])
        };
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        // Bits are only ever added.
        let mut new = self.status | value & status::DRIVERS;
        let accepts = self.features & !self.offered() == 0 && self.features & feature::VERSION_1 != 0;
        if !accepts {
            new &= !status::FEATURES_OK;
        }
        if new & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        let starts = new & !self.status & status::DRIVER_OK != 0;
        self.status = new;
        if starts {
            self.device.start(self.features);
            self.each_queue(Self::serve);
        }
    }

    /// Everything, with the queues at rest for the moment.
    pub fn save(&mut self) -> Result<SavedTransport, Migrate> {
        self.each_queue(Self::halt);
        let device = match self.device.migrate() {
            Migrate::Stateless => None,
            Migrate::State(record) => Some(record),
            refusal => {
                self.each_queue(Self::serve);
                return Err(refusal);
            }
        };
        let saved = SavedTransport {
            status: self.status,
            needs_reset: self.signals.needs_reset.load(SeqCst) != 0,
            generation: self.signals.generation.load(SeqCst),
            isr: self.signals.isr(),
            vector: self.signals.vector.load(SeqCst),
            selects: (
                self.device_feature_select,
                self.driver_feature_select,
                self.queue_select,
            ),
            features: self.features,
            queues: self.queues.clone(),
            device,
        };
        self.each_queue(Self::serve);
        Ok(saved)
    }

    pub fn restore(&mut self, saved: SavedTransport) -> Result<(), RestoreError> {
        let sound = |(q, size): (&QueueRegisters, &u16)| {
            q.state.size.is_power_of_two()
                && q.state.size <= *size
                && q.vector == self.signals.vector_or_none(q.vector)
        };
        if saved.queues.len() != self.sizes.len() || !saved.queues.iter().zip(&self.sizes).all(sound) {
            return Err(SavedTransport::damaged("its queues are not those of this device"));
        }
        if saved.features & !self.offered() != 0 {
            return Err(SavedTransport::damaged(
                "the driver accepted features that this device does not offer",
            ));
        }
        self.reset();
        if let Some(record) = &saved.device {
            self.device.restore(record)?;
        }
        self.status = saved.status & status::DRIVERS;
        self.features = saved.features;
        (
            self.device_feature_select,
            self.driver_feature_select,
            self.queue_select,
        ) = saved.selects;
        for (q, vector) in saved.queues.iter().zip(&self.signals.vectors) {
            vector.store(q.vector, SeqCst);
        }
        self.queues = saved.queues;
        let vector = self.signals.vector_or_none(saved.vector);
        self.signals.vector.store(vector, SeqCst);
        self.signals.generation.store(saved.generation, SeqCst);
        self.signals.needs_reset.store(saved.needs_reset.into(), SeqCst);
        self.signals.set_isr(saved.isr);
        if self.running() {
            self.device.start(self.features);
            self.each_queue(Self::serve);
        }
        Ok(())
    }
}

fn fresh(size: u16) -> QueueRegisters {
    QueueRegisters {
        state: QueueState {
            size,
            ..QueueState::default()
        },
        enabled: false,
        vector: NO_VECTOR,
    }
}

/// The 32 bits of a feature set that a select register shows.
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_half(field: &mut u64, offset: u64, value: u64) {
    let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
    *field = *field & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
}
