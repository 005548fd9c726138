//! Which Ethernet addresses the guest's addresses are at.

use std::collections::HashMap;
use std::net::IpAddr;

/// Addresses of the guest's that are remembered.
const MOST: usize = 256;

/// Learnt from what the guest sends.
#[derive(Default)]
pub struct Neighbours {
    table: HashMap<IpAddr, [u8; 6]>,
}

impl Neighbours {
    /// A packet has come from there.
    pub fn learn(&mut self, address: IpAddr, mac: [u8; 6]) {
        // A guest that makes up addresses has its others looked for again.
        if self.table.len() >= MOST && !self.table.contains_key(&address) {
            self.table.clear();
        }
        self.table.insert(address, mac);
    }

    /// Where it is.
    pub fn find(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.table.get(&address).copied()
    }
}
