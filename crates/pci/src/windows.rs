//! Where functions may be in the board's address spaces.

use crate::function::{Bar, BarKind};
use std::ops::Range;

/// The windows of the host bridge. What lies in them is PCI's: a BAR anywhere else is not mapped, whatever
/// the guest writes into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Windows {
    /// I/O ports.
    pub ports: Range<u64>,
    /// Memory below 4 GiB.
    pub low: Range<u64>,
    /// Memory above.
    pub high: Range<u64>,
}

/// An address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Memory,
    Ports,
}

impl From<BarKind> for Kind {
    fn from(kind: BarKind) -> Self {
        match kind {
            BarKind::Io => Kind::Ports,
            _ => Kind::Memory,
        }
    }
}

/// Addresses in one of them, the last one included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub kind: Kind,
    pub start: u64,
    pub last: u64,
}

impl Extent {
    /// `len` is at least 1. `None` if it wraps.
    pub fn new(kind: Kind, start: u64, len: u64) -> Option<Self> {
        let last = start.checked_add(len - 1)?;
        Some(Self { kind, start, last })
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.kind == other.kind && self.start <= other.last && other.start <= self.last
    }
}

impl Windows {
    /// Whether all of it lies in one window.
    pub(crate) fn contain(&self, e: &Extent) -> bool {
        let within = |w: &Range<u64>| w.contains(&e.start) && w.contains(&e.last);
        match e.kind {
            Kind::Ports => within(&self.ports),
            Kind::Memory => within(&self.low) || within(&self.high),
        }
    }

    /// A free place for a BAR: the lowest in the window that suits it best.
    pub(crate) fn place(&self, bar: &Bar, used: &[Extent]) -> Option<Extent> {
        let order: &[&Range<u64>] = match bar.kind {
            BarKind::Io => &[&self.ports],
            BarKind::Memory32 { .. } => &[&self.low],
            BarKind::Memory64 { prefetchable: true } => &[&self.high, &self.low],
            BarKind::Memory64 { prefetchable: false } => &[&self.low, &self.high],
        };
        order
            .iter()
            .find_map(|w| first_fit(w, bar.kind.into(), bar.size, used))
    }
}

fn first_fit(window: &Range<u64>, kind: Kind, size: u64, used: &[Extent]) -> Option<Extent> {
    let mut start = window.start.checked_next_multiple_of(size)?;
    loop {
        let here = Extent::new(kind, start, size)?;
        if here.last >= window.end {
            return None;
        }
        // Each turn gets past one of them for good.
        match used.iter().find(|u| u.overlaps(&here)) {
            None => return Some(here),
            Some(u) => start = u.last.checked_add(1)?.checked_next_multiple_of(size)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_are_aligned_inside_and_disjoint(shifts in prop::collection::vec((12u32..40, 0u8..3), 0..40)) {
            let w = Windows { ports: 0x1000..0x1_0000, low: 0xc000_0000..0xe000_0000, high: 1 << 39..1 << 40 };
            let mut used: Vec<Extent> = vec![];
            for (shift, kind) in shifts {
                let (kind, size) = match kind {
                    0 => (BarKind::Memory32 { prefetchable: false }, 1 << shift.min(31)),
                    1 => (BarKind::Memory64 { prefetchable: true }, 1 << shift),
                    _ => (BarKind::Io, 1 << (shift % 8 + 2).min(8)),
                };
                if let Some(e) = w.place(&Bar { index: 0, kind, size }, &used) {
                    prop_assert!(w.contain(&e) && e.start.is_multiple_of(size) && e.last - e.start == size - 1);
                    prop_assert!(!used.iter().any(|u| u.overlaps(&e)));
                    used.push(e);
                }
            }
        }
    }

    #[test]
    fn a_full_window_is_full() {
        let w = Windows {
            ports: 0x1000..0x1010,
            low: 0..1,
            high: u64::MAX - 0xfff..u64::MAX,
        };
        let bar = Bar {
            index: 0,
            kind: BarKind::Io,
            size: 16,
        };
        let first = w.place(&bar, &[]).unwrap();
        assert_eq!((first.start, first.last), (0x1000, 0x100f));
        assert_eq!(w.place(&bar, &[first]), None);
        let memory = Bar {
            kind: BarKind::Memory64 { prefetchable: true },
            size: 0x1000,
            ..bar
        };
        assert_eq!(
            w.place(&memory, &[]),
            None,
            "the end of the address space is no place"
        );
    }
}
