//! The worker process. It is the child of a process that may have threads, so it allocates nothing, takes
//! no lock and never panics; what it cannot do it dies of, and the parent says so.

use super::segments;
use super::shared::{Batch, Change, EXIT_SIGNAL, EXIT_STUB, Input, Output, WORDS};
use super::stubs::{self, State};
use crate::layout::*;
use crate::regs::XSAVE_SIZE;
use std::ptr;

/// Exit status: a page could not be mapped.
const NO_PAGES: i32 = 70;
/// Exit status: a signal could not be set up.
const NO_SIGNALS: i32 = 71;
/// Exit status: no LDT.
const NO_LDT: i32 = 72;

fn die(status: i32) -> ! {
    // SAFETY: ends this process without running anything of its parent's.
    unsafe { libc::_exit(status) }
}

/// Maps private memory at a fixed address, touched so that no first access faults later.
fn map(address: u64, size: u64, protection: i32, fill: impl FnOnce(*mut u8)) {
    let (p, size) = (address as *mut libc::c_void, size as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
    // SAFETY: NOREPLACE refuses an address where something is already.
    let got = unsafe { libc::mmap(p, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if got != p {
        die(NO_PAGES);
    }
    fill(p.cast());
    // SAFETY: the mapping just made.
    if unsafe { libc::mprotect(p, size, protection) } != 0 {
        die(NO_PAGES);
    }
}

/// The signals exceptions arrive as (Linux, arch/x86/kernel/traps.c).
const SIGNALS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];
const SIGNAL_STACK_SIZE: usize = 0x1_0000;

fn set_signals() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address the kernel chooses, far above those that cases reach.
    let stack = unsafe { libc::mmap(ptr::null_mut(), SIGNAL_STACK_SIZE, write, flags, -1, 0) };
    if stack == libc::MAP_FAILED {
        die(NO_SIGNALS);
    }
    let stack = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: SIGNAL_STACK_SIZE,
    };
    // SAFETY: the stack is mapped and used for nothing else; the handler is the code in the stub page.
    unsafe {
        if libc::sigaltstack(&stack, ptr::null_mut()) != 0 {
            die(NO_SIGNALS);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stubs::HANDLER as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in SIGNALS {
            if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
                die(NO_SIGNALS);
            }
        }
    }
}

fn state() -> *mut State {
    STATE as *mut State
}

/// What the signal frame says beyond what the state block holds.
#[repr(C)]
struct Signal {
    rip: u64,
    error_code: u64,
    cr2: u64,
    vector: u32,
}

/// Where the handler leaves it: at the end of the state block's page.
fn record() -> *mut Signal {
    (STATE + PAGE - size_of::<Signal>() as u64) as *mut Signal
}

/// The handler's Rust part; the stub has restored the flags and FS before it.
extern "C" fn on_signal(_number: i32, _info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
    // SAFETY: the kernel's frame for a handler with SA_SIGINFO; its FPU image is in standard XSAVE format
    // and holds AVX when the software bytes say so (Linux, asm/sigcontext.h). The state block and the
    // record behind it are mapped, and the worker waits for this handler.
    unsafe {
        let machine = &(*context).uc_mcontext;
        let g = |r: i32| machine.gregs[r as usize] as u64;
        let s = &mut *state();
        use libc::*;
        s.gpr_out = [
            g(REG_RAX),
            g(REG_RCX),
            g(REG_RDX),
            g(REG_RBX),
            g(REG_RSP),
            g(REG_RBP),
            g(REG_RSI),
            g(REG_RDI),
            g(REG_R8),
            g(REG_R9),
            g(REG_R10),
            g(REG_R11),
            g(REG_R12),
            g(REG_R13),
            g(REG_R14),
            g(REG_R15),
        ];
        s.rflags_out = g(REG_EFL);
        s.selectors_out[1] = g(REG_CSGSFS) as u16;
        s.selectors_out[2] = (g(REG_CSGSFS) >> 48) as u16;
        *record() = Signal {
            rip: g(REG_RIP),
            error_code: g(REG_ERR),
            cr2: g(REG_CR2),
            vector: g(REG_TRAPNO) as u32,
        };
        let image = machine.fpregs.cast::<u8>();
        if image.add(464).cast::<u32>().read_unaligned() != FP_XSTATE_MAGIC1 {
            die(NO_SIGNALS);
        }
        ptr::copy_nonoverlapping(image, s.xsave_out.as_mut_ptr(), XSAVE_SIZE);
    }
}

/// Serves batches until the parent goes away.
pub fn main(batch: *mut Batch, socket: i32, parent: u32) -> ! {
    // SAFETY: no memory involved. If the parent died before this took effect, getppid tells.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() as u32 != parent {
            die(0);
        }
    }
    let execute = libc::PROT_READ | libc::PROT_EXEC;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    map(CODE, CODE_SIZE, execute | write, |p| {
        // SAFETY: `p` is a writable mapping of the size just asked for.
        unsafe { p.write_bytes(CODE_FILL, CODE_SIZE as usize) }
    });
    map(STUB, PAGE, execute, |p| {
        // SAFETY: as above; the source is a whole page.
        unsafe { ptr::copy_nonoverlapping(stubs::page().as_ptr(), p, PAGE as usize) }
    });
    map(STATE, PAGE, write, |_| {});
    map(SCRATCH, SCRATCH_SIZE, write, |_| {});
    map(READ_ONLY, PAGE, libc::PROT_READ, |_| {});
    if !segments::install() {
        die(NO_LDT);
    }
    set_signals();
    // SAFETY: the state block was mapped above and is all zeros, which is a valid `State`.
    unsafe {
        (*state()).host_mxcsr = 0x1f80;
        (*state()).handler = on_signal as *const () as u64;
    }
    let mut epoch = 0;
    loop {
        let mut byte = 0u8;
        // SAFETY: one byte into a live buffer.
        if unsafe { libc::recv(socket, (&raw mut byte).cast(), 1, 0) } != 1 {
            die(0);
        }
        // SAFETY: between its message and the answer the parent leaves the batch to the worker.
        let b = unsafe { &mut *batch };
        if b.epoch != epoch {
            epoch = b.epoch;
            set_background(b);
        }
        serve(b);
        // SAFETY: one byte from a live buffer.
        unsafe { libc::send(socket, (&raw const byte).cast(), 1, libc::MSG_NOSIGNAL) };
    }
}

fn set_background(b: &Batch) {
    let read_only = READ_ONLY as *mut libc::c_void;
    // SAFETY: both areas were mapped in `main` with the sizes of the sources.
    unsafe {
        libc::mprotect(read_only, PAGE as usize, libc::PROT_READ | libc::PROT_WRITE);
        ptr::copy_nonoverlapping(b.read_only.as_ptr(), read_only.cast(), b.read_only.len());
        libc::mprotect(read_only, PAGE as usize, libc::PROT_READ);
        // Writing made the page present and private; reading it once more keeps it so.
        read_only.cast::<u64>().read_volatile();
        ptr::copy_nonoverlapping(b.background.as_ptr(), SCRATCH as *mut u64, WORDS);
    }
}

fn serve(b: &mut Batch) {
    let mut used = 0;
    if b.done > 0 {
        // A predecessor died in the middle: leave its changes alone, they were counted.
        for o in b.outputs.iter().take(b.done as usize) {
            used = used.max((o.change_start + o.change_count) as usize);
        }
    }
    while b.done < b.count {
        let i = b.done as usize;
        let (Some(input), Some(output)) = (b.inputs.get(i), b.outputs.get_mut(i)) else {
            die(NO_PAGES)
        };
        run(input, output);
        let Some(changes) = b.changes.get_mut(used..) else {
            die(NO_PAGES)
        };
        let count = collect(input, &b.background, changes);
        output.change_start = used as u32;
        output.change_count = count as u32;
        used += count;
        // The parent reads this if the worker dies.
        // SAFETY: a plain field of the shared block.
        unsafe { ptr::write_volatile(&mut b.done, i as u32 + 1) };
    }
}

/// Runs one case.
fn run(input: &Input, output: &mut Output) {
    // SAFETY: all addresses are those mapped in `main`; `fill` bounded the pieces and patches, and the
    // slices below check once more. The entry code keeps to the C calling convention.
    unsafe {
        let s = &mut *state();
        s.xsave_in = input.xsave;
        s.gpr_in = input.gpr;
        s.frame = input.frame;
        s.bases_in = input.bases;
        s.selectors_in = input.selectors;
        let scratch = SCRATCH as *mut u8;
        let mut data = &input.patch_data[..];
        for p in input.patches.iter().take(input.patch_count as usize) {
            let [offset, len] = p.map(|v| v as usize);
            let (now, rest) = data.split_at(len.min(data.len()));
            if offset + now.len() > SCRATCH_SIZE as usize {
                die(NO_PAGES);
            }
            ptr::copy_nonoverlapping(now.as_ptr(), scratch.add(offset), now.len());
            data = rest;
        }
        for piece in input.code.iter().take(input.code_count as usize) {
            write_code(piece.address, &piece.bytes, piece.len as usize);
        }
        let enter: extern "C" fn() = std::mem::transmute(stubs::ENTER as *const ());
        enter();
        let s = &*state();
        output.xsave = s.xsave_out;
        output.gpr = s.gpr_out;
        output.rflags = s.rflags_out;
        output.bases = s.bases_out;
        output.selectors = s.selectors_out;
        if s.stub == 0 {
            let signal = &*record();
            output.exit = EXIT_SIGNAL;
            output.rip = signal.rip;
            output.vector = signal.vector;
            output.error_code = signal.error_code;
            output.cr2 = signal.cr2;
        } else {
            output.exit = EXIT_STUB;
            output.rip = if s.stub == 1 { STUB_FALL } else { STUB_TAKEN };
        }
        if input.code_count as usize > crate::case::Case::PIECES {
            // A program may have stored anywhere in it.
            (CODE as *mut u8).write_bytes(CODE_FILL, CODE_SIZE as usize);
            return;
        }
        const FILL: [u8; crate::case::CodeBytes::MAX] = [CODE_FILL; crate::case::CodeBytes::MAX];
        for piece in input.code.iter().take(input.code_count as usize) {
            write_code(piece.address, &FILL, piece.len as usize);
        }
    }
}

/// Writes the part of `bytes` that falls into code memory.
///
/// # Safety
/// Code memory is mapped writable.
unsafe fn write_code(address: u64, bytes: &[u8], len: usize) {
    for (i, &b) in bytes.iter().take(len).enumerate() {
        let at = address + i as u64;
        if (CODE..CODE + CODE_SIZE).contains(&at) {
            // SAFETY: inside the mapping, as just checked.
            unsafe { (at as *mut u8).write_volatile(b) };
        }
    }
}

/// Notes what changed in the scratch area and restores it. `changes` has room for every word.
fn collect(input: &Input, background: &[u64; WORDS], changes: &mut [Change]) -> usize {
    // What the case started from: the background with its patches.
    let mut expected = *background;
    // SAFETY: a byte view of the array; `run` checked the same bounds.
    let bytes = unsafe { std::slice::from_raw_parts_mut(expected.as_mut_ptr().cast::<u8>(), WORDS * 8) };
    let mut data = &input.patch_data[..];
    for p in input.patches.iter().take(input.patch_count as usize) {
        let [offset, len] = p.map(|v| v as usize);
        let (now, rest) = data.split_at(len.min(data.len()));
        if let Some(to) = bytes.get_mut(offset..offset + now.len()) {
            to.copy_from_slice(now);
        }
        data = rest;
    }
    let mut count = 0;
    // SAFETY: the scratch area is mapped, and nothing runs in it now.
    let scratch = unsafe { &mut *(SCRATCH as *mut [u64; WORDS]) };
    for (word, (now, was)) in scratch.iter().zip(&expected).enumerate() {
        if now != was
            && let Some(slot) = changes.get_mut(count)
        {
            *slot = Change {
                word: word as u32,
                value: *now,
            };
            count += 1;
        }
    }
    *scratch = *background;
    count
}
