//! Block device (virtio 1.2 §5.2).

mod request;
#[cfg(test)]
mod tests;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Chain, Queue, QueueState};
use crate::service::{On, Server, Service, Wait};
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_disk::{Disk, Requests, SECTOR};
use donjon_memory::Scatter;
use std::sync::{Arc, OnceLock};

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// The most queues.
pub const MAX_QUEUES: u16 = 64;
/// The most sectors of one discard or write-zeroes request: 1 GiB, so that none takes forever.
const MOST_ZEROED: u32 = 1 << 21;
/// Rounds on a vCPU's thread before the rest is left to the queue's own.
const VCPU_ROUNDS: usize = 4;

/// Feature bits (virtio 1.2 §5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// The device.
pub struct Blk {
    disk: Arc<Disk>,
    queues: Vec<Lock<Option<Server<BlkQueue>>>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

impl Blk {
    /// A device in front of `disk`, with 1 to [`MAX_QUEUES`] queues.
    pub fn new(disk: Arc<Disk>, queues: u16) -> Arc<Self> {
        Arc::new(Self {
            disk,
            queues: (0..queues.clamp(1, MAX_QUEUES))
                .map(|_| Lock::default())
                .collect(),
            notifier: OnceLock::new(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The disk has another size: the driver is told.
    pub fn resized(&self) {
        if let Some(notifier) = self.notifier.get() {
            notifier.configuration_changed();
        }
    }

    /// The limit has changed: requests that wait for the old one are looked at again.
    pub fn limit_changed(&self) {
        for queue in &self.queues {
            if let Some(server) = &*queue.lock() {
                server.wake();
            }
        }
    }

    /// virtio_blk_config (virtio 1.2 §5.2.4).
    fn configuration(&self) -> [u8; 60] {
        let mut c = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| c[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        // Header and status take a descriptor each.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Physical blocks of 4 KiB, which is what host file systems have.
        put(24, &[3, 0]);
        put(26, &8u16.to_le_bytes());
        put(34, &(self.queues.len() as u16).to_le_bytes());
        for at in [36, 48] {
            put(at, &MOST_ZEROED.to_le_bytes());
            put(at + 4, &1u32.to_le_bytes());
        }
        // Discards are aligned to what a host file system can give back.
        put(44, &8u32.to_le_bytes());
        put(56, &[1]);
        c
    }
}

impl Device for Blk {
    fn kind(&self) -> u16 {
        kind::BLOCK
    }

    fn features(&self) -> u64 {
        let mut offered = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY;
        if self.queues.len() > 1 {
            offered |= feature::MULTI_QUEUE;
        }
        offered
            | if self.disk.read_only() {
                feature::READ_ONLY
            } else {
                feature::DISCARD | feature::WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        read_bytes(&self.configuration(), offset, out);
    }

    fn start(&self, _: u64) {}

    fn start_queue(&self, index: u16, queue: Queue) {
        let name = format!("blk{index}");
        let server = BlkQueue::new(&self.disk, queue).and_then(|q| Server::start(&name, q));
        match server {
            Ok(server) => *self.queues[usize::from(index)].lock() = Some(server),
            Err(e) => {
                tracing::error!("a disk's queue cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        let server = self.queues[usize::from(index)].lock().take()?;
        server.stop().map(|q| q.queue.state())
    }

    fn notify(&self, index: u16) {
        if let Some(queue) = self.queues.get(usize::from(index))
            && let Some(server) = &*queue.lock()
        {
            server.notify();
        }
    }

    fn reset(&self) {
        for queue in &self.queues {
            let server = queue.lock().take();
            drop(server);
        }
    }

    fn migrate(&self) -> Migrate {
        Migrate::Stateless
    }

    fn restore(&self, _: &Record) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// A request under way.
struct Pending {
    head: u16,
    /// The status byte goes here.
    status: Scatter,
    /// Bytes written when it succeeds, apart from the status.
    written: u32,
}

struct BlkQueue {
    disk: Arc<Disk>,
    queue: Queue,
    requests: Requests,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
}

impl BlkQueue {
    fn new(disk: &Arc<Disk>, queue: Queue) -> std::io::Result<Self> {
        let requests = Requests::new(disk)?;
        let size = usize::from(queue.state().size);
        Ok(Self {
            disk: disk.clone(),
            queue,
            requests,
            pending: (0..size).map(|_| None).collect(),
            free: (0..size).rev().collect(),
        })
    }

    /// Takes a request from the ring.
    fn accept(&mut self, chain: Chain) {
        let head = chain.head;
        match request::parse(&self.disk, chain) {
            request::Parsed::Disk {
                offset,
                operation,
                status,
                written,
            } => {
                let slot = self.free.pop().expect("no more are taken than there are slots");
                self.pending[slot] = Some(Pending {
                    head,
                    status,
                    written,
                });
                self.requests.submit(donjon_disk::Request {
                    token: slot as u64,
                    offset,
                    operation,
                });
            }
            request::Parsed::Answered { written } => self.queue.push(head, written),
            request::Parsed::Malformed(what) => self.queue.fail(crate::Violation::Request(what)),
        }
    }

    /// Gives back what is done; whether anything was.
    fn complete(&mut self) -> bool {
        let mut any = false;
        while let Some((token, result)) = self.requests.take() {
            let slot = token as usize;
            let Some(p) = self.pending[slot].take() else {
                continue;
            };
            self.free.push(slot);
            let written = if result.is_ok() { p.written } else { 0 };
            p.status.store(0, &[request::status_of(&result)]);
            if let Err(e) = result {
                tracing::debug!("{}: {e}", self.disk.image().path().display());
            }
            self.queue.push(p.head, written + 1);
            any = true;
        }
        any
    }

    /// One round; whether there may be more to take from the ring at once.
    fn round(&mut self, on: On) -> (bool, bool) {
        self.queue.hush();
        let mut answered = false;
        while !self.free.is_empty() {
            let Some(chain) = self.queue.pop() else { break };
            let before = self.free.len();
            self.accept(chain);
            answered |= self.free.len() == before;
        }
        let left = self.requests.run(on == On::Thread);
        if self.complete() | answered {
            self.queue.signal();
        }
        let more = !self.free.is_empty() && self.queue.listen();
        (left, more)
    }
}

impl Service for BlkQueue {
    fn run(&mut self, on: On) -> bool {
        for _ in 0..VCPU_ROUNDS {
            let (left, more) = self.round(on);
            if left || !more {
                return left;
            }
        }
        true
    }

    fn wait(&mut self) -> Wait {
        self.requests.wait()
    }

    fn finish(&mut self) {
        self.requests.drain();
        if self.complete() {
            self.queue.signal();
        }
    }
}
