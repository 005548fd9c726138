//! What the driver tells of the guest's memory (virtio 1.2 §5.5.6.3).

use donjon_memory::Scatter;
use std::time::Duration;

/// Bytes of `virtio_balloon_stat`.
const ENTRY: usize = 10;
/// The most entries that are looked at.
const MOST: usize = 64;

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident = $tag:literal,)*) => {
        /// The guest's memory, as its driver reported it. What it did not report is `None`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Statistics {
            /// How long ago that was.
            pub age: Duration,
            $($(#[$doc])* pub $name: Option<u64>,)*
        }

        impl Statistics {
            fn set(&mut self, tag: u16, value: u64) {
                match tag {
                    $($tag => self.$name = Some(value),)*
                    // Newer than this list.
                    _ => {}
                }
            }

            /// The values that were reported, with their names.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*]
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
            }
        }
    };
}

statistics! {
    /// Bytes swapped in, since boot.
    swap_in = 0,
    /// Bytes swapped out, since boot.
    swap_out = 1,
    /// Page faults that needed a disk, since boot.
    major_faults = 2,
    /// Other page faults, since boot.
    minor_faults = 3,
    /// Bytes of no use to anyone.
    free_memory = 4,
    /// Bytes that the guest's system has.
    total_memory = 5,
    /// Bytes that could be had without swapping.
    available_memory = 6,
    /// Bytes of cached files.
    disk_caches = 7,
    /// Huge pages allocated, since boot.
    hugetlb_allocations = 8,
    /// Huge pages that could not be, since boot.
    hugetlb_failures = 9,
    /// Processes killed for want of memory, since boot.
    oom_kills = 10,
    /// Allocations that had to wait, since boot.
    allocation_stalls = 11,
    /// Pages scanned in the background, since boot.
    async_scans = 12,
    /// Pages scanned by those who wanted memory, since boot.
    direct_scans = 13,
    /// Pages reclaimed in the background, since boot.
    async_reclaims = 14,
    /// Pages reclaimed by those who wanted memory, since boot.
    direct_reclaims = 15,
}

/// Makes sense of a buffer.
pub(super) fn parse(buffer: &Scatter) -> Statistics {
    let mut s = Statistics::default();
    for n in 0..(buffer.len() / ENTRY).min(MOST) {
        let mut e = [0; ENTRY];
        buffer.load(n * ENTRY, &mut e);
        let value = u64::from_le_bytes(e[2..].try_into().expect("eight bytes"));
        s.set(u16::from_le_bytes([e[0], e[1]]), value);
    }
    s
}
