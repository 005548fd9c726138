//! Runs cases on the host's processor, in a child process.
//!
//! [`NativeRunner`] forks a worker that maps the pages of [`crate::layout`] at their fixed addresses. The
//! two share one block of memory (`shared::Batch`): the parent fills in a batch of cases and wakes the
//! worker, the worker runs them one after the other and wakes the parent. Inside the worker a case is
//! entered with IRETQ, which loads RIP, CS, RFLAGS, RSP and SS at once; it leaves through the stub page,
//! where every path of the tested code ends, or through a signal, whose frame holds what the processor
//! saved. Either way nothing of the case is left when the next one starts.
//!
//! A worker that dies or does not answer is replaced, and the case it was at is reported.
//!
//! This is the only module with `unsafe` code.

pub mod crash;
mod segments;
mod shared;
mod stubs;
mod worker;

#[cfg(test)]
mod tests;

use crate::case::{Case, Mode};
use crate::layout::selector;
use crate::outcome::{End, Outcome};
use crate::regs::Regs;
use shared::{Input, Output};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The most cases in one batch.
pub const BATCH: usize = shared::BATCH;
/// The most bytes the patches of a case can have together.
pub const PATCH_BYTES: usize = shared::PATCH_BYTES;
/// The most patches of a case.
pub const PATCHES: usize = shared::PATCHES;
/// The most pieces of code of a case.
pub const PIECES: usize = shared::PIECES;

/// Why a case has no native outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NativeError {
    /// The worker died at this case of the batch.
    Died {
        /// Position in the batch.
        at: usize,
        /// Wait status.
        status: i32,
    },
    /// The worker did not finish this case in time.
    Hung {
        /// Position in the batch.
        at: usize,
    },
}

/// A worker process and the memory shared with it.
pub struct NativeRunner {
    batch: shared::Mapping,
    background: Vec<u64>,
    worker: Option<Worker>,
    timeout: Duration,
}

struct Worker {
    pid: libc::pid_t,
    socket: OwnedFd,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: `pid` is a child this value forked and nobody else waits for, so the number is still its.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &mut status, 0);
        }
    }
}

impl NativeRunner {
    /// Makes the shared memory and the first worker.
    pub fn new() -> io::Result<Self> {
        let mut runner = Self {
            batch: shared::Mapping::new()?,
            background: vec![0; crate::layout::SCRATCH_SIZE as usize / 8],
            worker: None,
            timeout: Duration::from_secs(5),
        };
        runner.respawn()?;
        Ok(runner)
    }

    /// How long a batch may take without an answer.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sets what the scratch and read-only areas hold before the patches of a case.
    pub fn set_background(&mut self, scratch: &[u64], read_only: &[u64]) {
        self.background.copy_from_slice(scratch);
        let b = self.batch.get();
        b.background.copy_from_slice(scratch);
        b.read_only.copy_from_slice(read_only);
        b.epoch += 1;
    }

    fn respawn(&mut self) -> io::Result<()> {
        self.worker = None;
        let mut pair = [0; 2];
        // SAFETY: `pair` has room for the two descriptors.
        if unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                0,
                pair.as_mut_ptr(),
            )
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: two fresh descriptors nobody else owns.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
        let batch = self.batch.as_ptr();
        let parent = std::process::id();
        // SAFETY: the child runs `worker::main` only, which allocates nothing, takes no lock and never
        // returns, as the child of a process with threads must.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => worker::main(batch, theirs.as_raw_fd(), parent),
            pid => {
                self.worker = Some(Worker { pid, socket: ours });
                Ok(())
            }
        }
    }

    /// Hands a batch of at most [`BATCH`] cases to the worker, which starts at once.
    pub fn start(&mut self, cases: &[Case]) -> io::Result<()> {
        let b = self.batch.get();
        b.count = cases.len() as u32;
        b.done = 0;
        for (slot, case) in b.inputs.iter_mut().zip(cases) {
            fill(slot, case);
        }
        if self.worker.is_none() {
            self.respawn()?;
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let worker = self.worker.as_ref().expect("a worker was just made");
        // SAFETY: one byte from a live buffer. A dead worker is found out in `finish`.
        unsafe {
            libc::send(
                worker.socket.as_raw_fd(),
                [1u8].as_ptr().cast(),
                1,
                libc::MSG_NOSIGNAL,
            )
        };
        Ok(())
    }

    /// Waits for the batch. Each case ends in an outcome or in the reason why there is none.
    pub fn finish(&mut self, cases: &[Case]) -> io::Result<Vec<Result<Outcome, NativeError>>> {
        let mut failures = Vec::new();
        loop {
            match self.wait()? {
                None => break,
                Some(error) => {
                    let at = match error {
                        NativeError::Died { at, .. } | NativeError::Hung { at } => at,
                    };
                    failures.push((at, error));
                    self.respawn()?;
                    // The rest of the batch is still to be run.
                    let b = self.batch.get();
                    b.done = at as u32 + 1;
                    (b.outputs[at].change_start, b.outputs[at].change_count) = (0, 0);
                    if at + 1 >= cases.len() {
                        break;
                    }
                    self.send()?;
                }
            }
        }
        let b = self.batch.get();
        let mut outcomes: Vec<_> = (b.outputs.iter().zip(cases))
            .map(|(output, case)| Ok(outcome(output, &b.changes, case)))
            .collect();
        for (at, error) in failures {
            outcomes[at] = Err(error);
        }
        Ok(outcomes)
    }

    /// `None` once the worker has answered.
    fn wait(&mut self) -> io::Result<Option<NativeError>> {
        let worker = self.worker.as_ref().expect("started");
        let mut poll = libc::pollfd {
            fd: worker.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = self.timeout.as_millis() as i32;
        let ready = loop {
            // SAFETY: one descriptor, on the stack.
            let n = unsafe { libc::poll(&mut poll, 1, timeout) };
            if n >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break n;
            }
        };
        let at = self.batch.get().done as usize;
        match ready {
            0 => return Ok(Some(NativeError::Hung { at })),
            n if n < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        let mut byte = 0u8;
        // SAFETY: one byte into a live buffer.
        let n = unsafe { libc::recv(worker.socket.as_raw_fd(), (&raw mut byte).cast(), 1, 0) };
        if n == 1 {
            return Ok(None);
        }
        let mut status = 0;
        // SAFETY: the worker's own pid; it has closed its socket, so it is gone or going.
        unsafe { libc::waitpid(worker.pid, &mut status, 0) };
        Ok(Some(NativeError::Died { at, status }))
    }

    /// Runs one batch to its end.
    pub fn run(&mut self, cases: &[Case]) -> io::Result<Vec<Result<Outcome, NativeError>>> {
        self.start(cases)?;
        self.finish(cases)
    }
}

/// Writes a case into its slot.
fn fill(slot: &mut Input, case: &Case) {
    let r = &case.before;
    slot.gpr = r.gpr;
    let code_selector = match case.mode {
        Mode::Long => selector::CODE64,
        Mode::Compat32 => selector::CODE32,
        Mode::Compat16 => selector::CODE16,
    };
    slot.frame = [
        r.rip,
        code_selector as u64,
        r.rflags,
        r.gpr[4],
        r.selectors[2] as u64,
    ];
    slot.bases = [r.fs_base, r.gs_base];
    slot.selectors = [r.selectors[3], r.selectors[0], r.selectors[4], r.selectors[5]];
    slot.xsave = r.to_xsave();
    slot.code_count = case.program.len() as u32;
    for (to, from) in slot.code.iter_mut().zip(&case.program) {
        to.address = from.address;
        to.len = from.len as u32;
        to.bytes = from.bytes;
    }
    let mut at = 0;
    slot.patch_count = case.patches.len() as u32;
    for (to, from) in slot.patches.iter_mut().zip(&case.patches) {
        *to = [from.offset as u32, from.bytes.len() as u32];
        slot.patch_data[at..at + from.bytes.len()].copy_from_slice(&from.bytes);
        at += from.bytes.len();
    }
}

/// Reads what the worker left.
fn outcome(output: &Output, changes: &[shared::Change], case: &Case) -> Outcome {
    let mut after = Regs {
        gpr: output.gpr,
        rip: output.rip,
        rflags: output.rflags,
        fs_base: output.bases[0],
        gs_base: output.bases[1],
        selectors: output.selectors,
        ..Regs::default()
    };
    after.set_xsave(&output.xsave);
    let end = match output.exit {
        shared::EXIT_STUB => End::Completed,
        _ => End::Exception {
            vector: output.vector as u8,
            error_code: output.error_code as u32,
            cr2: (output.vector == 14).then_some(output.cr2),
        },
    };
    let range = output.change_start as usize..(output.change_start + output.change_count) as usize;
    let memory = changes[range]
        .iter()
        .map(|c| (c.word as usize * 8, c.value))
        .collect();
    let mut outcome = Outcome { end, after, memory };
    outcome.normalize(case.mode);
    outcome
}
