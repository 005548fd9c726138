//! Why KVM_RUN returned, out of the page that the kernel shares (Linux, virt/kvm/api, "The kvm_run structure").

use kvm_bindings::*;
use std::ptr::NonNull;

/// Why the kernel stopped running the guest.
#[derive(Debug)]
pub enum RawExit<'a> {
    /// OUT, one or more times: as many bytes as the data has.
    PortOut { port: u16, size: u8, data: &'a [u8] },
    /// IN, one or more times, into the data.
    PortIn { port: u16, size: u8, data: &'a mut [u8] },
    /// A store to what is not memory.
    MmioWrite { address: u64, data: &'a [u8] },
    /// A load from there.
    MmioRead { address: u64, data: &'a mut [u8] },
    /// RDMSR that the kernel leaves to us.
    ReadMsr {
        index: u32,
        value: &'a mut u64,
        fault: &'a mut u8,
    },
    /// WRMSR.
    WriteMsr {
        index: u32,
        value: u64,
        fault: &'a mut u8,
    },
    /// HLT; only where the kernel has no local APIC.
    Halt,
    /// An interrupt can be injected, which was asked for.
    Window,
    /// CR8 was lowered; only where the kernel has no local APIC.
    SetTpr,
    /// The end of a level-triggered interrupt.
    Eoi(u8),
    /// Triple fault.
    Shutdown,
    /// A signal or a kick.
    Interrupted,
    /// The processor refused the state.
    FailEntry(u64),
    /// The kernel could not go on.
    Internal { kind: u32, data: Vec<u64> },
    /// A reason that nothing here asked for.
    Other(u32),
}

impl RawExit<'_> {
    /// Reads the exit that the page describes.
    ///
    /// # Safety
    ///
    /// `run` is the mapping of a vCPU whose KVM_RUN has returned without an error, `len` bytes long; nothing else
    /// refers to it while the result lives.
    pub(super) unsafe fn read<'a>(run: NonNull<kvm_run>, len: usize) -> RawExit<'a> {
        // SAFETY: as the caller says. Fields of the union are plain numbers, whichever was written.
        let page = unsafe { &mut *run.as_ptr() };
        let detail = &mut page.__bindgen_anon_1;
        match page.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: every value is a valid number.
                let io = unsafe { detail.io };
                let (at, count) = (io.data_offset as usize, io.count as usize * io.size as usize);
                if at < size_of::<kvm_run>() || at > len || count > len - at {
                    return RawExit::Other(KVM_EXIT_IO);
                }
                // SAFETY: inside the mapping, as just checked, behind the structure that `page` refers to.
                let data =
                    unsafe { std::slice::from_raw_parts_mut(run.as_ptr().cast::<u8>().add(at), count) };
                let (port, size) = (io.port, io.size);
                match io.direction as u32 {
                    KVM_EXIT_IO_OUT => RawExit::PortOut { port, size, data },
                    _ => RawExit::PortIn { port, size, data },
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: every value is a valid number.
                let mmio = unsafe { &mut detail.mmio };
                let address = mmio.phys_addr;
                let data = &mut mmio.data[..(mmio.len as usize).min(8)];
                match mmio.is_write {
                    0 => RawExit::MmioRead { address, data },
                    _ => RawExit::MmioWrite { address, data },
                }
            }
            KVM_EXIT_X86_RDMSR => {
                // SAFETY: every value is a valid number.
                let msr = unsafe { &mut detail.msr };
                RawExit::ReadMsr {
                    index: msr.index,
                    value: &mut msr.data,
                    fault: &mut msr.error,
                }
            }
            KVM_EXIT_X86_WRMSR => {
                // SAFETY: every value is a valid number.
                let msr = unsafe { &mut detail.msr };
                RawExit::WriteMsr {
                    index: msr.index,
                    value: msr.data,
                    fault: &mut msr.error,
                }
            }
            KVM_EXIT_HLT => RawExit::Halt,
            KVM_EXIT_IRQ_WINDOW_OPEN => RawExit::Window,
            KVM_EXIT_SET_TPR => RawExit::SetTpr,
            // SAFETY: every value is a valid number.
            KVM_EXIT_IOAPIC_EOI => RawExit::Eoi(unsafe { detail.eoi.vector }),
            KVM_EXIT_SHUTDOWN => RawExit::Shutdown,
            KVM_EXIT_INTR => RawExit::Interrupted,
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: every value is a valid number.
                RawExit::FailEntry(unsafe { detail.fail_entry.hardware_entry_failure_reason })
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: every value is a valid number.
                let internal = unsafe { detail.internal };
                let count = (internal.ndata as usize).min(internal.data.len());
                RawExit::Internal {
                    kind: internal.suberror,
                    data: internal.data[..count].to_vec(),
                }
            }
            other => RawExit::Other(other),
        }
    }
}
