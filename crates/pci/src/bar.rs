//! Base address registers: where they point, and what answers there.

use crate::function::{Bar, BarKind, Function};
use crate::registers as reg;
use crate::space::Space;
use crate::windows::Extent;
use donjon_devices::{MmioDevice, PortDevice};
use std::sync::Arc;

/// A BAR on a bus.
pub(crate) struct Window {
    pub function: Arc<dyn Function>,
    pub bar: u8,
}

impl MmioDevice for Window {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.function.read(self.bar, offset, size)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.function.write(self.bar, offset, size, value);
    }
}

impl PortDevice for Window {
    fn read(&self, offset: u16, size: u8) -> u32 {
        self.function.read(self.bar, offset.into(), size) as u32
    }
    fn write(&self, offset: u16, size: u8, value: u32) {
        self.function.write(self.bar, offset.into(), size, value.into());
    }
}

/// Whether it takes two registers.
pub(crate) fn is_wide(bar: &Bar) -> bool {
    matches!(bar.kind, BarKind::Memory64 { .. })
}

/// What a BAR says. `None` if it wraps.
pub(crate) fn extent(space: &Space, bar: &Bar) -> Option<Extent> {
    let at = reg::BAR + usize::from(bar.index) * 4;
    let high = if is_wide(bar) { space.u32(at + 4) } else { 0 };
    let value = u64::from(high) << 32 | u64::from(space.u32(at));
    Extent::new(bar.kind.into(), value & !(bar.size - 1), bar.size)
}
