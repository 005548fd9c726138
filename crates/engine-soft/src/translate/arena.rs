//! Host memory that holds translated code, and the way in and out of it. The only `unsafe` of the crate.
//!
//! **W^X.** The arena is shared memory mapped twice, once writable and once executable; no mapping is both. It
//! is anonymous, because perf(1) takes a memfd for a file and then looks for no names of code made at run time.
//!
//! **What translated code may touch.** Code gets here through [`Arena::append`] alone, from one place, the
//! emitter. What it emits reaches memory in three ways only: at a constant offset from RSP inside the
//! [`Frame`]; through the pointers to the vCPU's registers that [`Arena::enter`] puts there; and at a host
//! address taken from an entry of a translation table whose linear page was just compared, within that
//! page. Entries are made from pages of guest RAM only, so nothing a guest computes leads elsewhere.
//!
//! **Faults of the host CPU.** A few translated instructions may fault by themselves: divisions, vector
//! accesses that must be aligned, stores to a page that was write-protected. Each is noted with the place
//! that goes on instead ([`Arena::on_fault`]); the signal handler looks the instruction up and resumes
//! there. Any other fault is not ours and goes to whoever handled it before.
#![allow(unsafe_code)]

use super::frame::{Frame, offset};
use super::trampolines::{self, Trampolines};
use crate::cpu::Cpu;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags, mmap_anonymous, mprotect, mremap, munmap};
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Stack below the frame: a signal that has no stack of its own is handled there.
const STACK: usize = 256 << 10;

/// Where code goes on if the host CPU faults at an instruction: both are arena offsets.
#[derive(Clone, Copy)]
struct OnFault {
    at: u32,
    to: u32,
}

/// What the signal handler needs to know about the code that a thread runs.
struct Running {
    start: u64,
    end: u64,
    faults: *const OnFault,
    count: usize,
    /// A store to a page that cannot be written was among them.
    faulted: Cell<bool>,
}

thread_local! {
    static RUNNING: Cell<*const Running> = const { Cell::new(std::ptr::null()) };
    static READY: Cell<bool> = const { Cell::new(false) };
}

/// Translated code of one vCPU, and the frame it works on.
pub struct Arena {
    writable: NonNull<u8>,
    executable: u64,
    len: usize,
    /// Ends of the code in use: the usual course grows from the bottom, the rest from `split`.
    used: [usize; 2],
    split: usize,
    region: NonNull<u8>,
    on_fault: Vec<OnFault>,
    pub trampolines: Trampolines,
    faulted: bool,
    /// Where code begins that [`Arena::reset`] drops.
    first: usize,
}

// SAFETY: both mappings belong to this value alone; nothing about them is tied to a thread.
unsafe impl Send for Arena {}

/// Bytes of the mapping with the frame in it.
const REGION: usize = (STACK + size_of::<Frame>()).next_multiple_of(4096);

impl Arena {
    /// Maps `len` bytes for code, with the ways in and out in place.
    pub fn new(len: usize) -> io::Result<Self> {
        install_handlers()?;
        let len = len.next_multiple_of(4096);
        // A little more than half of what is emitted is run usually.
        let split = (len / 8 * 5).next_multiple_of(64);
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let writable = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
            )
        }?;
        // SAFETY: the mapping just made; with an old size of zero it stays as it is, and the same pages are
        // mapped once more where the kernel chooses. Nothing refers to that one before it is executable.
        let executable = unsafe {
            let twice = mremap(writable, 0, len, MremapFlags::MAYMOVE)?;
            mprotect(twice, len, MprotectFlags::READ | MprotectFlags::EXEC)?;
            twice
        };
        // SAFETY: as above.
        let region = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                REGION,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mut arena = Self {
            writable: NonNull::new(writable.cast()).expect("mmap never returns null"),
            executable: executable as u64,
            len,
            used: [0, split],
            split,
            region: NonNull::new(region.cast()).expect("mmap never returns null"),
            on_fault: vec![],
            trampolines: Trampolines::default(),
            faulted: false,
            first: 0,
        };
        let (code, trampolines) = trampolines::emit();
        // SAFETY: the trampolines keep to the frame and to what `enter` puts into it.
        unsafe { arena.append(0, &code) };
        arena.trampolines = trampolines;
        arena.first = arena.used[0];
        let frame = arena.frame_mut();
        frame.reset_tables();
        frame.fill = fill as *const () as u64;
        frame.step = step as *const () as u64;
        Ok(arena)
    }

    fn frame_pointer(&self) -> *mut Frame {
        // SAFETY: STACK is inside the region.
        unsafe { self.region.as_ptr().add(STACK).cast() }
    }

    /// The frame.
    #[inline(always)]
    pub fn frame(&self) -> &Frame {
        // SAFETY: mapped, aligned (STACK is), all bit patterns are valid, and no code runs while `self` is
        // borrowed.
        unsafe { &*self.frame_pointer() }
    }

    /// The frame, to change it.
    #[inline(always)]
    pub fn frame_mut(&mut self) -> &mut Frame {
        // SAFETY: as in `frame`; `self` is borrowed exclusively.
        unsafe { &mut *self.frame_pointer() }
    }

    /// Where the next code goes, and what is out of its way.
    pub fn used(&self) -> [usize; 2] {
        self.used
    }

    /// Bytes of code besides the trampolines.
    pub fn in_use(&self) -> usize {
        self.used[0] - self.first + self.used[1] - self.split
    }

    /// Bytes there are.
    pub fn size(&self) -> usize {
        self.len - self.first
    }

    /// Whether `n` more bytes fit in both places.
    pub fn has_room(&self, n: usize) -> bool {
        self.split - self.used[0] >= n && self.len - self.used[1] >= n
    }

    /// Whether `n` bytes at `at` are code.
    fn is_code(&self, at: usize, n: usize) -> bool {
        at + n <= self.used[0] || at >= self.split && at + n <= self.used[1]
    }

    /// The address code at arena offset `at` runs at.
    pub fn address(&self, at: usize) -> u64 {
        self.executable + at as u64
    }

    /// Adds code at [`Arena::used`], in the place with that number.
    ///
    /// # Safety
    /// The code keeps to what the module's documentation says of translated code.
    pub unsafe fn append(&mut self, place: usize, code: &[u8]) {
        assert!(self.has_room(code.len()), "the arena is full");
        let used = &mut self.used[place];
        // SAFETY: inside the writable mapping, which nothing else refers to.
        unsafe {
            let to = self.writable.as_ptr().add(*used);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
        *used += code.len();
    }

    /// Adds what the emitter made, at [`Arena::used`].
    pub(super) fn append_emitted(&mut self, code: &[Vec<u8>; 2]) {
        for (place, code) in code.iter().enumerate() {
            // SAFETY: the emitter keeps to the rules; this is the one place its code comes through.
            unsafe { self.append(place, code) }
        }
    }

    /// Makes the 32-bit displacement at `at`, the end of a direct jump, lead to `to`.
    pub fn link(&mut self, at: usize, to: usize) {
        assert!(
            self.is_code(at, 4) && self.is_code(to, 1),
            "a jump inside the arena"
        );
        let rel = (to as i64 - (at + 4) as i64) as i32;
        // SAFETY: inside the writable mapping; no code runs while `self` is borrowed.
        unsafe { self.writable.as_ptr().add(at).cast::<i32>().write_unaligned(rel) };
    }

    /// Makes a way into old code a jump to new code.
    pub fn redirect(&mut self, at: usize, to: usize) {
        assert!(self.is_code(at, 5), "a jump inside the arena");
        // SAFETY: inside the writable mapping; no code runs while `self` is borrowed, so none is inside
        // the bytes that change.
        unsafe { self.writable.as_ptr().add(at).write(0xe9) };
        self.link(at + 1, to);
    }

    /// Says where to go on if the host CPU faults at the instruction at `at`. In ascending order of `at`.
    pub fn on_fault(&mut self, at: usize, to: usize) {
        debug_assert!(self.on_fault.last().is_none_or(|f| f.at < at as u32));
        self.on_fault.push(OnFault {
            at: at as u32,
            to: to as u32,
        });
    }

    /// Drops all code and every reference to it.
    pub fn reset(&mut self) {
        self.used = [self.first, self.split];
        self.on_fault.clear();
    }

    /// Runs code at arena offset `at` on the guest's registers until it takes an exit.
    pub fn enter(&mut self, cpu: &mut Cpu, at: usize) {
        if !READY.get() {
            ready_thread();
        }
        assert!(at >= self.first && self.is_code(at, 1));
        let running = Running {
            start: self.executable,
            end: self.executable + self.len as u64,
            faults: self.on_fault.as_ptr(),
            count: self.on_fault.len(),
            faulted: Cell::new(false),
        };
        let to = self.address(at);
        let frame = self.frame_pointer();
        let cpu: *mut Cpu = cpu;
        // SAFETY: the pointers stay valid until the call returns: `cpu` and `self` are borrowed exclusively
        // for that long. The trampoline keeps the C calling convention, the code keeps to its rules.
        unsafe {
            (*frame).regs = (&raw mut (*cpu).regs) as u64;
            (*frame).ymm = (&raw mut (*cpu).ymm) as u64;
            (*frame).fill_with = cpu as u64;
            let enter: extern "C" fn(*mut Frame, u64) =
                std::mem::transmute(self.address(self.trampolines.enter) as usize);
            RUNNING.set(&running);
            enter(frame, to);
        }
        RUNNING.set(std::ptr::null());
        self.faulted |= running.faulted.get();
    }

    /// Whether a store met a page that cannot be written since this was last asked.
    pub fn take_faulted(&mut self) -> bool {
        std::mem::take(&mut self.faulted)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mappings made in `new`, which nothing refers to any more.
        unsafe {
            let _ = munmap(self.writable.as_ptr().cast(), self.len);
            let _ = munmap(self.executable as *mut _, self.len);
            let _ = munmap(self.region.as_ptr().cast(), REGION);
        }
    }
}

/// What translated code calls when a page is not in its table: see [`Cpu::fill_page`].
extern "C" fn fill(frame: *mut Frame, linear: u64, request: u32) -> u32 {
    // SAFETY: called by the fill trampoline only, with the frame that `enter` was called with; the vCPU is
    // the one `enter` borrows, and translated code does not run meanwhile.
    unsafe {
        let cpu = (*frame).fill_with as *mut Cpu;
        (*cpu).fill_page(&mut *frame, linear, request) as u32
    }
}

/// What translated code calls to have an instruction interpreted: see [`Cpu::step_directly`].
extern "C" fn step(frame: *mut Frame, continuation: u64) -> u64 {
    // SAFETY: as in `fill`.
    unsafe {
        let cpu = (*frame).fill_with as *mut Cpu;
        (*cpu).step_directly(&mut *frame, continuation)
    }
}

/// Signals that a translated instruction can cause.
const SIGNALS: [i32; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];
static PREVIOUS: [OnceLock<libc::sigaction>; 3] = [const { OnceLock::new() }; 3];

/// Puts [`on_signal`] before the process's own handlers, once.
fn install_handlers() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        for (signal, previous) in SIGNALS.iter().zip(&PREVIOUS) {
            // SAFETY: plain data for the kernel; the handler is async-signal-safe.
            unsafe {
                let mut old: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(*signal, std::ptr::null(), &mut old) != 0 {
                    return Err(*libc::__errno_location());
                }
                let _ = previous.set(old);
                let mut new: libc::sigaction = std::mem::zeroed();
                new.sa_sigaction = on_signal as *const () as usize;
                new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&mut new.sa_mask);
                if libc::sigaction(*signal, &new, std::ptr::null_mut()) != 0 {
                    return Err(*libc::__errno_location());
                }
            }
        }
        Ok(())
    };
    DONE.get_or_init(install).map_err(io::Error::from_raw_os_error)
}

/// Gives the thread a stack for signals unless it has one, as those of the standard library do.
#[cold]
fn ready_thread() {
    const SIZE: usize = 64 << 10;
    // SAFETY: plain data for the kernel. The new stack is leaked: it must live as long as the thread.
    unsafe {
        let mut old: libc::stack_t = std::mem::zeroed();
        if libc::sigaltstack(std::ptr::null(), &mut old) == 0 && old.ss_flags & libc::SS_DISABLE != 0 {
            let stack = Box::leak(vec![0u8; SIZE].into_boxed_slice());
            let new = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: SIZE,
            };
            libc::sigaltstack(&new, std::ptr::null_mut());
        }
    }
    READY.set(true);
}

/// Resumes a translated instruction that faulted where its note says; hands everything else on.
extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let running = RUNNING.get();
    // SAFETY: the kernel passes a valid context. `running`, if set, is on the stack of `enter`, which has
    // not returned: the handler runs on that thread.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize] as u64;
        if let Some(r) = running.as_ref()
            && (r.start..r.end).contains(&rip)
        {
            let at = (rip - r.start) as u32;
            let faults = std::slice::from_raw_parts(r.faults, r.count);
            if let Ok(n) = faults.binary_search_by_key(&at, |f| f.at) {
                r.faulted.set(r.faulted.get() | (signal == libc::SIGSEGV));
                registers[libc::REG_RIP as usize] = (r.start + faults[n].to as u64) as i64;
                return;
            }
        }
        let n = SIGNALS.iter().position(|s| *s == signal).unwrap_or(0);
        let old = PREVIOUS[n].get();
        match old.map_or(libc::SIG_DFL, |o| o.sa_sigaction) {
            libc::SIG_DFL | libc::SIG_IGN => {
                // Back to the default: the instruction faults again and ends the process.
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &default, std::ptr::null_mut());
            }
            handler if old.is_some_and(|o| o.sa_flags & libc::SA_SIGINFO != 0) => {
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(i32) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

/// Where the frame's fields are is part of what the emitted code assumes.
const _: () = assert!(offset::SPILLED == 0 && offset::TARGET < 128 && STACK.is_multiple_of(64));
