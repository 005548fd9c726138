//! Which BARs are on the buses.

use crate::windows::{Extent, Windows};
use donjon_devices::bus::Buses;
use donjon_devices::sync::Lock;
use donjon_devices::{MmioDevice, PortDevice};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// What answers at a BAR.
#[derive(Clone)]
pub(crate) enum Target {
    Memory(Arc<dyn MmioDevice>),
    Ports(Arc<dyn PortDevice>),
}

/// A BAR that decodes addresses.
#[derive(Clone)]
pub(crate) struct Claim {
    pub extent: Extent,
    pub target: Target,
}

/// Function and BAR.
type Key = (u8, u8);

#[derive(Default)]
struct Claims {
    wanted: BTreeMap<Key, Claim>,
    mapped: BTreeMap<Key, Extent>,
}

/// Puts BARs on the buses and takes them off.
///
/// What is mapped depends only on the registers of all functions, not on how they came about: of BARs that
/// overlap the one of the lowest function has the addresses, and the others have none until it has gone.
pub(crate) struct Map {
    /// The buses own, through the configuration ports, whoever owns this.
    buses: Weak<Buses>,
    windows: Windows,
    claims: Lock<Claims>,
}

impl Map {
    pub fn new(buses: &Arc<Buses>, windows: Windows) -> Self {
        Self {
            buses: Arc::downgrade(buses),
            windows,
            claims: Lock::default(),
        }
    }

    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Replaces the claims of a function.
    pub fn set(&self, function: u8, claims: impl Iterator<Item = (u8, Claim)>) {
        let mut c = self.claims.lock();
        c.wanted.retain(|key, _| key.0 != function);
        c.wanted
            .extend(claims.map(|(bar, claim)| ((function, bar), claim)));
        if let Some(buses) = self.buses.upgrade() {
            c.settle(&self.windows, &buses);
        }
    }
}

impl Claims {
    fn settle(&mut self, windows: &Windows, buses: &Buses) {
        let mut winners: BTreeMap<Key, &Claim> = BTreeMap::new();
        for (key, claim) in &self.wanted {
            let free = !winners.values().any(|w| w.extent.overlaps(&claim.extent));
            if free && windows.contain(&claim.extent) {
                winners.insert(*key, claim);
            }
        }
        self.mapped.retain(|key, extent| {
            let stays = winners.get(key).is_some_and(|w| w.extent == *extent);
            if !stays {
                match extent.kind {
                    crate::windows::Kind::Memory => drop(buses.mmio.remove(extent.start)),
                    crate::windows::Kind::Ports => drop(buses.ports.remove(extent.start)),
                }
            }
            stays
        });
        for (key, Claim { extent, target }) in winners {
            if self.mapped.contains_key(&key) {
                continue;
            }
            let len = extent.last - extent.start + 1;
            // Refused where the board itself has something: ports in the middle of the window.
            let added = match target {
                Target::Memory(device) => buses.mmio.add(extent.start, len, device.clone()),
                Target::Ports(device) => buses.ports.add(extent.start, len, device.clone()),
            };
            if added.is_ok() {
                self.mapped.insert(key, *extent);
            }
        }
    }
}
