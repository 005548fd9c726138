//! The memory the parent and its worker share.

use crate::case::CodeBytes;
use crate::layout::{PAGE, SCRATCH_SIZE};
use crate::regs::XSAVE_SIZE;
use std::io;
use std::ptr::NonNull;

/// The most cases in one batch.
pub const BATCH: usize = 512;
/// 64-bit words of the scratch area.
pub const WORDS: usize = SCRATCH_SIZE as usize / 8;
/// Bytes of patches in one case.
pub const PATCH_BYTES: usize = 1536;
/// Patches in one case.
pub const PATCHES: usize = 12;
/// Pieces of code in one case: a whole program has many.
pub const PIECES: usize = 160;

/// [`Output::exit`]: the case reached a stub.
pub const EXIT_STUB: u32 = 1;
/// [`Output::exit`]: a signal.
pub const EXIT_SIGNAL: u32 = 2;

/// Code to write.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Piece {
    pub address: u64,
    pub len: u32,
    pub bytes: [u8; CodeBytes::MAX],
}

/// One case, as the worker needs it.
#[repr(C, align(64))]
pub struct Input {
    pub xsave: [u8; XSAVE_SIZE],
    pub gpr: [u64; 16],
    /// RIP, CS, RFLAGS, RSP, SS.
    pub frame: [u64; 5],
    /// FS, GS.
    pub bases: [u64; 2],
    /// DS, ES, FS, GS.
    pub selectors: [u16; 4],
    pub code_count: u32,
    pub patch_count: u32,
    pub code: [Piece; PIECES],
    /// Offset and length.
    pub patches: [[u32; 2]; PATCHES],
    pub patch_data: [u8; PATCH_BYTES],
}

/// What a case left behind.
#[repr(C, align(64))]
pub struct Output {
    pub xsave: [u8; XSAVE_SIZE],
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// FS, GS.
    pub bases: [u64; 2],
    pub error_code: u64,
    pub cr2: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    pub exit: u32,
    pub vector: u32,
    pub change_start: u32,
    pub change_count: u32,
}

/// A word of the scratch area that changed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Change {
    pub word: u32,
    pub value: u64,
}

/// Everything shared. All-zero bytes are a valid value of it.
#[repr(C, align(64))]
pub struct Batch {
    /// Moves on when the background changes.
    pub epoch: u64,
    /// Cases in the batch.
    pub count: u32,
    /// Cases finished; the worker goes on from there.
    pub done: u32,
    pub background: [u64; WORDS],
    pub read_only: [u64; PAGE as usize / 8],
    pub inputs: [Input; BATCH],
    pub outputs: [Output; BATCH],
    /// Room for every word to change in every case.
    pub changes: [Change; WORDS * BATCH],
}

/// An anonymous shared mapping that holds one [`Batch`].
pub struct Mapping(NonNull<Batch>);

// SAFETY: the mapping belongs to this value; another thread may use it once the value has moved there.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps it; the kernel fills it with zeros.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Batch>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(
            NonNull::new(p.cast()).expect("mmap never returns null on success"),
        ))
    }

    /// Its address, for the worker.
    pub fn as_ptr(&self) -> *mut Batch {
        self.0.as_ptr()
    }

    /// Its contents. The worker touches them only between the parent's message and its own answer (or its
    /// death), and the parent calls this only outside of that time, except to read `done`.
    pub fn get(&mut self) -> &mut Batch {
        // SAFETY: the mapping is live, aligned to a page and all-zero at first; see above for the worker.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to once its owner is gone.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Batch>()) };
    }
}
