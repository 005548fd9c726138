//! A watchdog for a vCPU under test.

use donjon_engine::Attention;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;

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
    /// Watches the vCPU behind `attention`; no case may take longer than `patience`.
    pub fn new(attention: Arc<Attention>, patience: Duration) -> Self {
        let progress = Arc::new(Progress::default());
        let seen = progress.clone();
        let watch = move || {
            let mut last = 0;
            while !seen.over.load(Acquire) {
                std::thread::park_timeout(patience);
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
