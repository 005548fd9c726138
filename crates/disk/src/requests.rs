//! One queue's requests.

use crate::guest::Guest;
use crate::{Disk, SECTOR};
use donjon_memory::Scatter;
use donjon_memory::uring::{Action, Job, Ring};
use donjon_service::{Wait, Waited};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The most transfers of one queue in the kernel's hands at once.
const DEPTH: u32 = 128;
/// How long a write waits before it is tried again when the host's file system is full.
const RETRY: Duration = Duration::from_secs(1);

/// What a request wants.
pub enum Operation {
    /// Fill the list from the disk.
    Read(Scatter),
    /// Write the list to the disk.
    Write(Scatter),
    /// Make everything durable that was written by requests done before.
    Flush,
    /// The range is of no use any more; it reads as zeroes or as it was.
    Discard {
        /// Bytes.
        len: u64,
    },
    /// The range is to read as zeroes.
    WriteZeroes {
        /// Bytes.
        len: u64,
        /// It need not stay allocated.
        unmap: bool,
    },
}

impl Operation {
    fn len(&self) -> u64 {
        match self {
            Self::Read(list) | Self::Write(list) => list.len() as u64,
            Self::Discard { len } | Self::WriteZeroes { len, .. } => *len,
            Self::Flush => 0,
        }
    }

    fn writes(&self) -> bool {
        !matches!(self, Self::Read(_) | Self::Flush)
    }

    /// What counts towards the disk's bandwidth.
    fn transfers(&self) -> u64 {
        match self {
            Self::Read(list) | Self::Write(list) => list.len() as u64,
            _ => 0,
        }
    }
}

/// One request.
pub struct Request {
    /// Comes back with the result.
    pub token: u64,
    /// Where on the disk, in bytes; of no meaning for a flush.
    pub offset: u64,
    /// What.
    pub operation: Operation,
}

/// What other threads have finished.
struct Finished {
    done: Mutex<Vec<(Request, io::Result<()>)>>,
    event: OwnedFd,
}

impl Finished {
    fn lock(&self) -> MutexGuard<'_, Vec<(Request, io::Result<()>)>> {
        self.done.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// The requests of one queue, for one thread at a time.
///
/// Requests that are under way when this is dropped are waited for; their results are lost.
pub struct Requests {
    disk: Arc<Disk>,
    ring: Option<Ring>,
    /// [`Requests::files`], for [`Wait`].
    waited: Vec<Waited>,
    /// Transfers in the kernel's hands, by their token there.
    in_kernel: HashMap<u64, Request>,
    next: u64,
    /// With workers.
    out: usize,
    finished: Arc<Finished>,
    /// Not begun: there is no room in the ring, or they must not block the thread they came on.
    waiting: VecDeque<Request>,
    /// Beyond the disk's limit until then.
    limited_until: Option<Instant>,
    /// To be tried again when the host's file system may have room.
    full: Vec<Request>,
    retry_at: Option<Instant>,
    /// The limit no longer counts: it is being stopped.
    hurry: bool,
    done: VecDeque<(u64, io::Result<()>)>,
}

impl Requests {
    /// None yet.
    pub fn new(disk: &Arc<Disk>) -> io::Result<Self> {
        let ring = if disk.background {
            Ring::new(DEPTH)
                .inspect_err(|e| tracing::debug!("no io_uring ({e}): disks use threads"))
                .ok()
        } else {
            None
        };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let files = ring.iter().map(Ring::fd).chain([event.as_fd()]);
        let waited = files
            .map(|f| Ok((Arc::new(f.try_clone_to_owned()?) as _, PollFlags::IN)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            disk: disk.clone(),
            waited,
            ring,
            in_kernel: HashMap::new(),
            next: 0,
            out: 0,
            finished: Arc::new(Finished {
                done: Mutex::default(),
                event,
            }),
            waiting: VecDeque::new(),
            limited_until: None,
            full: vec![],
            retry_at: None,
            hurry: false,
            done: VecDeque::new(),
        })
    }

    /// What a service with these requests waits for. The files stay the same.
    pub fn wait(&self) -> Wait {
        Wait {
            files: self.waited.clone(),
            until: self.until(),
        }
    }

    /// Files that are readable when [`Requests::run`] has something to do.
    fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ring = self.ring.iter().map(Ring::fd);
        ring.chain([self.finished.event.as_fd()])
    }

    /// A time at which [`Requests::run`] has something to do.
    pub fn until(&self) -> Option<Instant> {
        match (self.limited_until, self.retry_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Requests that are not done.
    pub fn pending(&self) -> usize {
        self.in_kernel.len() + self.out + self.waiting.len() + self.full.len()
    }

    /// Enters a request. [`Requests::run`] begins it.
    pub fn submit(&mut self, request: Request) {
        if let Err(e) = self.check(&request) {
            self.done.push_back((request.token, Err(e)));
        } else {
            self.waiting.push_back(request);
        }
    }

    /// Whether it lies on the disk and is allowed.
    fn check(&self, request: &Request) -> io::Result<()> {
        let operation = &request.operation;
        if operation.writes() && self.disk.read_only() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let end = request.offset.checked_add(operation.len());
        let fits = matches!(operation, Operation::Flush) || end.is_some_and(|end| end <= self.disk.size());
        let whole = request.offset.is_multiple_of(SECTOR) && operation.len().is_multiple_of(SECTOR);
        if fits && (whole || matches!(operation, Operation::Flush)) {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Begins what can be begun and notes what is done. On a thread that must not block (`may_block` false) it may
    /// leave some for later: `true` says so.
    pub fn run(&mut self, may_block: bool) -> bool {
        self.collect(may_block);
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            for request in std::mem::take(&mut self.full).into_iter().rev() {
                self.waiting.push_front(request);
            }
        }
        let mut left = false;
        self.limited_until = None;
        while let Some(request) = self.waiting.pop_front() {
            if let Err(wait) = self.pass(&request) {
                self.limited_until = Some(Instant::now() + wait);
                self.waiting.push_front(request);
                break;
            }
            if let Some(request) = self.begin(request, may_block) {
                // Comes by here again, without having used up anything.
                self.disk.limiter.refund(request.operation.transfers());
                self.waiting.push_front(request);
                left = true;
                break;
            }
        }
        if let Some(ring) = &mut self.ring
            && let Err(e) = ring.submit()
        {
            // Transient (EAGAIN, EBUSY): the next run tries again.
            tracing::debug!("io_uring: {e}");
            self.retry_at
                .get_or_insert(Instant::now() + Duration::from_millis(1));
        }
        // Some may have been done at once.
        self.collect(false);
        // Who waits may be asleep, and must hear of the time to wake up as well.
        !may_block && (left || self.until().is_some())
    }

    /// A request that is done: its token and how it went.
    pub fn take(&mut self) -> Option<(u64, io::Result<()>)> {
        self.done.pop_front()
    }

    /// Waits until everything is done, limit or not. Writes that wait for room on the host fail.
    pub fn drain(&mut self) {
        self.hurry = true;
        loop {
            self.run(true);
            for request in std::mem::take(&mut self.full) {
                self.done
                    .push_back((request.token, Err(io::ErrorKind::StorageFull.into())));
            }
            self.retry_at = None;
            if self.pending() == 0 {
                self.hurry = false;
                return;
            }
            self.sleep();
        }
    }

    fn sleep(&self) {
        use rustix::event::{PollFd, Timespec, poll};
        let mut files: Vec<_> = self
            .files()
            .map(|f| PollFd::from_borrowed_fd(f, PollFlags::IN))
            .collect();
        let left = self.until().map_or(Duration::from_millis(100), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let _ = poll(&mut files, Some(&timeout));
    }

    fn pass(&self, request: &Request) -> Result<(), Duration> {
        let limiter = &self.disk.limiter;
        if self.hurry || limiter.is_unlimited() || matches!(request.operation, Operation::Flush) {
            return Ok(());
        }
        limiter.take(Instant::now(), request.operation.transfers())
    }

    /// Begins a request; gives it back if this is not the place or the time for it.
    fn begin(&mut self, request: Request, may_block: bool) -> Option<Request> {
        let writes = request.operation.writes();
        let direct = match &request.operation {
            Operation::Read(list) | Operation::Write(list) if !list.is_empty() => {
                self.disk.image.direct(request.offset, list.len() as u64, writes)
            }
            _ => None,
        };
        if let (Some(direct), Some(ring)) = (direct, &mut self.ring) {
            if let Operation::Read(list) = &request.operation
                && list.read_cached(direct.file.as_fd(), direct.at)
            {
                self.done.push_back((request.token, Ok(())));
                return None;
            }
            let action = match &request.operation {
                Operation::Read(list) => Action::Read(list.clone(), direct.at),
                Operation::Write(list) => Action::Write(list.clone(), direct.at),
                _ => unreachable!("only transfers go directly"),
            };
            let token = self.next;
            let job = Job {
                action,
                file: direct.file,
                token,
                keep: Some(Box::new(direct.pin)),
            };
            if ring.push(job).is_err() {
                return Some(request);
            }
            self.next += 1;
            self.in_kernel.insert(token, request);
            return None;
        }
        match &request.operation {
            // The image has to do more than transfer, but all of it in the host's page cache.
            Operation::Read(_) | Operation::Write(_) if self.ring.is_some() => {
                if !may_block {
                    return Some(request);
                }
                let result = perform(&self.disk, &request);
                self.conclude(request, result);
            }
            _ => self.hand_over(request),
        }
        None
    }

    /// Has a worker do it.
    fn hand_over(&mut self, request: Request) {
        let (disk, finished) = (self.disk.clone(), self.finished.clone());
        self.out += 1;
        self.disk.workers.run(move || {
            let result = perform(&disk, &request);
            // Before anyone hears of it: the image is closed when the last one lets go.
            drop(disk);
            finished.lock().push((request, result));
            finished.wake();
        });
    }

    /// Takes what others have finished; with `heard` it is for this that the thread was woken.
    fn collect(&mut self, heard: bool) {
        if heard {
            for file in self.files() {
                let _ = rustix::io::read(file, &mut [0; 8]);
            }
        }
        while let Some(done) = self.ring.as_mut().and_then(Ring::take) {
            let (token, result) = (done.token, done.result);
            let request = self.in_kernel.remove(&token).expect("it was sent from here");
            let result = match result {
                Ok(n) if n as u64 == request.operation.len() => Ok(()),
                // Past a file's end, or interrupted: the image knows what that means.
                Ok(_) => perform(&self.disk, &request),
                Err(e) => Err(e),
            };
            self.conclude(request, result);
        }
        if self.out == 0 {
            return;
        }
        let finished = std::mem::take(&mut *self.finished.lock());
        self.out -= finished.len();
        for (request, result) in finished {
            self.conclude(request, result);
        }
    }

    fn conclude(&mut self, request: Request, result: io::Result<()>) {
        match result {
            Err(e) if is_full(&e) && request.operation.writes() => {
                self.disk.set_full(true);
                self.full.push(request);
                self.retry_at = Some(Instant::now() + RETRY);
            }
            result => {
                if result.is_ok() && request.operation.writes() {
                    self.disk.set_full(false);
                }
                self.done.push_back((request.token, result));
            }
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.waiting.clear();
        self.drain();
    }
}

/// No space, or beyond a quota.
fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn perform(disk: &Disk, request: &Request) -> io::Result<()> {
    let (image, at) = (&disk.image, request.offset);
    match &request.operation {
        Operation::Read(list) => image.read(at, &Guest(list)),
        Operation::Write(list) => image.write(at, &Guest(list)),
        Operation::Flush => image.flush(),
        Operation::Discard { len } => image.discard(at, *len),
        Operation::WriteZeroes { len, unmap } => image.write_zeroes(at, *len, *unmap),
    }
}
