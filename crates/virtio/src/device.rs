//! What a virtio device is, apart from the transport that carries it and the interrupts it causes.

use crate::queue::{Queue, QueueState};
use donjon_devices::{Migrate, Record, RestoreError};
use std::sync::Arc;

/// Feature bits that belong to the transport and the rings (virtio 1.2 §6), offered for every device.
pub mod feature {
    /// VIRTIO_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1: drivers must accept it; there is no legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// VIRTIO_F_RING_RESET.
    pub const RING_RESET: u64 = 1 << 40;
    /// All of them.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET;
}

/// Device types (virtio 1.2 §5).
pub mod kind {
    /// Network card.
    pub const NET: u16 = 1;
    /// Block device.
    pub const BLOCK: u16 = 2;
    /// Console.
    pub const CONSOLE: u16 = 3;
    /// Entropy source.
    pub const RNG: u16 = 4;
    /// Traditional memory balloon.
    pub const BALLOON: u16 = 5;
    /// Socket device.
    pub const VSOCK: u16 = 19;
    /// File system.
    pub const FS: u16 = 26;
    /// Persistent memory.
    pub const PMEM: u16 = 27;
}

/// What a device tells its driver, by way of the transport.
pub trait Notifier: Send + Sync {
    /// Buffers of queue `index` were used.
    fn used(&self, index: u16);
    /// The device's configuration has changed.
    fn configuration_changed(&self);
    /// The driver broke a rule that the device cannot go on after: DEVICE_NEEDS_RESET (virtio 1.2 §2.1.2).
    fn needs_reset(&self);
}

/// A virtio device.
///
/// # Life
///
/// 1. [`Device::connect`], once, when it is put on a transport.
/// 2. The driver accepts features; [`Device::start`] with those it accepted, when it sets DRIVER_OK.
/// 3. [`Device::start_queue`] for every queue that the driver enabled, and later again for one that was stopped.
///    From then on the device's own threads, or the vCPU's thread in [`Device::notify`], serve it.
/// 4. [`Device::stop_queue`], for saving or because the driver resets one queue: everything taken from the ring
///    has been given back when it returns.
/// 5. [`Device::reset`]: all queues are stopped, and the device is as it was before 2.
///
/// The transport serializes 2 to 5; configuration and notifications may come at any time, from any vCPU.
pub trait Device: Send + Sync {
    /// Which kind of device: one of [`kind`].
    fn kind(&self) -> u16;

    /// Feature bits of this kind that are offered: 0 to 23 and 50 up.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// How the driver is told of things.
    fn connect(&self, notifier: Arc<dyn Notifier>);

    /// Reads the device's configuration; what lies past its end reads as zero.
    fn read_config(&self, offset: usize, out: &mut [u8]);

    /// Writes it.
    fn write_config(&self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready, with these features accepted.
    fn start(&self, features: u64);

    /// Serves a queue from now on.
    fn start_queue(&self, index: u16, queue: Queue);

    /// Serves it no longer; where it stands, if it was started.
    fn stop_queue(&self, index: u16) -> Option<QueueState>;

    /// The driver made buffers of queue `index` available. On a vCPU's thread: must not block.
    fn notify(&self, index: u16);

    /// Stops everything and forgets the driver.
    fn reset(&self);

    /// Its own state, without that of its queues, which are stopped.
    fn migrate(&self) -> Migrate;

    /// Replaces it.
    fn restore(&self, record: &Record) -> Result<(), RestoreError>;
}

/// Copies what of `config` lies at `offset`; the rest of `out` becomes zero.
pub fn read_bytes(config: &[u8], offset: usize, out: &mut [u8]) {
    out.fill(0);
    if let Some(rest) = config.get(offset..) {
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
    }
}
