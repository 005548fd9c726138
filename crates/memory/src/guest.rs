//! RAM as the rust-vmm crates see it: [`vm_memory`]'s traits, so that their queues work on it.
//!
//! Everything stored through them ends in the code map, as every other store does: what vm-memory calls the
//! dirty bitmap is told of each store.

use crate::ram::{Ram, RamRange, RangeKind};
use std::sync::Arc;
use vm_memory::bitmap::{BS, Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection,
    MemoryRegionAddress, VolatileSlice,
};

/// All of a domain's memory that can be written.
pub type GuestRam = GuestRegionCollection<Region>;

/// One of [`Ram::ranges`].
#[derive(Clone)]
pub struct Region {
    ram: Arc<Ram>,
    range: RamRange,
}

/// RAM's ranges as regions, without read-only files: whoever has a slice may store to it.
pub fn guest_ram(ram: &Arc<Ram>) -> GuestRam {
    let region = |range: &RamRange| Region {
        ram: ram.clone(),
        range: *range,
    };
    let writable = ram.ranges().iter().filter(|r| r.kind != RangeKind::ReadOnlyFile);
    GuestRam::from_regions(writable.map(region).collect()).expect("RAM has ranges, ascending and apart")
}

/// Who is told of stores.
pub struct Stores;

/// Stores to RAM from an offset on.
#[derive(Clone, Copy)]
pub struct StoresFrom<'a> {
    ram: &'a Ram,
    offset: usize,
}

impl std::fmt::Debug for StoresFrom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoresFrom({:#x})", self.offset)
    }
}

impl<'a> WithBitmapSlice<'a> for Stores {
    type S = StoresFrom<'a>;
}

impl Bitmap for Stores {
    fn mark_dirty(&self, _: usize, _: usize) {
        unreachable!("regions hand out slices of their own")
    }
    fn dirty_at(&self, _: usize) -> bool {
        unreachable!("regions hand out slices of their own")
    }
    fn slice_at(&self, _: usize) -> StoresFrom<'_> {
        unreachable!("regions hand out slices of their own")
    }
}

impl<'a> WithBitmapSlice<'a> for StoresFrom<'_> {
    type S = Self;
}

impl BitmapSlice for StoresFrom<'_> {}

impl Bitmap for StoresFrom<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.ram.stored(self.offset + offset, len);
    }
    /// Nobody here can say.
    fn dirty_at(&self, _: usize) -> bool {
        true
    }
    fn slice_at(&self, offset: usize) -> Self {
        Self {
            offset: self.offset + offset,
            ..*self
        }
    }
}

impl GuestMemoryRegion for Region {
    type B = Stores;

    fn len(&self) -> u64 {
        self.range.len
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.range.address)
    }

    fn bitmap(&self) -> BS<'_, Stores> {
        StoresFrom {
            ram: &self.ram,
            offset: self.range.offset as usize,
        }
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Stores>>, GuestMemoryError> {
        let fits = offset
            .0
            .checked_add(count as u64)
            .is_some_and(|end| end <= self.range.len);
        if !fits {
            let address = self.range.address.saturating_add(offset.0);
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(address)));
        }
        let at = self.range.offset as usize + offset.0 as usize;
        let bitmap = StoresFrom {
            ram: &self.ram,
            offset: at,
        };
        let address = self.ram.span(at, count);
        // SAFETY: `span` checked that the bytes lie inside the mapping, which lives as long as `self.ram`, and
        // all who access it use machine accesses or atomics (`access`).
        Ok(unsafe { VolatileSlice::with_bitmap(address, count, bitmap, None) })
    }
}

impl GuestMemoryRegionBytes for Region {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HOLE_END;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn addresses_lead_where_ram_says_and_nowhere_else() {
        let ram = Arc::new(Ram::new((3 << 30) + 8192).unwrap());
        let guest = guest_ram(&ram);
        guest
            .write_obj(0x1122_3344u32, GuestAddress(HOLE_END + 4))
            .unwrap();
        assert_eq!(ram.load::<u32>((3 << 30) + 4), 0x1122_3344);
        for bad in [3 << 30, HOLE_END + 8192, HOLE_END - 4, u64::MAX - 3] {
            assert!(guest.read_obj::<u32>(GuestAddress(bad)).is_err(), "{bad:#x}");
        }
        assert!(guest.write_obj(0u64, GuestAddress(HOLE_END + 8188)).is_err());
        assert!(!guest.check_range(GuestAddress(HOLE_END), 8193));
    }

    #[test]
    fn stores_beside_code_are_noticed() {
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let guest = guest_ram(&ram);
        let before = ram.code().mark(0x2000, 64);
        guest.write_obj(1u8, GuestAddress(0x2040)).unwrap();
        assert_eq!(ram.code().generation(0x2000), before);
        guest.write_obj(1u8, GuestAddress(0x203f)).unwrap();
        assert_ne!(ram.code().generation(0x2000), before);
    }
}
