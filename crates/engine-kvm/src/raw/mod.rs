//! Everything unsafe: memory that the kernel is given, the page it shares with each vCPU, system calls that
//! kvm-ioctls has no function for, and the signal that gets a thread out of the guest.
#![allow(unsafe_code)]

mod exit;
mod ioctl;
mod signal;
mod vcpu;
mod vm;

pub use exit::RawExit;
pub use signal::Listening;
pub use vcpu::Vcpu;
pub use vm::Vm;
