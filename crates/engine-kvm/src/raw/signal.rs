//! Getting a thread out of the guest: a signal, whose handler also sets the vCPU's `immediate_exit`, so that a
//! signal that comes just before KVM_RUN is not lost (Linux, virt/kvm/api, "immediate_exit").

use donjon_engine::Kick;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::null;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(null()) };
}

/// Nobody else's: the standard library and the shells use none of the real-time signals.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

extern "C" fn handle(_: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: while it is not null the vCPU is there: `Listening` sets and clears it, on this thread.
        unsafe { (*flag).store(1, SeqCst) };
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one; the handler only does what is allowed in one, an access
        // to a thread-local without destructor and an atomic store.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}

/// This thread can be got out of its vCPU, until this is dropped.
pub struct Listening {
    flag: *const AtomicU8,
    // The thread that made it drops it.
    _here: PhantomData<*const ()>,
}

impl Listening {
    /// # Safety
    ///
    /// `flag` outlives the result.
    pub(super) unsafe fn new(flag: &AtomicU8) -> Self {
        install();
        // In this order: a signal from now on is seen.
        flag.store(0, SeqCst);
        IMMEDIATE_EXIT.set(flag);
        Self {
            flag,
            _here: PhantomData,
        }
    }

    /// Forgets kicks up to now. To be followed by a look at what they may have been for.
    pub fn reset(&self) {
        // SAFETY: it outlives this.
        unsafe { (*self.flag).store(0, SeqCst) };
    }

    /// Has the vCPU's next run end at once, when what the guest is in the middle of is done.
    pub fn set(&self) {
        // SAFETY: it outlives this.
        unsafe { (*self.flag).store(1, SeqCst) };
    }

    /// Kicks this thread.
    pub fn kicker(&self) -> Kicker {
        // SAFETY: no arguments.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
        Kicker { thread }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null());
    }
}

/// Gets a thread out of its vCPU. Whoever holds it sees to it that the thread is still there.
#[derive(Debug)]
pub struct Kicker {
    thread: libc::pid_t,
}

impl Kick for Kicker {
    fn kick(&self) {
        // SAFETY: numbers only. If the thread is gone the call fails; a signal to another thread of this process
        // is harmless.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, signal()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_sets_the_flag_of_the_thread_it_is_for() {
        let flag = AtomicU8::new(7);
        // SAFETY: declared before, so dropped after.
        let listening = unsafe { Listening::new(&flag) };
        assert_eq!(flag.load(SeqCst), 0);
        let kicker = listening.kicker();
        std::thread::scope(|s| {
            s.spawn(move || kicker.kick());
        });
        while flag.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        listening.reset();
        assert_eq!(flag.load(SeqCst), 0);
        let kicker = listening.kicker();
        drop(listening);
        kicker.kick();
        assert_eq!(flag.load(SeqCst), 0);
    }
}
