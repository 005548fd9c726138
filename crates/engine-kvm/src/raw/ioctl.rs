//! System calls that kvm-ioctls has no function for (Linux, virt/kvm/api).

use kvm_bindings::{kvm_device_attr, kvm_interrupt, kvm_sregs2};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, RawFd};

/// _IO, _IOW and _IOR of KVM's type, 0xae (Linux, include/uapi/asm-generic/ioctl.h).
const fn number(direction: u64, number: u64, size: usize) -> libc::c_ulong {
    direction << 30 | (size as u64) << 16 | 0xae << 8 | number
}
const WRITE: u64 = 1;
const READ: u64 = 2;
const RUN: libc::c_ulong = number(0, 0x80, 0);
const INTERRUPT: libc::c_ulong = number(WRITE, 0x86, size_of::<kvm_interrupt>());
const GET_SREGS2: libc::c_ulong = number(READ, 0xcc, size_of::<kvm_sregs2>());
const SET_SREGS2: libc::c_ulong = number(WRITE, 0xcd, size_of::<kvm_sregs2>());
const SET_DEVICE_ATTR: libc::c_ulong = number(WRITE, 0xe1, size_of::<kvm_device_attr>());
const GET_DEVICE_ATTR: libc::c_ulong = number(WRITE, 0xe2, size_of::<kvm_device_attr>());

/// What a call returned.
fn checked(result: libc::c_int) -> Result<(), Errno> {
    match result {
        0.. => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}

/// A call that only reads the structure it is given.
///
/// # Safety
///
/// `call` takes a pointer to a `T`, reads it and writes nothing through it.
unsafe fn give<T>(fd: RawFd, call: libc::c_ulong, value: &T) -> Result<(), Errno> {
    // SAFETY: as the caller says; the reference is valid for the call.
    checked(unsafe { libc::ioctl(fd, call, std::ptr::from_ref(value)) })
}

pub(super) fn run(vcpu: &impl AsRawFd) -> Result<(), Errno> {
    // SAFETY: no pointers. What it writes to, the guest's memory and the shared page, outlives the vCPU.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), RUN, 0) })
}

/// Injects an external interrupt.
pub(super) fn interrupt(vcpu: &impl AsRawFd, vector: u8) -> Result<(), Errno> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: KVM_INTERRUPT reads a kvm_interrupt.
    unsafe { give(vcpu.as_raw_fd(), INTERRUPT, &interrupt) }
}

pub(super) fn sregs2(vcpu: &impl AsRawFd) -> Result<kvm_sregs2, Errno> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: KVM_GET_SREGS2 writes a kvm_sregs2.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), GET_SREGS2, &raw mut sregs) })?;
    Ok(sregs)
}

pub(super) fn set_sregs2(vcpu: &impl AsRawFd, sregs: &kvm_sregs2) -> Result<(), Errno> {
    // SAFETY: KVM_SET_SREGS2 reads a kvm_sregs2.
    unsafe { give(vcpu.as_raw_fd(), SET_SREGS2, sregs) }
}

/// Reads an attribute of eight bytes.
pub(super) fn attribute(vcpu: &impl AsRawFd, group: u32, attr: u64) -> Result<u64, Errno> {
    let mut value = 0u64;
    let attr = kvm_device_attr {
        group,
        attr,
        addr: &raw mut value as u64,
        flags: 0,
    };
    // SAFETY: KVM_GET_DEVICE_ATTR reads a kvm_device_attr and writes the attribute, eight bytes, to its address.
    unsafe { give(vcpu.as_raw_fd(), GET_DEVICE_ATTR, &attr)? };
    Ok(value)
}

/// Writes an attribute of eight bytes.
pub(super) fn set_attribute(vcpu: &impl AsRawFd, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
    let attr = kvm_device_attr {
        group,
        attr,
        addr: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: KVM_SET_DEVICE_ATTR reads a kvm_device_attr and the attribute, eight bytes, at its address.
    unsafe { give(vcpu.as_raw_fd(), SET_DEVICE_ATTR, &attr) }
}
