//! A virtual machine with its memory.

use super::Vcpu;
use donjon_memory::{Ram, RangeKind};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Error, Kvm, VmFd};
use std::sync::Arc;

/// A virtual machine, whose memory cannot go away first.
pub struct Vm {
    // Dropped in this order.
    fd: VmFd,
    ram: Arc<Ram>,
}

impl Vm {
    /// A virtual machine with `ram` at its guest-physical addresses.
    pub fn new(kvm: &Kvm, ram: Arc<Ram>) -> Result<Arc<Self>, Error> {
        let vm = Self {
            fd: kvm.create_vm()?,
            ram,
        };
        vm.set_memory(false)?;
        Ok(Arc::new(vm))
    }

    /// Tells the kernel of all memory, and whether it is to note which pages of RAM the guest writes.
    pub fn set_memory(&self, log: bool) -> Result<(), Error> {
        for (slot, range) in (0u32..).zip(self.ram.ranges()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: match range.kind {
                    RangeKind::Ram if log => KVM_MEM_LOG_DIRTY_PAGES,
                    RangeKind::Ram | RangeKind::File => 0,
                    RangeKind::ReadOnlyFile => KVM_MEM_READONLY,
                },
                guest_phys_addr: range.address,
                memory_size: range.len,
                userspace_addr: self.ram.host_address() as u64 + range.offset,
            };
            // SAFETY: the region is part of the mapping that `ram` owns, and nothing else of this process lives
            // there. The kernel uses it until the last descriptor of the virtual machine is closed: this value's,
            // which goes before `ram`, and those of the vCPUs, each of which keeps this value. Accesses through
            // `ram` meanwhile are single machine accesses that need no Rust references to the memory.
            unsafe { self.fd.set_user_memory_region(region)? };
        }
        Ok(())
    }

    /// Makes vCPU `index`.
    pub fn vcpu(self: &Arc<Self>, index: u64) -> Result<Vcpu, Error> {
        Ok(Vcpu::new(self.fd.create_vcpu(index)?, self.clone()))
    }

    /// For what needs no memory.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }
}
