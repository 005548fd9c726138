//! Transfers between RAM and files that the host's kernel does in the background: io_uring(7).

use crate::scatter::Scatter;
use io_uring::{IoUring, opcode, types::Fd};
use rustix::event::{EventfdFlags, eventfd};
use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What to do in the background.
pub enum Action {
    /// Fills the list from the file at an offset.
    Read(Scatter, u64),
    /// Writes the list to the file at an offset.
    Write(Scatter, u64),
}

/// One piece of work.
pub struct Job {
    /// What.
    pub action: Action,
    /// On which file.
    pub file: Arc<File>,
    /// Comes back with the result.
    pub token: u64,
    /// Kept until it is done.
    pub keep: Option<Box<dyn Any + Send>>,
}

/// A finished job.
pub struct Done {
    /// The job's.
    pub token: u64,
    /// Bytes transferred, which may be fewer than asked for at a file's end.
    pub result: io::Result<usize>,
}

struct InFlight {
    job: Job,
    /// What the kernel was told; it may read it until the job is done.
    _vectors: Vec<libc::iovec>,
}

/// A queue of work for the kernel, for one thread at a time.
pub struct Ring {
    ring: IoUring,
    in_flight: Vec<Option<InFlight>>,
    free: Vec<usize>,
    event: OwnedFd,
    waiting: bool,
}

// SAFETY: the vectors are plain addresses of guest RAM, which their job keeps mapped, on whatever thread.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring for at most `depth` jobs at once. Hosts may have no io_uring, or forbid it (ENOSYS, EPERM).
    pub fn new(depth: u32) -> io::Result<Self> {
        let ring = IoUring::new(depth)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let room = ring.params().sq_entries() as usize;
        Ok(Self {
            ring,
            in_flight: (0..room).map(|_| None).collect(),
            free: (0..room).rev().collect(),
            event,
            waiting: false,
        })
    }

    /// Readable when a job may be done: an eventfd, to be read by whoever waits for it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Jobs that are not done.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    /// Enters a job; gives it back if there is no room. [`Ring::submit`] starts it.
    pub fn push(&mut self, job: Job) -> Result<(), Job> {
        let Some(slot) = self.free.pop() else {
            return Err(job);
        };
        let fd = Fd(job.file.as_raw_fd());
        let (Action::Read(list, _) | Action::Write(list, _)) = &job.action;
        let vectors = list.vectors(0..list.len());
        let (p, n) = (vectors.as_ptr(), vectors.len() as u32);
        let entry = match &job.action {
            Action::Read(_, at) => opcode::Readv::new(fd, p, n).offset(*at).build(),
            Action::Write(_, at) => opcode::Writev::new(fd, p, n).offset(*at).build(),
        };
        self.in_flight[slot] = Some(InFlight {
            job,
            _vectors: vectors,
        });
        // SAFETY: the file, the vectors and the RAM they name are owned by `in_flight` until the kernel has
        // said that the job is done, in `take` or in `drop`.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) };
        pushed.expect("there are as many slots as submission entries, and both are taken here");
        self.waiting = true;
        Ok(())
    }

    /// Has the kernel start what was entered.
    pub fn submit(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.waiting) {
            loop {
                match self.ring.submit() {
                    Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                    Err(e) => {
                        self.waiting = true;
                        return Err(e);
                    }
                    Ok(_) => break,
                }
            }
        }
        Ok(())
    }

    /// A job that is done, if any.
    pub fn take(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        let slot = entry.user_data() as usize;
        let InFlight { job, .. } = self.in_flight[slot].take().expect("the kernel says it once");
        self.free.push(slot);
        let result = match entry.result() {
            n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
            n => Ok(n as usize),
        };
        if let (Action::Read(list, _), Ok(n)) = (&job.action, &result) {
            list.tell_stored(0..*n);
        }
        Some(Done {
            token: job.token,
            result,
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // RAM must not be unmapped while the kernel may write to it.
        let _ = self.submit();
        while self.in_flight() > 0 {
            if self.take().is_none() && self.ring.submit_and_wait(1).is_err() {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::Ram;

    #[test]
    fn jobs_are_done_and_their_tokens_come_back() {
        let mut ring = match Ring::new(4) {
            Ok(ring) => ring,
            Err(e) => {
                eprintln!("SKIPPED: this host has no io_uring: {e}");
                return;
            }
        };
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let file = Arc::new(tempfile::tempfile().unwrap());
        let list = |at| {
            let mut s = Scatter::new(&ram);
            s.push(at, 4).unwrap();
            s.push(at + 0x3000, 4).unwrap();
            s
        };
        let (from, to) = (list(0x1000), list(0x10000));
        from.store(0, b"eight by");
        let wait = |ring: &mut Ring, action, token| {
            let job = Job {
                action,
                file: file.clone(),
                token,
                keep: None,
            };
            assert!(ring.push(job).is_ok());
            ring.submit().unwrap();
            loop {
                if let Some(done) = ring.take() {
                    assert_eq!(done.token, token);
                    return done.result.unwrap();
                }
            }
        };
        assert_eq!(wait(&mut ring, Action::Write(from, 512), 1), 8);
        assert_eq!(wait(&mut ring, Action::Read(to.clone(), 512), 3), 8);
        let mut out = [0; 8];
        to.load(0, &mut out);
        assert_eq!(&out, b"eight by");
        // More than there is room for.
        let again = || Job {
            action: Action::Read(to.clone(), 512),
            file: file.clone(),
            token: 9,
            keep: None,
        };
        while ring.push(again()).is_ok() {}
        assert_eq!(ring.in_flight(), 4);
        // Dropped with jobs that were never submitted.
    }
}
