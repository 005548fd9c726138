//! The queues that there are, and the doorbells that lead to them.
//!
//! Queues are made, deleted, started and stopped with the controller locked; doorbells need no more than the one
//! queue's lock.

use crate::command::Completion;
use crate::completion::CompletionQueue;
use crate::io::IoQueue;
use crate::shared::Shared;
use crate::submission::{SqState, SubmissionQueue};
use donjon_devices::sync::Lock;
use donjon_service::Server;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

/// The most I/O queue pairs.
pub const MAX_QUEUES: u16 = 64;

/// An I/O submission queue.
struct Slot {
    /// As of when it was stopped, while it is served.
    state: SqState,
    backlog: VecDeque<Completion>,
    tail: Arc<AtomicU16>,
    server: Option<Server<IoQueue>>,
}

/// An I/O submission queue at rest, as it is saved.
pub type Parked = (SqState, u16, VecDeque<Completion>);

/// Why a doorbell's write is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// There is no such queue.
    Register,
    /// The queue has no such entry.
    Value,
}

/// All I/O queues, and the admin completion queue.
pub struct Queues {
    shared: Arc<Shared>,
    submission: Vec<Lock<Option<Slot>>>,
    completion: Vec<Lock<Option<Arc<CompletionQueue>>>>,
}

impl Queues {
    /// With places for `count` I/O queue pairs.
    pub fn new(shared: &Arc<Shared>, count: u16) -> Self {
        Self {
            shared: shared.clone(),
            submission: (0..=count).map(|_| Lock::default()).collect(),
            completion: (0..=count).map(|_| Lock::default()).collect(),
        }
    }

    /// I/O queue pairs.
    pub fn count(&self) -> u16 {
        (self.submission.len() - 1) as u16
    }

    /// Whether an I/O queue may have this identifier.
    pub fn is_io(&self, id: u16) -> bool {
        (1..=self.count()).contains(&id)
    }

    pub fn completion(&self, id: u16) -> Option<Arc<CompletionQueue>> {
        self.completion.get(usize::from(id))?.lock().clone()
    }

    pub fn set_completion(&self, id: u16, queue: Option<Arc<CompletionQueue>>) {
        *self.completion[usize::from(id)].lock() = queue;
    }

    pub fn has_submission(&self, id: u16) -> bool {
        self.submission
            .get(usize::from(id))
            .is_some_and(|s| s.lock().is_some())
    }

    /// Whether answers of any I/O submission queue go to this completion queue.
    pub fn is_used(&self, completion: u16) -> bool {
        let uses = |s: &Lock<Option<Slot>>| s.lock().as_ref().is_some_and(|s| s.state.cq == completion);
        self.submission.iter().any(uses)
    }

    /// Puts a submission queue, which was checked, in its place. It is not served yet.
    pub fn insert(&self, (state, tail, backlog): Parked) {
        *self.submission[usize::from(state.id)].lock() = Some(Slot {
            state,
            backlog,
            tail: Arc::new(AtomicU16::new(tail)),
            server: None,
        });
    }

    /// Begins to serve a submission queue, if it is not served already.
    pub fn start(&self, id: u16) -> io::Result<()> {
        let mut slot = self.submission[usize::from(id)].lock();
        let Some(s) = &mut *slot else { return Ok(()) };
        if s.server.is_some() {
            return Ok(());
        }
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let queue = SubmissionQueue::new(&self.shared.ram, s.state, &s.tail, Some(&self.shared.shadow));
        let (queue, completions) = (
            queue.ok_or_else(missing)?,
            self.completion(s.state.cq).ok_or_else(missing)?,
        );
        let queue = IoQueue::new(&self.shared, queue, completions, s.backlog.clone())?;
        s.server = Some(Server::start(&format!("nvme{id}"), queue)?);
        Ok(())
    }

    /// Serves a submission queue no longer: what was begun is finished.
    pub fn stop(&self, id: u16) {
        let slot = &self.submission[usize::from(id)];
        let server = slot.lock().as_mut().and_then(|s| s.server.take());
        // Doorbells need not wait for this.
        if let Some(queue) = server.and_then(Server::stop)
            && let Some(s) = &mut *slot.lock()
        {
            (s.state.head, s.backlog) = queue.into_parked();
        }
    }

    pub fn start_all(&self) -> io::Result<()> {
        (1..=self.count()).try_for_each(|id| self.start(id))
    }

    pub fn stop_all(&self) {
        (1..=self.count()).for_each(|id| self.stop(id));
    }

    /// Deletes a submission queue.
    pub fn remove(&self, id: u16) {
        self.stop(id);
        *self.submission[usize::from(id)].lock() = None;
    }

    /// Deletes all of them.
    pub fn clear(&self) {
        (1..=self.count()).for_each(|id| self.remove(id));
        (0..=self.count()).for_each(|id| self.set_completion(id, None));
    }

    /// Submission queues at rest. To be called with all of them stopped.
    pub fn parked(&self) -> Vec<Parked> {
        let parked = |s: &Slot| (s.state, s.tail.load(SeqCst), s.backlog.clone());
        self.submission
            .iter()
            .filter_map(|s| s.lock().as_ref().map(parked))
            .collect()
    }

    /// All completion queues.
    pub fn completions(&self) -> Vec<Arc<CompletionQueue>> {
        self.completion.iter().filter_map(|c| c.lock().clone()).collect()
    }

    /// The host has put commands before entry `tail` of an I/O submission queue.
    pub fn set_tail(&self, id: u16, tail: u32) -> Result<(), Wrong> {
        let slot = self
            .submission
            .get(usize::from(id))
            .ok_or(Wrong::Register)?
            .lock();
        let slot = slot.as_ref().ok_or(Wrong::Register)?;
        if tail >= slot.state.size.into() {
            return Err(Wrong::Value);
        }
        slot.tail.store(tail as u16, SeqCst);
        if let Some(server) = &slot.server {
            server.notify();
        }
        Ok(())
    }

    /// The host has seen what is before entry `head` of a completion queue.
    pub fn set_head(&self, id: u16, head: u32) -> Result<(), Wrong> {
        let queue = self.completion(id).ok_or(Wrong::Register)?;
        let mut waiting = queue.set_head(head).ok_or(Wrong::Value)?;
        while waiting != 0 {
            let id = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            if let Some(slot) = self.submission.get(id)
                && let Some(server) = slot.lock().as_ref().and_then(|s| s.server.as_ref())
            {
                server.wake();
            }
        }
        Ok(())
    }

    /// Looks at requests that wait for the disk's limit again.
    pub fn wake_all(&self) {
        for slot in &self.submission {
            if let Some(server) = slot.lock().as_ref().and_then(|s| s.server.as_ref()) {
                server.wake();
            }
        }
    }
}
