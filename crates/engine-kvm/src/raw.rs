//! The one unsafe thing: giving memory of this process to a virtual machine.
#![allow(unsafe_code)]

use donjon_memory::Ram;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuFd, VmFd};

/// A virtual machine of one virtual CPU, with its memory, which therefore cannot go away first.
pub struct Machine {
    // Dropped in this order.
    vcpu: VcpuFd,
    _vm: VmFd,
    ram: Ram,
}

impl Machine {
    /// Puts `ram`, which must be one range that begins at 0, at guest-physical address 0.
    pub fn new(vm: VmFd, ram: Ram) -> Result<Self, kvm_ioctls::Error> {
        let vcpu = vm.create_vcpu(0)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.size(),
            userspace_addr: ram.host_address() as u64,
        };
        // SAFETY: the region is the mapping that `ram` owns, `size` bytes from its start, and nothing else of
        // this process lives there. The kernel uses it until the last descriptor of the virtual machine is
        // closed; both there are belong to this value and are dropped before `ram` (if this call fails, no
        // region is set). Accesses through `ram` meanwhile are single machine accesses that need no Rust
        // references to the memory.
        unsafe { vm.set_user_memory_region(region)? };
        Ok(Self { vcpu, _vm: vm, ram })
    }

    /// The virtual CPU. It must stay in this value.
    pub fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }

    /// The memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }
}
