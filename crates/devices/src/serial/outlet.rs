//! The host end of a transmitter: a thread that writes what the guest sends, so that no vCPU waits for a
//! terminal or a pipe.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes after which the transmitter stops claiming to be empty.
const FULL: usize = 64 << 10;
/// Bytes after which those of a guest that sends all the same are lost, as in an overrun of the wire.
const OVERRUN: usize = 1 << 20;
/// How long the thread lets bytes gather before it writes, so that a burst of them is one write.
const GATHER: Duration = Duration::from_millis(1);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 4096;

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
    idle: bool,
    closed: bool,
    lost: u64,
    /// Somebody wants to hear when there is room again.
    notify: Option<Box<dyn Fn() + Send + Sync>>,
    was_full: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A byte sink with its own thread.
pub(super) struct Outlet(Arc<Shared>);

impl Outlet {
    /// `room` is called on the outlet's thread when a full outlet has drained.
    pub fn new(out: Box<dyn Write + Send>, room: Box<dyn Fn() + Send + Sync>) -> Self {
        let queue = Queue {
            notify: Some(room),
            ..Queue::default()
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            drained: Condvar::new(),
        });
        let run = shared.clone();
        if let Err(e) = thread::Builder::new()
            .name("serial-out".into())
            .spawn(move || write_loop(&run, out))
        {
            tracing::error!("no thread for serial output: {e}; the guest's output is lost");
            shared.lock().closed = true;
        }
        Self(shared)
    }

    /// Takes a byte; whether the outlet can take more without falling behind.
    pub fn push(&self, byte: u8) -> bool {
        let mut q = self.0.lock();
        if q.closed {
            return true;
        }
        if q.bytes.len() >= OVERRUN {
            if q.lost == 0 {
                tracing::warn!("serial output is not being read; bytes are lost");
            }
            q.lost += 1;
            return false;
        }
        q.bytes.push(byte);
        let len = q.bytes.len();
        if q.idle || len == ENOUGH {
            q.idle = false;
            self.0.wake.notify_one();
        }
        q.was_full |= len >= FULL;
        len < FULL
    }

    /// Waits until everything is written, at most this long; whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut q = self.0.lock();
        while !q.closed && (q.writing || !q.bytes.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.0.wake.notify_one();
            q = self
                .0
                .drained
                .wait_timeout(q, left)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        true
    }
}

impl Drop for Outlet {
    /// What is queued is still written; the thread ends then.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

fn write_loop(shared: &Shared, mut out: Box<dyn Write + Send>) {
    let mut broken = false;
    let mut q = shared.lock();
    loop {
        while q.bytes.is_empty() {
            shared.drained.notify_all();
            if q.closed {
                return;
            }
            q.idle = true;
            q = shared.wake.wait(q).unwrap_or_else(|e| e.into_inner());
        }
        q.idle = false;
        if q.bytes.len() < ENOUGH && !q.closed {
            q = shared
                .wake
                .wait_timeout(q, GATHER)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        let bytes = std::mem::take(&mut q.bytes);
        q.writing = true;
        drop(q);
        if !broken && let Err(e) = out.write_all(&bytes).and_then(|()| out.flush()) {
            // A reader that is gone must not stop the guest.
            tracing::debug!("serial output is closed: {e}");
            broken = true;
        }
        q = shared.lock();
        q.writing = false;
        if q.bytes.len() < FULL && std::mem::take(&mut q.was_full) {
            // Without the queue: the device takes its own lock, under which it calls push.
            let room = q.notify.take();
            drop(q);
            if let Some(room) = &room {
                room();
            }
            q = shared.lock();
            q.notify = room;
        }
    }
}
