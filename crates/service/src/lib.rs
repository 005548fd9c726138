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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::thread::ThreadId;

    const LONG: Duration = Duration::from_secs(20);

    /// What a service was asked to do, by whom.
    #[derive(Default)]
    struct Log {
        runs: Mutex<Vec<(On, ThreadId)>>,
        more: Condvar,
        finished: AtomicUsize,
    }

    impl Log {
        fn count(&self, on: On) -> usize {
            self.runs.lock().unwrap().iter().filter(|r| r.0 == on).count()
        }

        fn wait(&self, on: On, times: usize) {
            let runs = self.runs.lock().unwrap();
            let few = |runs: &mut Vec<(On, ThreadId)>| runs.iter().filter(|r| r.0 == on).count() < times;
            let (_runs, late) = self.more.wait_timeout_while(runs, LONG, few).unwrap();
            assert!(!late.timed_out(), "fewer than {times} runs");
        }
    }

    /// Notes its runs; has work left as often as told.
    struct Noted {
        log: Arc<Log>,
        left: usize,
        wait: Vec<Waited>,
        until: Option<Instant>,
    }

    impl Service for Noted {
        fn run(&mut self, on: On) -> bool {
            self.log
                .runs
                .lock()
                .unwrap()
                .push((on, std::thread::current().id()));
            self.log.more.notify_all();
            let left = self.left > 0;
            self.left = self.left.saturating_sub(1);
            left
        }

        fn wait(&mut self) -> Wait {
            Wait {
                files: self.wait.clone(),
                until: self.until.take(),
            }
        }

        fn finish(&mut self) {
            self.log.finished.fetch_add(1, SeqCst);
        }
    }

    fn noted() -> (Arc<Log>, Noted) {
        let log = Arc::new(Log::default());
        let service = Noted {
            log: log.clone(),
            left: 0,
            wait: vec![],
            until: None,
        };
        (log, service)
    }

    #[test]
    fn a_notification_is_served_where_it_comes_from() {
        let (log, service) = noted();
        let server = Server::start("noted", service).unwrap();
        log.wait(On::Thread, 1);
        // The thread may hold it still; then it is that which is woken.
        while log.count(On::Vcpu) == 0 {
            server.notify();
        }
        let runs = log.runs.lock().unwrap();
        let inline = runs.iter().find(|r| r.0 == On::Vcpu).unwrap();
        assert_eq!(inline.1, std::thread::current().id());
        assert_ne!(runs[0].1, std::thread::current().id());
    }

    #[test]
    fn what_is_left_is_done_on_its_own_thread() {
        let (log, mut service) = noted();
        service.left = 5;
        let _server = Server::start("noted", service).unwrap();
        log.wait(On::Thread, 6);
    }

    #[test]
    fn it_runs_when_its_time_has_come_or_its_file_is_ready() {
        let (log, mut service) = noted();
        let file = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        service.wait = vec![(file.clone(), PollFlags::IN)];
        service.until = Some(Instant::now() + Duration::from_millis(5));
        let _server = Server::start("noted", service).unwrap();
        log.wait(On::Thread, 2);
        rustix::io::write(&file, &1u64.to_ne_bytes()).unwrap();
        // It stays ready: nobody reads it.
        log.wait(On::Thread, 5);
    }

    #[test]
    fn it_is_finished_once_and_runs_no_more() {
        let (log, service) = noted();
        let server = Server::start("noted", service).unwrap();
        log.wait(On::Thread, 1);
        let wake = server.waker();
        assert!(server.with(|s| s.left).is_some());
        assert!(server.stop().is_some());
        assert_eq!(log.finished.load(SeqCst), 1);
        let runs = log.runs.lock().unwrap().len();
        wake();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(log.runs.lock().unwrap().len(), runs);

        let (log, service) = noted();
        drop(Server::start("noted", service).unwrap());
        assert_eq!(log.finished.load(SeqCst), 1, "dropping stops as well");
    }

    #[test]
    fn a_busy_service_can_be_looked_at() {
        let (log, mut service) = noted();
        service.left = usize::MAX;
        let server = Server::start("noted", service).unwrap();
        log.wait(On::Thread, 10);
        assert!(server.with(|s| std::mem::take(&mut s.left)).is_some());
    }
}
