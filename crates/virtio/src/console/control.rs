//! Control messages (virtio 1.2 §5.3.6.2).

use donjon_memory::Scatter;
use serde::{Deserialize, Serialize};

/// Bytes of `virtio_console_control`.
const HEADER: usize = 8;

/// Events.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const DEVICE_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// What the driver says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromDriver {
    /// It is ready to hear of ports.
    DeviceReady,
    /// It has set this port up, or could not.
    PortReady(u32, bool),
    /// Somebody in the guest opened or closed this port.
    PortOpen(u32, bool),
}

/// Makes sense of a buffer; `None` if there is none in it.
pub fn parse(buffer: &Scatter) -> Option<FromDriver> {
    if buffer.len() < HEADER {
        return None;
    }
    let mut h = [0; HEADER];
    buffer.load(0, &mut h);
    let port = u32::from_le_bytes([h[0], h[1], h[2], h[3]]);
    let yes = u16::from_le_bytes([h[6], h[7]]) == 1;
    match u16::from_le_bytes([h[4], h[5]]) {
        event::DEVICE_READY if yes => Some(FromDriver::DeviceReady),
        event::PORT_READY => Some(FromDriver::PortReady(port, yes)),
        event::PORT_OPEN => Some(FromDriver::PortOpen(port, yes)),
        _ => None,
    }
}

/// What the driver is to be told of a port, as soon as it has a buffer for it. Flags rather than a queue of
/// messages: a driver that asks and never listens fills nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pending {
    /// That there is one.
    pub add: bool,
    /// That it is a console.
    pub console: bool,
    /// Its name.
    pub name: bool,
    /// That the host has closed it.
    pub close: bool,
    /// That the host has opened it; after [`Pending::close`].
    pub open: bool,
    /// Its size.
    pub resize: bool,
}

impl Pending {
    /// Whether there is anything.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// The next message, which is then no longer pending.
    pub fn take(&mut self, port: u32, name: &str, size: (u16, u16)) -> Option<Vec<u8>> {
        let mut said = |flag: fn(&mut Self) -> &mut bool| std::mem::take(flag(self));
        let (event, value, more) = if said(|p| &mut p.add) {
            (event::DEVICE_ADD, 0, vec![])
        } else if said(|p| &mut p.console) {
            (event::CONSOLE_PORT, 1, vec![])
        } else if said(|p| &mut p.name) {
            (event::PORT_NAME, 1, name.as_bytes().to_vec())
        } else if said(|p| &mut p.close) {
            (event::PORT_OPEN, 0, vec![])
        } else if said(|p| &mut p.open) {
            (event::PORT_OPEN, 1, vec![])
        } else if said(|p| &mut p.resize) {
            // In the specification's order, which Debian's kernels have too. Linux before and after some
            // versions of 2025 reads the rows first; a device cannot tell.
            let (columns, rows) = size;
            let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
            (event::RESIZE, 0, size)
        } else {
            return None;
        };
        let mut message = port.to_le_bytes().to_vec();
        message.extend([event, value].map(u16::to_le_bytes).concat());
        message.extend(more);
        Some(message)
    }
}
