//! A processor with nothing around it.

use crate::{CpuIo, Gp, LocalApic};

/// A board without devices and a local APIC that is never there: for probes and tests, where only
/// instructions and memory matter.
#[derive(Clone, Copy, Default, Debug)]
pub struct Detached;

impl CpuIo for Detached {
    fn port_in(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&self, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&self, _: u64, _: u8, _: u64) {}
}

impl LocalApic for Detached {
    fn pending(&self) -> bool {
        false
    }
    fn acknowledge(&self) -> Option<u8> {
        None
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&self, _: u8) {}
    fn read_msr(&self, _: u32) -> Result<u64, Gp> {
        Err(Gp)
    }
    fn write_msr(&self, _: u32, _: u64) -> Result<(), Gp> {
        Err(Gp)
    }
    fn page(&self) -> Option<u64> {
        None
    }
    fn page_read(&self, _: u16) -> u32 {
        0
    }
    fn page_write(&self, _: u16, _: u32) {}
    fn init(&self) {}
}
