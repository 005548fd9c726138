//! Threads that serve queues.
//!
//! A [`Service`] is what a device does with one queue, or with several that belong together. A [`Server`] runs it
//! on a thread of its own whenever something it waits for has happened, and on a vCPU's thread right when the
//! driver notifies, if the service is idle: a request that can be answered at once then needs no other thread.
#![forbid(unsafe_code)]

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// A file that a service waits for.
pub type Waited = (Arc<dyn AsFd + Send + Sync>, PollFlags);

/// What a service waits for, apart from being woken.
#[derive(Default)]
pub struct Wait {
    /// Files.
    pub files: Vec<Waited>,
    /// A time.
    pub until: Option<Instant>,
}

/// Where a service runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// On its own thread, where it may block for as long as the host's storage does.
    Thread,
    /// On a vCPU's thread, where it must not.
    Vcpu,
}

/// What a device does with its queues.
pub trait Service: Send + 'static {
    /// Does what there is to do; `true` if it left some, for another run on its own thread. It must return now
    /// and then, whatever the guest does.
    fn run(&mut self, on: On) -> bool;

    /// What it waits for if nothing is left. That may change in a run on its own thread, or in one that answers
    /// `true`.
    fn wait(&mut self) -> Wait;

    /// Finishes what was begun: called once, on the thread that stops it.
    fn finish(&mut self) {}
}

struct Shared<S> {
    service: Mutex<Option<S>>,
    wake: OwnedFd,
    stop: AtomicBool,
    /// Callers of [`Server::with`] that wait for the service.
    waiting: AtomicUsize,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Option<S>> {
        self.service.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Runs a service.
pub struct Server<S: Service> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Service> Server<S> {
    /// Starts to serve, on a thread of this name. Runs once at once: buffers may be waiting.
    pub fn start(name: &str, service: S) -> std::io::Result<Self> {
        let wake = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            service: Mutex::new(Some(service)),
            wake,
            stop: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        });
        let mine = shared.clone();
        let thread = Builder::new().name(name.into()).spawn(move || serve(&mine))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The driver notified, on a vCPU's thread.
    pub fn notify(&self) {
        // Whoever holds the lock may have looked already.
        if let Ok(mut service) = self.shared.service.try_lock()
            && let Some(s) = service.as_mut()
            && !s.run(On::Vcpu)
        {
            return;
        }
        self.shared.wake();
    }

    /// Has it run again on its thread.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Looks at or changes the service; it runs afterwards.
    pub fn with<T>(&self, f: impl FnOnce(&mut S) -> T) -> Option<T> {
        self.shared.waiting.fetch_add(1, SeqCst);
        let mut service = self.shared.lock();
        self.shared.waiting.fetch_sub(1, SeqCst);
        let answer = service.as_mut().map(f);
        drop(service);
        self.shared.wake();
        answer
    }

    /// What [`Server::wake`] does, for others. Harmless once it has stopped.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static + use<S> {
        let shared = self.shared.clone();
        move || shared.wake()
    }

    /// Ends the thread and finishes what was begun.
    pub fn stop(mut self) -> Option<S> {
        self.end()
    }

    fn end(&mut self) -> Option<S> {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut service = self.shared.lock().take();
        if let Some(s) = &mut service {
            s.finish();
        }
        service
    }
}

impl<S: Service> Drop for Server<S> {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve<S: Service>(shared: &Shared<S>) {
    while !shared.stop.load(SeqCst) {
        // A mutex is not fair: who leaves it and comes back at once would keep others out.
        while shared.waiting.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        let wait = match shared.lock().as_mut() {
            Some(service) => (!service.run(On::Thread)).then(|| service.wait()),
            None => return,
        };
        if let Some(wait) = wait {
            sleep(&shared.wake, &wait);
        }
    }
}

/// Waits for `wake` and whatever `wait` says.
fn sleep(wake: &OwnedFd, wait: &Wait) {
    let mut files: Vec<_> = std::iter::once(PollFd::new(wake, PollFlags::IN))
        .chain(
            wait.files
                .iter()
                .map(|(f, on)| PollFd::from_borrowed_fd(f.as_fd(), *on)),
        )
        .collect();
    let left = wait.until.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.map(timespec);
    // An error, such as a signal, only means that it looks again.
    let _ = poll(&mut files, timeout.as_ref());
    let woken = !files[0].revents().is_empty();
    drop(files);
    if woken {
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }
}

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: d.as_secs() as i64,
        tv_nsec: d.subsec_nanos().into(),
    }
}
