//! The ways into configuration space: the legacy ports and the memory-mapped window.

use crate::Bus;
use donjon_devices::{MmioDevice, PortDevice};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// Ports of the configuration mechanism: CONFIG_ADDRESS and CONFIG_DATA.
pub const CONFIG_LEN: u64 = 8;
/// Bytes of the memory-mapped configuration space of one bus.
pub const ECAM_BUS_LEN: u64 = 1 << 20;

/// CONFIG_ADDRESS: accesses to CONFIG_DATA are configuration accesses.
const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the other bits that can be written: bus, device, function, register.
const TARGET: u32 = 0x00ff_fffc;

/// What of a value CONFIG_ADDRESS keeps.
pub(crate) fn legal_address(value: u32) -> u32 {
    value & (ENABLE | TARGET)
}

impl Bus {
    /// PCI Local Bus 3.0 §3.2.2.3.2: [`CONFIG_LEN`] ports, at 0xcf8.
    ///
    /// CONFIG_ADDRESS is reached by dwords only; other accesses to its ports go elsewhere on a PC. `reset` is
    /// what is there: the reset control register, the second port.
    pub fn config_ports(self: &Arc<Self>, reset: Arc<dyn PortDevice>) -> Arc<dyn PortDevice> {
        Arc::new(Ports {
            bus: self.clone(),
            reset,
        })
    }

    /// The enhanced configuration access mechanism (PCI Express Base 5.0 §7.2.2): [`ECAM_BUS_LEN`] bytes for this
    /// bus, the first of the window.
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn MmioDevice> {
        Arc::new(Ecam(self.clone()))
    }

    fn config_read(&self, number: u8, offset: usize, size: u8) -> u32 {
        self.node(number).map_or(u32::MAX, |n| n.read(offset, size))
    }

    fn config_write(&self, number: u8, offset: usize, size: u8, value: u32) {
        if let Some(node) = self.node(number) {
            node.write(offset, size, value);
        }
    }
}

struct Ports {
    bus: Arc<Bus>,
    reset: Arc<dyn PortDevice>,
}

impl Ports {
    /// Function and register of CONFIG_DATA. Buses other than 0 have nothing.
    fn target(&self) -> Option<(u8, usize)> {
        let address = self.bus.address.load(SeqCst);
        let here = address & ENABLE != 0 && address >> 16 & 0xff == 0;
        here.then_some(((address >> 8) as u8, (address & 0xfc) as usize))
    }
}

impl PortDevice for Ports {
    fn read(&self, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => self.bus.address.load(SeqCst),
            (0..4, 1) if offset == 1 => self.reset.read(0, 1),
            (0..4, 1) => 0xff,
            // Any other access to the first four ports is one to each.
            (0..4, _) => (0..size).fold(0, |v, i| {
                v | (self.read(offset + u16::from(i), 1) & 0xff) << (8 * i)
            }),
            _ => {
                let byte = usize::from(offset - 4);
                self.target()
                    .map_or(u32::MAX, |(n, r)| self.bus.config_read(n, r + byte, size))
            }
        }
    }

    fn write(&self, offset: u16, size: u8, value: u32) {
        match (offset, size) {
            (0, 4) => self.bus.address.store(legal_address(value), SeqCst),
            (0..4, 1) if offset == 1 => self.reset.write(0, 1, value),
            (0..4, 1) => {}
            (0..4, _) => {
                for i in 0..size {
                    self.write(offset + u16::from(i), 1, value >> (8 * i) & 0xff);
                }
            }
            _ => {
                let byte = usize::from(offset - 4);
                if let Some((n, r)) = self.target() {
                    self.bus.config_write(n, r + byte, size, value);
                }
            }
        }
    }
}

struct Ecam(Arc<Bus>);

/// Function and register at an offset.
fn target(offset: u64) -> (u8, usize) {
    ((offset >> 12) as u8, (offset & 0xfff) as usize)
}

impl MmioDevice for Ecam {
    /// Processors may split wider accesses in any way (PCI Express Base 5.0 §7.2.2).
    fn widest(&self) -> u8 {
        4
    }

    fn read(&self, offset: u64, size: u8) -> u64 {
        let (number, register) = target(offset);
        if register + usize::from(size) > 0x1000 {
            // It runs into the next function.
            return (0..size).fold(0, |v, i| {
                v | (self.read(offset + u64::from(i), 1) & 0xff) << (8 * i)
            });
        }
        self.0.config_read(number, register, size).into()
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let (number, register) = target(offset);
        if register + usize::from(size) > 0x1000 {
            for i in 0..size {
                self.write(offset + u64::from(i), 1, value >> (8 * i) & 0xff);
            }
            return;
        }
        self.0.config_write(number, register, size, value as u32);
    }
}
