//! What the driver sees: features and configuration space.

use donjon_limit::Limit;
use donjon_net::Mac;

/// The most pairs of queues.
pub const MAX_PAIRS: u16 = 64;
/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// What is chosen for a device.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Its address.
    pub mac: Mac,
    /// The largest packet it is to send, without the Ethernet header; told to the driver.
    pub mtu: Option<u16>,
    /// What it may do in each direction.
    pub limit: Limit,
}

/// Feature bits (virtio 1.2 §5.1.3).
pub mod feature {
    use donjon_net::Offloads;

    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MERGEABLE: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CONTROL: u64 = 1 << 17;
    pub const CONTROL_RX: u64 = 1 << 18;
    pub const MULTI_QUEUE: u64 = 1 << 22;
    pub const CONTROL_MAC: u64 = 1 << 23;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;

    /// What either side may leave undone: the backend's name for it, and the bits for packets from the guest and
    /// to it.
    const OFFLOADS: [(Offloads, u64, u64); 6] = [
        (Offloads::CSUM, CSUM, GUEST_CSUM),
        (Offloads::TSO4, HOST_TSO4, GUEST_TSO4),
        (Offloads::TSO6, HOST_TSO6, GUEST_TSO6),
        (Offloads::ECN, HOST_ECN, GUEST_ECN),
        (Offloads::USO4, 0, GUEST_USO4),
        (Offloads::USO6, 0, GUEST_USO6),
    ];

    /// What a device on a backend with these offloads offers, whatever its settings are.
    pub fn offered(backend: Offloads) -> u64 {
        let mut bits = MAC | MERGEABLE | STATUS | CONTROL | CONTROL_RX | CONTROL_MAC;
        for (offload, from_guest, to_guest) in OFFLOADS {
            if backend.contains(offload) {
                bits |= from_guest | to_guest | CTRL_GUEST_OFFLOADS;
            }
        }
        if backend.contains(Offloads::USO4 | Offloads::USO6) {
            bits |= HOST_USO;
        }
        bits
    }

    /// What a driver with these features takes undone.
    pub fn guest_offloads(features: u64) -> Offloads {
        OFFLOADS
            .iter()
            .filter(|(_, _, to_guest)| features & to_guest != 0)
            .fold(Offloads::NONE, |all, (offload, ..)| all | *offload)
    }
}

/// virtio_net_config (virtio 1.2 §5.1.4).
pub fn bytes(mac: Mac, link: bool, pairs: u16, mtu: u16) -> [u8; 12] {
    let mut c = [0; 12];
    c[..6].copy_from_slice(&mac.bytes());
    c[6..8].copy_from_slice(&if link { LINK_UP } else { 0 }.to_le_bytes());
    c[8..10].copy_from_slice(&pairs.to_le_bytes());
    c[10..].copy_from_slice(&mtu.to_le_bytes());
    c
}
