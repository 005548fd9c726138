//! The machine code between the worker and a case: in, out, and the signal handler's first instructions.
//!
//! It is assembled here, copied to [`layout::STUB`] and run there, so that a case can jump to it from code
//! memory with a 32-bit displacement; all its own data lies in the [`State`] block at a fixed address below
//! 2 GiB, so that it needs no register to find it.

use crate::layout::{self, STATE, STUB};
use crate::regs::XSAVE_SIZE;
use std::arch::global_asm;
use std::mem::offset_of;

/// The worker's register block, at [`layout::STATE`].
#[repr(C, align(64))]
pub struct State {
    /// Image to load.
    pub xsave_in: [u8; XSAVE_SIZE],
    /// Image left behind; XSAVE wants its header's reserved bytes to be zero.
    pub xsave_out: [u8; XSAVE_SIZE],
    /// Registers to load (RSP is in the frame).
    pub gpr_in: [u64; 16],
    /// RIP, CS, RFLAGS, RSP, SS.
    pub frame: [u64; 5],
    /// FS and GS base to load.
    pub bases_in: [u64; 2],
    /// DS, ES, FS, GS to load.
    pub selectors_in: [u16; 4],
    /// Registers left behind.
    pub gpr_out: [u64; 16],
    /// Flags left behind.
    pub rflags_out: u64,
    /// FS and GS base left behind.
    pub bases_out: [u64; 2],
    /// ES, CS, SS, DS, FS, GS left behind.
    pub selectors_out: [u16; 6],
    /// Which stub (1 fall, 2 taken); 0 after a signal.
    pub stub: u32,
    /// Nonzero between entry and exit.
    pub inside: u32,
    /// MXCSR for the worker itself.
    pub host_mxcsr: u32,
    /// The worker's stack pointer.
    pub host_rsp: u64,
    /// The worker's FS and GS base.
    pub host_bases: [u64; 2],
    /// Address of the handler's Rust part.
    pub handler: u64,
    /// Where the exit stub pushes the flags.
    pub stack: [u64; 8],
}

const fn at(offset: usize) -> usize {
    STATE as usize + offset
}

/// Address of the entry code, a function without arguments.
pub const ENTER: u64 = STUB;
/// Address of the signal handler.
pub const HANDLER: u64 = STUB + 0x200;

// The offsets of the four parts within the page are fixed with .org.
global_asm!(
    ".pushsection .rodata.donjon_conformance_stubs,\"a\",@progbits",
    ".balign 64",
    ".global donjon_conformance_stubs",
    ".hidden donjon_conformance_stubs",
    "donjon_conformance_stubs:",
    // In. RSP is a multiple of 16 plus 8 here.
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [{host_rsp}], rsp",
    "rdfsbase rax",
    "mov [{host_fs}], rax",
    "rdgsbase rax",
    "mov [{host_gs}], rax",
    "mov dword ptr [{inside}], 1",
    // Loading a selector is slow and rarely needed. It also loads the base, so it comes first, and FS and
    // GS are always loaded if not null: a case before may have changed the base.
    "mov ax, [{sel_in}]",
    "mov cx, ds",
    "cmp ax, cx",
    "je 2f",
    "mov ds, ax",
    "2:",
    "mov ax, [{sel_in} + 2]",
    "mov cx, es",
    "cmp ax, cx",
    "je 2f",
    "mov es, ax",
    "2:",
    "mov ax, [{sel_in} + 4]",
    "cmp ax, 3",
    "ja 3f",
    "mov cx, fs",
    "cmp ax, cx",
    "je 2f",
    "3:",
    "mov fs, ax",
    "2:",
    "mov ax, [{sel_in} + 6]",
    "cmp ax, 3",
    "ja 3f",
    "mov cx, gs",
    "cmp ax, cx",
    "je 2f",
    "3:",
    "mov gs, ax",
    "2:",
    // In 64-bit mode and for null selectors the bases are free; else they come from the descriptor.
    "cmp word ptr [{sel_in} + 4], 3",
    "ja 2f",
    "mov rax, [{fs_in}]",
    "wrfsbase rax",
    "2:",
    "cmp word ptr [{sel_in} + 6], 3",
    "ja 2f",
    "mov rax, [{gs_in}]",
    "wrgsbase rax",
    "2:",
    "mov eax, 7",
    "xor edx, edx",
    "xrstor64 [{xsave_in}]",
    "mov rax, [{gpr_in}]",
    "mov rcx, [{gpr_in} + 8]",
    "mov rdx, [{gpr_in} + 16]",
    "mov rbx, [{gpr_in} + 24]",
    "mov rbp, [{gpr_in} + 40]",
    "mov rsi, [{gpr_in} + 48]",
    "mov rdi, [{gpr_in} + 56]",
    "mov r8, [{gpr_in} + 64]",
    "mov r9, [{gpr_in} + 72]",
    "mov r10, [{gpr_in} + 80]",
    "mov r11, [{gpr_in} + 88]",
    "mov r12, [{gpr_in} + 96]",
    "mov r13, [{gpr_in} + 104]",
    "mov r14, [{gpr_in} + 112]",
    "mov r15, [{gpr_in} + 120]",
    "mov esp, {frame}",
    "iretq",
    // The signal handler: the kernel has reset the FPU but left AC and the segment bases as they were.
    ".org donjon_conformance_stubs + 0x200, 0xf4",
    "push 2",
    "popfq",
    "cmp dword ptr [{inside}], 0",
    "je 3f",
    "mov dword ptr [{inside}], 0",
    "rdfsbase rax",
    "mov [{fs_out}], rax",
    "rdgsbase rax",
    "mov [{gs_out}], rax",
    "mov rax, [{host_fs}]",
    "wrfsbase rax",
    "mov rax, [{host_gs}]",
    "wrgsbase rax",
    "mov [{sel_out}], es",
    "mov [{sel_out} + 6], ds",
    "mov [{sel_out} + 8], fs",
    "mov [{sel_out} + 10], gs",
    "mov dword ptr [{stub}], 0",
    "call [{handler}]",
    "jmp 4f",
    // A fault of the worker itself: let it die of it.
    "3:",
    "ud2",
    // Out, after a fall-through.
    ".org donjon_conformance_stubs + 0x400, 0xf4",
    "mov [{gpr_out} + 32], rsp",
    "mov dword ptr [{stub}], 1",
    "jmp 5f",
    // Out, after a branch.
    ".org donjon_conformance_stubs + 0x480, 0xf4",
    "mov [{gpr_out} + 32], rsp",
    "mov dword ptr [{stub}], 2",
    "jmp 5f",
    ".org donjon_conformance_stubs + 0x500, 0xf4",
    "5:",
    "mov [{gpr_out}], rax",
    "mov [{gpr_out} + 8], rcx",
    "mov [{gpr_out} + 16], rdx",
    "mov [{gpr_out} + 24], rbx",
    "mov [{gpr_out} + 40], rbp",
    "mov [{gpr_out} + 48], rsi",
    "mov [{gpr_out} + 56], rdi",
    "mov [{gpr_out} + 64], r8",
    "mov [{gpr_out} + 72], r9",
    "mov [{gpr_out} + 80], r10",
    "mov [{gpr_out} + 88], r11",
    "mov [{gpr_out} + 96], r12",
    "mov [{gpr_out} + 104], r13",
    "mov [{gpr_out} + 112], r14",
    "mov [{gpr_out} + 120], r15",
    "mov [{sel_out} + 4], ss",
    "mov esp, {stack_end}",
    "pushfq",
    "pop [{rflags_out}]",
    "push 2",
    "popfq",
    "mov dword ptr [{inside}], 0",
    "mov [{sel_out}], es",
    "mov [{sel_out} + 2], cs",
    "mov [{sel_out} + 6], ds",
    "mov [{sel_out} + 8], fs",
    "mov [{sel_out} + 10], gs",
    "rdfsbase rax",
    "mov [{fs_out}], rax",
    "rdgsbase rax",
    "mov [{gs_out}], rax",
    "mov eax, 7",
    "xor edx, edx",
    "xsave64 [{xsave_out}]",
    "mov rax, [{host_fs}]",
    "wrfsbase rax",
    "mov rax, [{host_gs}]",
    "wrgsbase rax",
    "4:",
    "fninit",
    "ldmxcsr [{host_mxcsr}]",
    "vzeroupper",
    // A case may have loaded SS; in 64-bit mode any value of it serves the worker.
    "mov rsp, [{host_rsp}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".org donjon_conformance_stubs + 0x1000, 0xf4",
    ".popsection",
    host_rsp = const at(offset_of!(State, host_rsp)),
    host_fs = const at(offset_of!(State, host_bases)),
    host_gs = const at(offset_of!(State, host_bases) + 8),
    inside = const at(offset_of!(State, inside)),
    sel_in = const at(offset_of!(State, selectors_in)),
    fs_in = const at(offset_of!(State, bases_in)),
    gs_in = const at(offset_of!(State, bases_in) + 8),
    xsave_in = const at(offset_of!(State, xsave_in)),
    gpr_in = const at(offset_of!(State, gpr_in)),
    frame = const at(offset_of!(State, frame)),
    fs_out = const at(offset_of!(State, bases_out)),
    gs_out = const at(offset_of!(State, bases_out) + 8),
    sel_out = const at(offset_of!(State, selectors_out)),
    stub = const at(offset_of!(State, stub)),
    handler = const at(offset_of!(State, handler)),
    gpr_out = const at(offset_of!(State, gpr_out)),
    stack_end = const at(offset_of!(State, stack) + 64),
    rflags_out = const at(offset_of!(State, rflags_out)),
    xsave_out = const at(offset_of!(State, xsave_out)),
    host_mxcsr = const at(offset_of!(State, host_mxcsr)),
);

const _: () = {
    assert!(layout::STUB_FALL == STUB + 0x400 && layout::STUB_TAKEN == STUB + 0x480);
    // The signal record takes the rest of the page.
    assert!(size_of::<State>() <= layout::PAGE as usize - 0x100);
    assert!(XSAVE_SIZE.is_multiple_of(64));
};

unsafe extern "C" {
    #[link_name = "donjon_conformance_stubs"]
    static STUBS: [u8; layout::PAGE as usize];
}

/// The stub page's contents.
pub fn page() -> &'static [u8; layout::PAGE as usize] {
    // SAFETY: the assembly above defines a whole page under this name, in read-only memory.
    unsafe { &STUBS }
}
