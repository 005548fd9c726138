//! From a description to a configuration space.

use crate::function::{Bar, BarKind, Capability, Description, Msix};
use crate::msix::{MAX_VECTORS, bar_size, pending_offset};
use crate::registers::{self as reg, bar, command, express, msix, power, status};
use crate::space::Space;
use std::ops::Range;

/// A description that no configuration space can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescriptionError {
    /// A BAR that there is not, or that is described twice.
    #[error("BAR {0} does not exist or is described twice")]
    BarIndex(u8),
    /// No power of two, too small, or too large for its kind.
    #[error(
        "BAR {index} cannot have {size:#x} bytes: memory BARs have a power of two from 4096, I/O BARs from 4 to 256"
    )]
    BarSize {
        /// Which.
        index: u8,
        /// Bytes.
        size: u64,
    },
    /// Too few or too many.
    #[error("a function has 1 to {MAX_VECTORS} MSI-X vectors, not {0}")]
    Vectors(u16),
    /// More capabilities than fit.
    #[error("the capabilities end at {0:#x}, past the end of configuration space")]
    Capabilities(usize),
    /// A capability without ID and link, or with more writable bits than bytes.
    #[error("capability {0} has fewer than two bytes, or more writable bytes than bytes")]
    Capability(usize),
}

/// Where things are in one function's configuration space.
#[derive(Clone, Default)]
pub(crate) struct Layout {
    /// All BARs, that of MSI-X included.
    pub bars: Vec<Bar>,
    /// Offsets of capabilities.
    pub power: Option<usize>,
    pub express: Option<usize>,
    pub msix_capability: Option<usize>,
    pub capabilities: Vec<Range<usize>>,
}

/// Writes capabilities one after the other and links them.
struct Chain<'a> {
    space: &'a mut Space,
    /// The byte that links to the next one.
    link: usize,
    next: usize,
}

impl Chain<'_> {
    /// Room for a capability; its offset.
    fn add(&mut self, id: u8, len: usize) -> Result<usize, DescriptionError> {
        let at = self.next;
        let end = at + len.next_multiple_of(4);
        if end > reg::SIZE {
            return Err(DescriptionError::Capabilities(end));
        }
        self.space.set(self.link, &[at as u8]);
        self.space.set(at, &[id, 0]);
        (self.link, self.next) = (at + 1, end);
        Ok(at)
    }
}

/// Configuration space as it is after reset, before addresses are assigned.
pub(crate) fn build(d: &Description) -> Result<(Layout, Space), DescriptionError> {
    let mut layout = Layout {
        bars: d.bars.clone(),
        ..Layout::default()
    };
    if let Some(Msix { vectors, bar }) = d.msix {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            return Err(DescriptionError::Vectors(vectors));
        }
        let kind = BarKind::Memory32 { prefetchable: false };
        layout.bars.push(Bar {
            index: bar,
            kind,
            size: bar_size(vectors),
        });
    }
    layout.bars.sort_by_key(|b| b.index);
    let mut space = Space::default();
    header(d, &layout, &mut space);
    bars(&layout.bars, &mut space)?;
    let mut chain = Chain {
        space: &mut space,
        link: reg::CAPABILITIES,
        next: reg::HEADER_END,
    };
    if d.express {
        layout.power = Some(power_management(&mut chain)?);
        layout.express = Some(express_capability(&mut chain)?);
    }
    if let Some(m) = d.msix {
        layout.msix_capability = Some(msix_capability(&mut chain, m)?);
    }
    for (i, c) in d.capabilities.iter().enumerate() {
        layout.capabilities.push(other_capability(&mut chain, i, c)?);
    }
    if chain.next > reg::HEADER_END {
        space.set(reg::STATUS, &status::CAPABILITIES.to_le_bytes());
    }
    Ok((layout, space))
}

fn header(d: &Description, layout: &Layout, space: &mut Space) {
    space.set(reg::VENDOR, &d.ids.vendor.to_le_bytes());
    space.set(reg::DEVICE, &d.ids.device.to_le_bytes());
    space.set(reg::REVISION, &[d.ids.revision]);
    space.set(reg::INTERFACE, &[d.class.interface, d.class.sub, d.class.base]);
    space.set(reg::SUBSYSTEM_VENDOR, &d.ids.subsystem_vendor.to_le_bytes());
    space.set(reg::SUBSYSTEM, &d.ids.subsystem.to_le_bytes());
    let has = |io: bool| layout.bars.iter().any(|b| (b.kind == BarKind::Io) == io);
    let mut writable = command::PARITY | command::SERR;
    for (bit, present) in [
        (command::IO, has(true)),
        (command::MEMORY, has(false)),
        (command::MASTER, d.express),
        (command::INTX_DISABLE, d.intx),
    ] {
        writable |= if present { bit } else { 0 };
    }
    space.allow(reg::COMMAND, &writable.to_le_bytes());
    space.allow_clear(reg::STATUS, &status::ERRORS.to_le_bytes());
    space.allow(reg::CACHE_LINE, &[0xff]);
    if d.intx {
        space.allow(reg::INTERRUPT_LINE, &[0xff]);
    }
}

fn bars(bars: &[Bar], space: &mut Space) -> Result<(), DescriptionError> {
    let mut taken = 0u8;
    for &Bar { index, kind, size } in bars {
        let (bits, least, most) = match kind {
            BarKind::Io => (bar::IO, 4, 256),
            BarKind::Memory32 { prefetchable } => (prefetch(prefetchable), 0x1000, 1 << 31),
            BarKind::Memory64 { prefetchable } => (bar::MEMORY_64 | prefetch(prefetchable), 0x1000, 1 << 62),
        };
        if !size.is_power_of_two() || !(least..=most).contains(&size) {
            return Err(DescriptionError::BarSize { index, size });
        }
        let wide = matches!(kind, BarKind::Memory64 { .. });
        let registers = if wide { 0b11 } else { 0b1u8 };
        let here = registers.checked_shl(index.into()).unwrap_or(0);
        if index > if wide { 4 } else { 5 } || taken & here != 0 {
            return Err(DescriptionError::BarIndex(index));
        }
        taken |= here;
        let at = reg::BAR + usize::from(index) * 4;
        let mask = (!(size - 1)).to_le_bytes();
        space.set(at, &bits.to_le_bytes());
        space.allow(at, &mask[..if wide { 8 } else { 4 }]);
    }
    Ok(())
}

fn prefetch(prefetchable: bool) -> u32 {
    if prefetchable { bar::PREFETCHABLE } else { 0 }
}

fn power_management(chain: &mut Chain) -> Result<usize, DescriptionError> {
    let at = chain.add(power::ID, power::LEN)?;
    chain.space.set(at + 2, &power::CAPABILITIES.to_le_bytes());
    // Nothing is lost in D3hot.
    chain
        .space
        .set(at + power::CONTROL, &power::NO_SOFT_RESET.to_le_bytes());
    chain
        .space
        .allow(at + power::CONTROL, &power::STATE.to_le_bytes());
    Ok(at)
}

fn express_capability(chain: &mut Chain) -> Result<usize, DescriptionError> {
    let at = chain.add(express::ID, express::LEN)?;
    let capabilities = express::ROLE_BASED_ERRORS | express::FUNCTION_RESET;
    chain.space.set(at + 2, &express::CAPABILITIES.to_le_bytes());
    chain
        .space
        .set(at + express::DEVICE_CAPABILITIES, &capabilities.to_le_bytes());
    chain.space.set(
        at + express::DEVICE_CONTROL,
        &express::CONTROL_INITIAL.to_le_bytes(),
    );
    chain.space.allow(
        at + express::DEVICE_CONTROL,
        &express::CONTROL_WRITABLE.to_le_bytes(),
    );
    chain
        .space
        .allow_clear(at + express::DEVICE_STATUS, &express::STATUS_ERRORS.to_le_bytes());
    Ok(at)
}

fn msix_capability(chain: &mut Chain, m: Msix) -> Result<usize, DescriptionError> {
    let at = chain.add(msix::ID, msix::LEN)?;
    let pending = pending_offset(m.vectors) as u32;
    chain
        .space
        .set(at + msix::CONTROL, &(m.vectors - 1).to_le_bytes());
    chain.space.set(at + msix::TABLE, &u32::from(m.bar).to_le_bytes());
    chain
        .space
        .set(at + msix::PENDING, &(pending | u32::from(m.bar)).to_le_bytes());
    let writable = msix::ENABLE | msix::FUNCTION_MASK;
    chain.space.allow(at + msix::CONTROL, &writable.to_le_bytes());
    Ok(at)
}

fn other_capability(
    chain: &mut Chain,
    index: usize,
    c: &Capability,
) -> Result<Range<usize>, DescriptionError> {
    let len = c.bytes.len();
    if len < 2 || c.writable.len() > len {
        return Err(DescriptionError::Capability(index));
    }
    let at = chain.add(c.bytes[0], len)?;
    chain.space.set(at + 2, &c.bytes[2..]);
    chain.space.allow(at + 2, c.writable.get(2..).unwrap_or(&[]));
    Ok(at..at + len)
}
