//! A vCPU and the page that the kernel shares.

use super::exit::RawExit;
use super::signal::Listening;
use super::{Vm, ioctl};
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_run, kvm_sregs2, kvm_xsave};
use kvm_ioctls::VcpuFd;
use rustix::io::Errno;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

/// A vCPU, which keeps its virtual machine.
pub struct Vcpu {
    // Dropped in this order.
    fd: VcpuFd,
    vm: Arc<Vm>,
    /// The shared page and what follows it; mapped for as long as `fd` lives.
    run: NonNull<kvm_run>,
    run_len: usize,
}

// SAFETY: the pointer is to a mapping that belongs to `fd` and that only methods with `&mut self` use, but for
// `immediate_exit`, which is only used as an atomic.
unsafe impl Send for Vcpu {}

impl Vcpu {
    pub(super) fn new(mut fd: VcpuFd, vm: Arc<Vm>) -> Self {
        let run = NonNull::from(fd.get_kvm_run());
        let run_len = vm.fd().run_size();
        Self { fd, vm, run, run_len }
    }

    /// Its virtual machine.
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    /// For what needs no shared page.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Lets other threads get this one out of [`Vcpu::run`].
    pub fn listen(&self) -> Listening {
        // SAFETY: the byte is in the shared page, which stays mapped as long as this vCPU, and is only ever
        // accessed as an atomic.
        let flag = unsafe { &*(&raw mut (*self.run.as_ptr()).immediate_exit).cast::<AtomicU8>() };
        // SAFETY: `Listening` is dropped before this vCPU: whoever runs it holds both.
        unsafe { Listening::new(flag) }
    }

    /// Runs the guest until something has to be done for it.
    pub fn run(&mut self) -> Result<RawExit<'_>, Errno> {
        match ioctl::run(&self.fd) {
            // SAFETY: the call has just returned, the exit borrows this vCPU.
            Ok(()) => Ok(unsafe { RawExit::read(self.run, self.run_len) }),
            Err(Errno::INTR | Errno::AGAIN) => Ok(RawExit::Interrupted),
            Err(e) => Err(e),
        }
    }

    /// Whether the guest could take an external interrupt when it last stopped.
    pub fn ready_for_interrupt(&mut self) -> bool {
        self.page().ready_for_interrupt_injection != 0
    }

    /// RFLAGS.IF when the guest last stopped.
    pub fn interrupt_flag(&mut self) -> bool {
        self.page().if_flag != 0
    }

    /// Asks for an exit as soon as it can.
    pub fn request_window(&mut self, wanted: bool) {
        self.page().request_interrupt_window = wanted.into();
    }

    /// CR8, where the kernel has no local APIC: to be set before, and read after the guest runs.
    pub fn cr8(&mut self) -> &mut u64 {
        &mut self.page().cr8
    }

    fn page(&mut self) -> &mut kvm_run {
        // SAFETY: mapped as long as `fd`; other threads only use `immediate_exit`, which no caller touches.
        unsafe { &mut *self.run.as_ptr() }
    }

    /// Injects an external interrupt.
    pub fn interrupt(&self, vector: u8) -> Result<(), Errno> {
        ioctl::interrupt(&self.fd, vector)
    }

    /// Control, segment and table registers.
    pub fn sregs(&self) -> Result<kvm_sregs2, Errno> {
        ioctl::sregs2(&self.fd)
    }

    /// Sets them.
    pub fn set_sregs(&self, sregs: &kvm_sregs2) -> Result<(), Errno> {
        ioctl::set_sregs2(&self.fd, sregs)
    }

    /// What is added to the (scaled) host's time-stamp counter.
    pub fn tsc_offset(&self) -> Result<u64, Errno> {
        ioctl::attribute(&self.fd, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET.into())
    }

    /// Sets it.
    pub fn set_tsc_offset(&self, offset: u64) -> Result<(), Errno> {
        ioctl::set_attribute(&self.fd, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET.into(), offset)
    }

    /// Sets x87 and vector registers.
    pub fn set_xsave(&self, area: &kvm_xsave) -> Result<(), Errno> {
        // SAFETY: KVM_SET_XSAVE reads as many bytes as the largest feature that this process may use takes, and
        // none was asked for that does not fit the 4096 bytes of kvm_xsave (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM).
        unsafe { self.fd.set_xsave(area) }.map_err(|e| Errno::from_raw_os_error(e.errno()))
    }
}
