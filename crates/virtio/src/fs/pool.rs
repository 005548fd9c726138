//! Threads that serve one queue together.
//!
//! Requests wait for the host's storage, so neither a vCPU's thread does them nor one that others would wait behind.
//! Whoever is free takes the next from the ring and gives it back to the ring itself.

use crate::queue::{Chain, Queue, Violation};
use donjon_fs::Server;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

struct State {
    queue: Queue,
    /// Taken from the ring, but by no thread yet.
    waiting: VecDeque<Chain>,
    /// Threads with nothing to do.
    idle: usize,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There may be something to do.
    work: Condvar,
    session: Arc<Server>,
}

/// The threads.
pub struct Pool {
    shared: Option<Arc<Shared>>,
    threads: Vec<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Starts to serve, on this many threads.
    pub fn start(name: &str, threads: usize, queue: Queue, session: &Arc<Server>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue,
                waiting: VecDeque::new(),
                idle: 0,
                stop: false,
            }),
            work: Condvar::new(),
            session: session.clone(),
        });
        let mut pool = Self {
            shared: Some(shared.clone()),
            threads: vec![],
        };
        for n in 0..threads {
            let mine = shared.clone();
            let thread = Builder::new().name(format!("{name}-{n}"));
            pool.threads.push(thread.spawn(move || serve(&mine))?);
        }
        Ok(pool)
    }

    /// The driver made buffers available.
    pub fn notify(&self) {
        if let Some(shared) = &self.shared
            && shared.lock().idle > 0
        {
            shared.work.notify_one();
        }
    }

    /// Ends the threads, with what they have taken from the ring done.
    pub fn stop(mut self) -> Queue {
        let shared = self.end().expect("it ends once");
        let shared = Arc::into_inner(shared).expect("the threads have ended");
        let state = shared.state.into_inner();
        state.unwrap_or_else(PoisonError::into_inner).queue
    }

    fn end(&mut self) -> Option<Arc<Shared>> {
        let shared = self.shared.take()?;
        shared.lock().stop = true;
        shared.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        Some(shared)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// The next request.
    fn take(&mut self) -> Option<Chain> {
        while self.waiting.is_empty() && !self.stop {
            while let Some(chain) = self.queue.pop() {
                self.waiting.push_back(chain);
            }
            // Once all are busy nobody is there to be told; whoever is done looks anyway.
            let more = match self.idle > 0 || self.waiting.is_empty() {
                true => self.queue.listen(),
                false => {
                    self.queue.hush();
                    false
                }
            };
            if !more {
                break;
            }
        }
        self.waiting.pop_front()
    }
}

fn serve(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let Some(chain) = state.take() else {
            if state.stop {
                return;
            }
            state.idle += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        if state.idle > 0 && !state.waiting.is_empty() {
            shared.work.notify_one();
        }
        drop(state);
        let answer = shared.session.handle(&chain.readable, &chain.writable);
        state = shared.lock();
        match answer {
            Ok(written) => {
                state.queue.push(chain.head, written as u32);
                state.queue.signal();
            }
            Err(_) => {
                let why = "a file system request is shorter than its header, or has no room for an answer";
                state.queue.fail(Violation::Request(why));
            }
        }
    }
}
