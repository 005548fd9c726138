//! Names the case in which this process crashes: an engine that makes machine code can take it down.

use std::cell::Cell;

thread_local! {
    static CASE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// This thread is at case `index` of `seed`.
pub fn at(seed: u64, index: u64) {
    CASE.set((seed, index));
}

/// From now on the case is written to standard error before the process dies of a signal.
pub fn install() {
    // SAFETY: a zeroed sigaction is valid; the handler only does what a handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ] {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Writes the case and leaves as a shell reports a signal.
extern "C" fn handler(signal: i32) {
    let (seed, index) = CASE.get();
    let mut line = [b' '; 64];
    let mut at = line.len();
    let mut put = |b: u8| {
        at -= 1;
        line[at] = b;
    };
    put(b'\n');
    for (mut n, end) in [(index, b':'), (seed, b' ')] {
        loop {
            put(b'0' + (n % 10) as u8);
            n /= 10;
            if n == 0 {
                break;
            }
        }
        put(end);
    }
    b"CRASH: --replay".iter().rev().for_each(|&b| put(b));
    // SAFETY: a live buffer; both calls are safe in handlers.
    unsafe {
        libc::write(2, line[at..].as_ptr().cast(), line.len() - at);
        libc::_exit(128 + signal)
    }
}
