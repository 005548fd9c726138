//! I/O queues: what is done with the commands in them.

mod parse;

use crate::command::{Command, Completion};
use crate::completion::CompletionQueue;
use crate::shared::Shared;
use crate::status::Status;
use crate::submission::SubmissionQueue;
use donjon_disk::{Operation, Request, Requests};
use donjon_service::{On, Service, Wait};
use parse::{Kind, Parsed, Work};
pub use parse::{MAX_TRANSFER, OPCODES};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Commands of one queue that are under way at once.
pub const DEPTH: usize = 128;
/// Rounds on a vCPU's thread before the rest is left to the queue's own.
const VCPU_ROUNDS: usize = 4;

/// A command under way.
struct Pending {
    command: Command,
    work: Work,
}

/// A submission queue that is being served.
pub struct IoQueue {
    shared: Arc<Shared>,
    queue: SubmissionQueue,
    completions: Arc<CompletionQueue>,
    requests: Requests,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// Answers for which the completion queue has no room. No command is taken meanwhile.
    backlog: VecDeque<Completion>,
    stopping: bool,
}

impl IoQueue {
    pub fn new(
        shared: &Arc<Shared>,
        queue: SubmissionQueue,
        completions: Arc<CompletionQueue>,
        backlog: VecDeque<Completion>,
    ) -> io::Result<Self> {
        let requests = Requests::new(&shared.disk)?;
        Ok(Self {
            shared: shared.clone(),
            queue,
            completions,
            requests,
            pending: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            backlog,
            stopping: false,
        })
    }

    /// Where it stands: its head, and the answers that could not be given.
    pub fn into_parked(self) -> (u16, VecDeque<Completion>) {
        (self.queue.state.head, self.backlog)
    }

    fn answer(&mut self, command: &Command, status: Status) {
        if status.is_error() {
            let lba = command.lba();
            self.shared.errors.note(self.queue.state.id, command, status, lba);
        }
        let answer = if status.is_error() { Err(status) } else { Ok(0) };
        self.backlog.push_back(Completion::new(command.cid, answer));
    }

    /// Begins a command.
    fn accept(&mut self, command: Command) {
        match parse::parse(&self.shared, &command) {
            Ok(Parsed::Done) => self.answer(&command, Status::SUCCESS),
            Err(status) => self.answer(&command, status),
            Ok(Parsed::Work(work, offset, operation)) => {
                let slot = self.free.pop().expect("no more are taken than there are slots");
                self.pending[slot] = Some(Pending { command, work });
                self.submit(slot, offset, operation);
            }
        }
    }

    fn submit(&mut self, slot: usize, offset: u64, operation: Operation) {
        self.requests.submit(Request {
            token: slot as u64,
            offset,
            operation,
        });
    }

    /// Takes what is done; whether there is something new to begin.
    fn retire(&mut self) -> bool {
        let mut begun = false;
        while let Some((token, result)) = self.requests.take() {
            let slot = token as usize;
            let stopping = self.stopping;
            let Some(p) = &mut self.pending[slot] else {
                continue;
            };
            let next = match &result {
                Ok(()) => p.work.next(stopping),
                Err(_) => None,
            };
            if let Some((offset, operation)) = next {
                self.submit(slot, offset, operation);
                begun = true;
                continue;
            }
            let p = self.pending[slot].take().expect("it was there");
            self.free.push(slot);
            let status = match result {
                Ok(()) => self.count(&p.work),
                Err(e) => self.failed(&p.work, &e),
            };
            self.answer(&p.command, status);
        }
        begun
    }

    fn count(&self, work: &Work) -> Status {
        let counters = &self.shared.counters;
        match work.kind {
            Kind::Read => {
                counters.reads.fetch_add(1, Relaxed);
                counters.read_sectors.fetch_add(work.sectors, Relaxed);
            }
            Kind::Write => {
                counters.writes.fetch_add(1, Relaxed);
                counters.written_sectors.fetch_add(work.sectors, Relaxed);
            }
            Kind::Other => {}
        }
        Status::SUCCESS
    }

    fn failed(&self, work: &Work, e: &io::Error) -> Status {
        tracing::debug!("{}: {e}", self.shared.disk.image().path().display());
        match e.kind() {
            // It became smaller meanwhile.
            io::ErrorKind::InvalidInput => return Status::LBA_OUT_OF_RANGE,
            io::ErrorKind::ReadOnlyFilesystem => return Status::WRITE_PROTECTED,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Status::CAPACITY_EXCEEDED,
            _ => {}
        }
        self.shared.counters.media_errors.fetch_add(1, Relaxed);
        match work.kind {
            Kind::Read => Status::UNRECOVERED_READ_ERROR,
            Kind::Write | Kind::Other => Status::WRITE_FAULT,
        }
    }

    fn post(&mut self) {
        let state = &self.queue.state;
        self.completions.post(state.id, state.head, &mut self.backlog);
    }

    /// One round; whether something was left because it may block, and whether there may be more to do at once.
    fn round(&mut self, on: On) -> (bool, bool) {
        self.post();
        let room = self.backlog.is_empty();
        while room && !self.free.is_empty() && self.backlog.len() < DEPTH {
            let Some(command) = self.queue.pop() else { break };
            self.accept(command);
        }
        let left = self.requests.run(on == On::Thread);
        let begun = self.retire();
        self.post();
        let takes = self.backlog.is_empty() && !self.free.is_empty();
        (left, begun || takes && self.queue.listen())
    }
}

impl Service for IoQueue {
    fn run(&mut self, on: On) -> bool {
        for _ in 0..VCPU_ROUNDS {
            let (left, more) = self.round(on);
            if left || !more {
                return left;
            }
        }
        true
    }

    fn wait(&mut self) -> Wait {
        self.requests.wait()
    }

    fn finish(&mut self) {
        self.stopping = true;
        loop {
            self.requests.drain();
            if !self.retire() {
                break;
            }
        }
        self.post();
    }
}
