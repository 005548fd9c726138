//! The guest that is measured: 2 MiB of memory and two counted loops in 64-bit mode, ring 0.
//!
//! Ring 0 is the point. There are hosts whose KVM runs ring 3 at full speed and emulates ring 0 one
//! instruction at a time; opening the device, or running a user program, does not show that.

use crate::error::Number;
use crate::raw::{RawExit, Vcpu, Vm};
use donjon_memory::{MemoryError, Ram};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_segment};
use kvm_ioctls::Kvm;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY: u64 = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x10000;
const DATA: u64 = 0x11000;
const STACK: u64 = 0x14000;
/// A port where no host kernel has a device of its own.
const PORT: u64 = 0x510;

/// Instructions in one round of [`Loop::Work`].
pub const WORK_INSTRUCTIONS: u64 = 17;

/// Both loops count RCX down to zero and halt.
const PROGRAM: &[u8] = &[
    // What kernel code is made of: loads, stores, arithmetic, a call, a read-modify-write, branches.
    0x48, 0x8b, 0x06, //                         work:  mov rax, [rsi]
    0x48, 0x01, 0xc8, //                                add rax, rcx
    0x48, 0x89, 0x46, 0x08, //                          mov [rsi+8], rax
    0x48, 0x8d, 0x54, 0x40, 0x05, //                    lea rdx, [rax+rax*2+5]
    0x48, 0x31, 0xda, //                                xor rdx, rbx
    0x52, //                                            push rdx
    0xe8, 0x17, 0x00, 0x00, 0x00, //                    call leaf
    0x5f, //                                            pop rdi
    0x81, 0xe7, 0xf8, 0x0f, 0x00, 0x00, //              and edi, 0xff8
    0x48, 0x83, 0x04, 0x3e, 0x01, //                    add qword ptr [rsi+rdi], 1
    0x48, 0x85, 0xff, //                                test rdi, rdi
    0x78, 0x05, //                                      js done
    0x48, 0xff, 0xc9, //                                dec rcx
    0x75, 0xd2, //                                      jnz work
    0xf4, //                                     done:  hlt
    0x48, 0x6b, 0xda, 0x1f, //                   leaf:  imul rbx, rdx, 31
    0x48, 0xc1, 0xeb, 0x03, //                          shr rbx, 3
    0xc3, //                                            ret
    0xee, //                                     exits: out dx, al
    0x48, 0xff, 0xc9, //                                dec rcx
    0x75, 0xfa, //                                      jnz exits
    0xf4, //                                            hlt
];

/// Which loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loop {
    /// Ordinary instructions.
    Work,
    /// An exit to this process each round.
    Exits,
}

/// Why the guest did not run.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The kernel refused something.
    #[error("{what} failed: {source}")]
    Kvm {
        /// What.
        what: &'static str,
        /// Why.
        source: Errno,
    },
    /// No memory for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The guest ended in another way than by HLT.
    #[error("a guest of a few instructions in ring 0 ended with {0} instead of running")]
    Exit(String),
}

fn kvm<E: Number>(what: &'static str) -> impl FnOnce(E) -> GuestError {
    move |e| GuestError::Kvm {
        what,
        source: e.number(),
    }
}

/// The guest, ready to run.
pub struct Guest {
    vcpu: Vcpu,
}

impl Guest {
    /// Makes a virtual machine with one virtual CPU in 64-bit mode.
    pub fn new(kvm_fd: &Kvm) -> Result<Self, GuestError> {
        let ram = Arc::new(Ram::new(MEMORY)?);
        let vm = Vm::new(kvm_fd, ram.clone()).map_err(kvm("making a virtual machine with memory"))?;
        const PRESENT_WRITABLE: u64 = 0b11;
        const LARGE_PAGE: u64 = 1 << 7;
        for (table, entry) in [
            (PML4, PDPT | PRESENT_WRITABLE),
            (PDPT, DIRECTORY | PRESENT_WRITABLE),
            (DIRECTORY, PRESENT_WRITABLE | LARGE_PAGE),
        ] {
            ram.write(table, &entry.to_le_bytes())?;
        }
        ram.write(CODE, PROGRAM)?;

        let guest = vm.vcpu(0).map_err(kvm("KVM_CREATE_VCPU"))?;
        let vcpu = guest.fd();
        let cpuid: CpuId = kvm_fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(kvm("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        // CR0: PE, MP, ET, NE, WP, PG. CR4: PAE. EFER: LME, LMA (Intel SDM vol. 3A §2.2.1, §2.5).
        sregs.cr0 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
        sregs.cr3 = PML4;
        sregs.cr4 = 1 << 5;
        sregs.efer = 1 << 8 | 1 << 10;
        sregs.cs = flat(0x08, 0xb, true);
        let data = flat(0x10, 0x3, false);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        vcpu.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
        Ok(Self { vcpu: guest })
    }

    /// Runs `rounds` (at least 1) of a loop, to its end; returns the time that took.
    pub fn run(&mut self, which: Loop, rounds: u64) -> Result<Duration, GuestError> {
        let exits = PROGRAM.len() as u64 - 7;
        let vcpu = self.vcpu.fd();
        let mut regs = vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        regs.rip = CODE + if which == Loop::Work { 0 } else { exits };
        (regs.rcx, regs.rdx, regs.rsi, regs.rsp, regs.rflags) = (rounds, PORT, DATA, STACK, 2);
        vcpu.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))?;
        let start = Instant::now();
        loop {
            match self.vcpu.run().map_err(kvm("KVM_RUN"))? {
                RawExit::PortOut { .. } if which == Loop::Exits => {}
                RawExit::Interrupted => {}
                RawExit::Halt => return Ok(start.elapsed()),
                other => return Err(GuestError::Exit(format!("{other:?}"))),
            }
        }
    }
}

/// A flat segment of ring 0 (Intel SDM vol. 3A §3.4.5).
fn flat(selector: u16, type_: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}
