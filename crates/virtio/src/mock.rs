//! The driver's side of a queue, for tests.

use crate::device::{Device, Notifier, feature};
use crate::queue::{Queue, QueueState};
use donjon_memory::Ram;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts what a device tells.
#[derive(Default)]
pub struct Told {
    used: Mutex<usize>,
    more: Condvar,
    pub changes: AtomicUsize,
    pub resets: AtomicUsize,
}

impl Told {
    /// Interrupts of queues so far.
    pub fn used(&self) -> usize {
        *self.used.lock().unwrap()
    }
}

impl Notifier for Told {
    fn used(&self, _: u16) {
        *self.used.lock().unwrap() += 1;
        self.more.notify_all();
    }
    fn configuration_changed(&self) {
        self.changes.fetch_add(1, SeqCst);
        self.more.notify_all();
    }
    fn needs_reset(&self) {
        self.resets.fetch_add(1, SeqCst);
        self.more.notify_all();
    }
}

/// A part of a buffer: where, how long, and whether the device writes it.
pub type Part = (u64, u32, bool);

/// A split ring in RAM, as a driver keeps it.
pub struct Driver {
    pub ram: Arc<Ram>,
    pub state: QueueState,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl Driver {
    /// A ring of `size` entries with its areas in the 64 KiB from `at` on.
    pub fn new(ram: &Arc<Ram>, at: u64, size: u16) -> Self {
        ram.fill(at as usize, 0u8, 0x1_0000);
        Self {
            ram: ram.clone(),
            state: QueueState {
                size,
                descriptors: at,
                driver: at + 0x8000,
                device: at + 0xa000,
                next_available: 0,
                next_used: 0,
            },
            next_descriptor: 0,
            available: 0,
            used: 0,
        }
    }

    /// The device's side of it.
    pub fn queue(&self, index: u16, features: u64, told: &Arc<Told>) -> Queue {
        Queue::new(
            index,
            &self.state,
            features | feature::VERSION_1,
            &self.ram,
            told.clone(),
        )
        .unwrap()
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = (self.state.descriptors + u64::from(index) * 16) as usize;
        self.ram.store(at, address);
        self.ram.store(at + 8, len);
        self.ram.store(at + 12, flags);
        self.ram.store(at + 14, next);
    }

    /// Puts a descriptor chain's head into the available ring.
    pub fn offer(&mut self, head: u16) {
        let slot = self.state.driver + 4 + u64::from(self.available % self.state.size) * 2;
        self.ram.store(slot as usize, head);
        self.available = self.available.wrapping_add(1);
        self.ram.store(self.state.driver as usize + 2, self.available);
    }

    /// Makes a buffer available; its head.
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        let size = self.state.size;
        let head = self.next_descriptor;
        for (n, (address, len, write)) in parts.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % size;
            let more = n + 1 < parts.len();
            let flags = u16::from(more) | u16::from(*write) << 1;
            self.descriptor(index, *address, *len, flags, self.next_descriptor);
        }
        self.offer(head);
        head
    }

    /// The next used buffer, if any: its head and the bytes written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let index = self.ram.load::<u16>(self.state.device as usize + 2);
        if index == self.used {
            return None;
        }
        let at = (self.state.device + 4 + u64::from(self.used % self.state.size) * 8) as usize;
        self.used = self.used.wrapping_add(1);
        Some((self.ram.load::<u32>(at) as u16, self.ram.load::<u32>(at + 4)))
    }

    /// Waits for a used buffer.
    #[track_caller]
    pub fn wait(&mut self, told: &Told) -> (u16, u32) {
        loop {
            if let Some(used) = self.used() {
                return used;
            }
            let held = told.used.lock().unwrap();
            let (_held, late) = told.more.wait_timeout(held, Duration::from_millis(50)).unwrap();
            if late.timed_out() {
                self.patience(told);
            }
        }
    }

    #[track_caller]
    fn patience(&self, told: &Told) {
        use std::time::Instant;
        thread_local!(static SINCE: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) });
        let since = SINCE.get().unwrap_or_else(Instant::now);
        SINCE.set(Some(since));
        assert!(since.elapsed() < PATIENCE, "the device gives nothing back");
        assert_eq!(told.resets.load(SeqCst), 0, "the device wants to be reset");
    }

    pub fn write(&self, at: u64, data: &[u8]) {
        self.ram.write(at, data).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.ram.read(at, &mut out).unwrap();
        out
    }
}

/// A device with all its queues running, each with a ring of its own at 1 MiB and up.
pub fn running<D: Device>(device: &D, ram: &Arc<Ram>, features: u64) -> (Vec<Driver>, Arc<Told>) {
    let told = Arc::new(Told::default());
    device.connect(told.clone());
    device.start(features | feature::VERSION_1);
    let drivers: Vec<_> = (0u64..)
        .zip(device.queue_sizes())
        .map(|(n, size)| Driver::new(ram, (1 << 20) + n * 0x10000, size))
        .collect();
    for (n, driver) in (0u16..).zip(&drivers) {
        device.start_queue(n, driver.queue(n, features, &told));
    }
    (drivers, told)
}
