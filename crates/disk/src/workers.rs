//! Threads for what blocks.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

type Job = Box<dyn FnOnce() + Send>;

/// The most threads of one disk. Storage that is slow enough to matter does more at once only with io_uring.
const MOST: usize = 4;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn work(&self) {
        let mut q = self.lock();
        loop {
            if let Some(job) = q.jobs.pop_front() {
                drop(q);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a disk's worker panicked");
                }
                q = self.lock();
            } else if q.stop {
                return;
            } else {
                q.idle += 1;
                q = self.more.wait(q).unwrap_or_else(|e| e.into_inner());
                q.idle -= 1;
            }
        }
    }
}

/// A disk's workers; threads start when there is work for them.
#[derive(Default)]
pub struct Workers {
    shared: Arc<Shared>,
}

impl Workers {
    /// Has a worker do it, or the caller if the host has no more threads.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut q = self.shared.lock();
        q.jobs.push_back(Box::new(job));
        if q.idle >= q.jobs.len() {
            self.shared.more.notify_one();
        } else if q.threads < MOST {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new()
                .name("disk".into())
                .spawn(move || shared.work());
            match started {
                Ok(_) => q.threads += 1,
                Err(e) if q.threads == 0 => {
                    tracing::warn!("no thread for a disk: {e}");
                    let job = q.jobs.pop_back();
                    drop(q);
                    if let Some(job) = job {
                        job();
                    }
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // They finish what there is, and end.
        self.shared.lock().stop = true;
        self.shared.more.notify_all();
    }
}
