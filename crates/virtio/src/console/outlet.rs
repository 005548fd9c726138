//! The host end of a port's output: what the guest sent and nobody has taken yet, and the thread that writes it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that wait for the thread.
pub(super) const CAPACITY: usize = 64 << 10;

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
    closed: bool,
    /// Bytes were refused.
    starved: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A byte sink with its own thread. Dropping it ends the thread when it has written what was pushed.
pub(super) struct Outlet(Arc<Shared>);

impl Outlet {
    /// Writes to `out`, which may block. `room` is called on the thread when there is room again after a
    /// [`Outlet::push`] that was cut short.
    pub fn start(out: Box<dyn Write + Send>, room: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mine = shared.clone();
        thread::Builder::new()
            .name("console-out".into())
            .spawn(move || write_loop(&mine, out, room))?;
        Ok(Self(shared))
    }

    /// Takes as many bytes as there is room for.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut q = self.0.lock();
        let n = bytes.len().min(CAPACITY - q.bytes.len());
        q.bytes.extend_from_slice(&bytes[..n]);
        q.starved |= n < bytes.len();
        self.0.filled.notify_one();
        n
    }

    /// Waits until everything is written, at most this long; whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut q = self.0.lock();
        while q.writing || !q.bytes.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.drained.wait_timeout(q, left);
            q = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        true
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

fn write_loop(shared: &Shared, mut out: Box<dyn Write + Send>, room: impl Fn()) {
    let mut broken = false;
    let mut q = shared.lock();
    loop {
        while q.bytes.is_empty() {
            shared.drained.notify_all();
            if q.closed {
                return;
            }
            q = shared.filled.wait(q).unwrap_or_else(|e| e.into_inner());
        }
        let bytes = std::mem::take(&mut q.bytes);
        q.writing = true;
        let starved = std::mem::take(&mut q.starved);
        drop(q);
        if starved {
            room();
        }
        if !broken && let Err(e) = out.write_all(&bytes).and_then(|()| out.flush()) {
            // A reader that is gone must not stop the guest.
            tracing::debug!("output of a virtio console port is closed: {e}");
            broken = true;
        }
        q = shared.lock();
        q.writing = false;
    }
}
