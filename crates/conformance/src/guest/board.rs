//! The least a vCPU needs around it.

use donjon_engine::{Attention, CpuIo, Gp, LocalApic};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;

/// No devices: every read is ones.
pub struct NoDevices;

impl CpuIo for NoDevices {
    fn port_in(&self, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * size.clamp(1, 4) as u32)
    }
    fn port_out(&self, _port: u16, _size: u8, _value: u32) {}
    fn mmio_read(&self, _address: u64, size: u8) -> u64 {
        u64::MAX >> (64 - 8 * size.clamp(1, 8) as u32)
    }
    fn mmio_write(&self, _address: u64, _size: u8, _value: u64) {}
}

/// A local APIC that never interrupts.
#[derive(Default)]
pub struct Apic {
    cr8: AtomicU8,
}

impl LocalApic for Apic {
    fn pending(&self) -> bool {
        false
    }
    fn acknowledge(&self) -> Option<u8> {
        None
    }
    fn cr8(&self) -> u8 {
        self.cr8.load(Relaxed)
    }
    fn set_cr8(&self, value: u8) {
        self.cr8.store(value & 15, Relaxed);
    }
    fn read_msr(&self, _msr: u32) -> Result<u64, Gp> {
        Err(Gp)
    }
    fn write_msr(&self, _msr: u32, _value: u64) -> Result<(), Gp> {
        Err(Gp)
    }
    fn page(&self) -> Option<u64> {
        None
    }
    fn page_read(&self, _offset: u16) -> u32 {
        0
    }
    fn page_write(&self, _offset: u16, _value: u32) {}
    fn init(&self) {}
}

#[derive(Default)]
struct Progress {
    /// Odd while a case runs.
    count: AtomicU64,
    over: AtomicBool,
}

/// Kicks a vCPU that stays in one case too long.
pub struct Watchdog {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Watches the vCPU behind `attention`.
    pub fn new(attention: Arc<Attention>) -> Self {
        let progress = Arc::new(Progress::default());
        let seen = progress.clone();
        let watch = move || {
            let mut last = 0;
            while !seen.over.load(Acquire) {
                std::thread::park_timeout(Self::PATIENCE);
                let now = seen.count.load(Acquire);
                if now % 2 == 1 && now == last {
                    attention.raise(Attention::KICK);
                }
                last = now;
            }
        };
        Self {
            progress,
            thread: Some(std::thread::spawn(watch)),
        }
    }

    /// A case starts.
    pub fn start(&self) {
        self.progress.count.fetch_add(1, AcqRel);
    }

    /// It is over.
    pub fn stop(&self) {
        self.progress.count.fetch_add(1, AcqRel);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.progress.over.store(true, Release);
        if let Some(t) = self.thread.take() {
            t.thread().unpark();
            let _ = t.join();
        }
    }
}
