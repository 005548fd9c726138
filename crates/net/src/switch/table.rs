//! Who has which address.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long an address is remembered after its last packet, as IEEE 802.1Q §8.8.3 recommends.
const AGE: Duration = Duration::from_secs(300);
/// Addresses behind one peer at most: more are sent to as if they were unknown.
const MAX_ADDRESSES: usize = 256;

/// The learned addresses.
#[derive(Default)]
pub struct Table {
    entries: HashMap<[u8; 6], Entry>,
}

struct Entry {
    peer: u64,
    seen: Instant,
}

impl Table {
    /// Whether a frame goes to a group, or is from nobody.
    pub fn is_group(address: [u8; 6]) -> bool {
        address[0] & 1 != 0 || address == [0; 6]
    }

    /// `peer` has sent from this address.
    pub fn learn(&mut self, address: [u8; 6], peer: u64, now: Instant) {
        if Self::is_group(address) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&address)
            && entry.peer == peer
        {
            entry.seen = now;
            return;
        }
        let full = |table: &Self| table.entries.values().filter(|e| e.peer == peer).count() >= MAX_ADDRESSES;
        if full(self) {
            self.entries.retain(|_, e| !e.is_old(now));
            if full(self) {
                return;
            }
        }
        self.entries.insert(address, Entry { peer, seen: now });
    }

    /// Who has this address.
    pub fn find(&self, address: [u8; 6], now: Instant) -> Option<u64> {
        let entry = self.entries.get(&address)?;
        (!entry.is_old(now)).then_some(entry.peer)
    }

    /// `peer` is gone.
    pub fn forget(&mut self, peer: u64) {
        self.entries.retain(|_, e| e.peer != peer);
    }
}

impl Entry {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) >= AGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> [u8; 6] {
        [2, 0, 0, 0, (n >> 8) as u8, n as u8]
    }

    #[test]
    fn addresses_move_age_and_go() {
        let (mut table, start) = (Table::default(), Instant::now());
        table.learn(address(1), 7, start);
        assert_eq!(table.find(address(1), start), Some(7));
        assert_eq!(table.find(address(2), start), None);
        table.learn(address(1), 8, start + AGE / 2);
        assert_eq!(table.find(address(1), start + AGE), Some(8));
        assert_eq!(table.find(address(1), start + 2 * AGE), None);
        table.forget(8);
        assert_eq!(table.find(address(1), start), None);
    }

    #[test]
    fn groups_are_never_learned() {
        let (mut table, now) = (Table::default(), Instant::now());
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            table.learn(group, 7, now);
            assert_eq!(table.find(group, now), None);
        }
    }

    #[test]
    fn one_peer_fills_its_own_share_only() {
        let (mut table, start) = (Table::default(), Instant::now());
        for n in 0..10_000 {
            table.learn(address(n), 7, start);
        }
        assert_eq!(table.entries.len(), MAX_ADDRESSES);
        table.learn(address(20_000), 8, start);
        assert_eq!(table.find(address(20_000), start), Some(8));
        // Old ones make room.
        table.learn(address(20_001), 7, start + AGE);
        assert_eq!(table.find(address(20_001), start + AGE), Some(7));
        assert_eq!(table.entries.len(), 1);
    }
}
