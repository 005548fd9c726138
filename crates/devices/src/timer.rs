//! Deadlines: one thread a board that calls devices back when their time has come.

use donjon_engine::Clock;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

type Callback = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Queue {
    /// Armed timers in order of time.
    deadlines: BTreeSet<(u64, u64)>,
    timers: HashMap<u64, Entry>,
    next_id: u64,
    /// What the thread sleeps for: it need not be told of a later deadline.
    sleeping_until: u64,
    running: bool,
    paused: bool,
    stop: bool,
}

struct Entry {
    callback: Callback,
    deadline: Option<u64>,
}

struct Shared {
    clock: Arc<Clock>,
    queue: Mutex<Queue>,
    wake: Condvar,
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn arm(&self, id: u64, deadline: Option<u64>) {
        let mut q = self.lock();
        let Some(was) = q
            .timers
            .get_mut(&id)
            .map(|e| std::mem::replace(&mut e.deadline, deadline))
        else {
            return;
        };
        if was == deadline {
            return;
        }
        if let Some(was) = was {
            q.deadlines.remove(&(was, id));
        }
        if let Some(at) = deadline {
            q.deadlines.insert((at, id));
            if at < q.sleeping_until && !q.running && !q.paused {
                // Said once: others that arm before the thread is awake need not say it again.
                q.sleeping_until = at;
                self.wake.notify_one();
            }
        }
    }

    fn run(&self) {
        // By default Linux may wake a thread 50 µs late, to gather wake-ups. A host that refuses is only late.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut q = self.lock();
        while !q.stop {
            let due = if q.paused {
                None
            } else {
                q.deadlines.first().copied()
            };
            let now = self.clock.nanoseconds();
            match due {
                Some((at, id)) if at <= now => {
                    q.deadlines.pop_first();
                    let Some(entry) = q.timers.get_mut(&id) else {
                        continue;
                    };
                    entry.deadline = None;
                    let callback = entry.callback.clone();
                    q.running = true;
                    drop(q);
                    // One device's mistake must not stop the time of all others.
                    if catch_unwind(AssertUnwindSafe(move || callback())).is_err() {
                        tracing::error!("a device's timer callback panicked");
                    }
                    q = self.lock();
                    q.running = false;
                    if q.paused {
                        self.idle.notify_all();
                    }
                }
                Some((at, _)) => {
                    q.sleeping_until = at;
                    let sleep = Duration::from_nanos(at - now);
                    q = self
                        .wake
                        .wait_timeout(q, sleep)
                        .unwrap_or_else(|e| e.into_inner())
                        .0;
                }
                None => {
                    q.sleeping_until = u64::MAX;
                    q = self.wake.wait(q).unwrap_or_else(|e| e.into_inner());
                }
            }
        }
    }
}

/// A board's timer thread. It sleeps until the next deadline, and uses no CPU while none is set. Dropping
/// this ends the thread; timers that are left then never fire.
pub struct Timers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Timers {
    /// Starts the thread. Deadlines are in nanoseconds of `clock`.
    pub fn new(clock: Arc<Clock>) -> Self {
        let shared = Arc::new(Shared {
            clock,
            queue: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
        });
        let run = shared.clone();
        let thread = thread::Builder::new()
            .name("timers".into())
            .spawn(move || run.run());
        if let Err(e) = &thread {
            tracing::error!("no timer thread: {e}; guest timers will not fire");
        }
        Self {
            shared,
            thread: thread.ok(),
        }
    }

    /// The clock that deadlines refer to.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.shared.clock
    }

    /// A timer for a device under construction: `act` runs on it as [`Timers::timer`]'s callback does, for as
    /// long as the device is there.
    pub fn timer_of<D: Send + Sync + 'static>(
        &self,
        device: &Weak<D>,
        act: impl Fn(&D) + Send + Sync + 'static,
    ) -> Timer {
        let device = device.clone();
        self.timer(move || {
            if let Some(device) = device.upgrade() {
                act(&device);
            }
        })
    }

    /// A timer, not armed. `callback` runs on the timer thread and must not block; it should refer to its
    /// device weakly, because the device owns the timer.
    pub fn timer(&self, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let mut q = self.shared.lock();
        let id = q.next_id;
        q.next_id += 1;
        q.timers.insert(
            id,
            Entry {
                callback: Arc::new(callback),
                deadline: None,
            },
        );
        drop(q);
        Timer {
            shared: self.shared.clone(),
            id,
        }
    }

    /// Stops firing and waits until no callback runs. Must not be called from a callback.
    pub fn pause(&self) {
        let mut q = self.shared.lock();
        q.paused = true;
        while q.running {
            q = self.shared.idle.wait(q).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Fires what has become due since [`Timers::pause`], and goes on.
    pub fn resume(&self) {
        self.shared.lock().paused = false;
        self.shared.wake.notify_one();
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(t) = self.thread.take()
            && t.thread().id() != thread::current().id()
        {
            let _ = t.join();
        }
    }
}

/// One deadline. Dropping it cancels it.
pub struct Timer {
    shared: Arc<Shared>,
    id: u64,
}

impl Timer {
    /// Fires once at `deadline` (nanoseconds of the clock), at once if that is past; replaces an earlier
    /// deadline.
    pub fn arm(&self, deadline: u64) {
        self.shared.arm(self.id, Some(deadline));
    }

    /// Forgets the deadline. A callback that has already started is not waited for.
    pub fn cancel(&self) {
        self.shared.arm(self.id, None);
    }

    /// [`Timer::arm`] or [`Timer::cancel`].
    pub fn set(&self, deadline: Option<u64>) {
        self.shared.arm(self.id, deadline);
    }

    /// Now, in nanoseconds of the clock.
    pub fn now(&self) -> u64 {
        self.shared.clock.nanoseconds()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut q = self.shared.lock();
        let entry = q.timers.remove(&self.id);
        if let Some(at) = entry.as_ref().and_then(|e| e.deadline) {
            q.deadlines.remove(&(at, self.id));
        }
        drop(q);
        // The callback may own things whose destructors take locks.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    fn timers() -> Timers {
        Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)))
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn fires_in_order_of_time_and_not_before() {
        let t = timers();
        let (tx, rx) = mpsc::channel();
        let clock = t.clock().clone();
        let make = |name| {
            let (tx, clock) = (tx.clone(), clock.clone());
            t.timer(move || tx.send((name, clock.nanoseconds())).unwrap())
        };
        let (a, b, c) = (make('a'), make('b'), make('c'));
        let now = clock.nanoseconds();
        a.arm(now + 30_000_000);
        b.arm(now + 10_000_000);
        c.arm(now + 1_000_000_000_000);
        c.arm(now + 20_000_000);
        for (name, at) in [('b', 10_000_000), ('c', 20_000_000), ('a', 30_000_000)] {
            let (got, when) = rx.recv_timeout(LONG).unwrap();
            assert_eq!(got, name);
            assert!(when >= now + at);
        }
    }

    #[test]
    fn cancelled_dropped_and_paused_timers_do_not_fire() {
        let t = timers();
        let count = Arc::new(AtomicUsize::new(0));
        let make = || {
            let count = count.clone();
            t.timer(move || {
                count.fetch_add(1, SeqCst);
            })
        };
        let (a, b, c) = (make(), make(), make());
        t.pause();
        for x in [&a, &b, &c] {
            x.arm(0);
        }
        a.cancel();
        drop(b);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(count.load(SeqCst), 0);
        t.resume();
        while count.load(SeqCst) == 0 {
            thread::yield_now();
        }
        t.pause();
        assert_eq!(count.load(SeqCst), 1);
    }

    #[test]
    fn a_callback_that_panics_stops_nothing_else() {
        let t = timers();
        let (tx, rx) = mpsc::channel();
        let (bad, good) = (
            t.timer(|| panic!("on purpose")),
            t.timer(move || tx.send(()).unwrap()),
        );
        bad.arm(0);
        good.arm(t.clock().nanoseconds() + 1_000_000);
        rx.recv_timeout(LONG).unwrap();
        t.pause();
    }

    #[test]
    fn a_callback_may_arm_its_own_timer() {
        let t = timers();
        let (tx, rx) = mpsc::channel();
        let timer = Arc::new_cyclic(|weak: &std::sync::Weak<Timer>| {
            let weak = weak.clone();
            t.timer(move || {
                if tx.send(()).is_ok()
                    && let Some(me) = weak.upgrade()
                {
                    me.arm(me.now() + 1000);
                }
            })
        });
        timer.arm(0);
        for _ in 0..50 {
            rx.recv_timeout(LONG).unwrap();
        }
        drop(timer);
        while rx.recv_timeout(LONG).is_ok() {}
    }

    #[test]
    fn the_thread_ends_with_its_owner_and_timers_outlive_it() {
        let t = timers();
        let a = t.timer(|| ());
        let shared = Arc::downgrade(&t.shared);
        drop(t);
        a.arm(0);
        drop(a);
        assert!(shared.upgrade().is_none());
    }
}
