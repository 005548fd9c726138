//! What can be left undone in a packet.

use std::fmt;
use std::ops::BitOr;

/// A set of things that need not have been done to a packet, as its header says.
///
/// The bits are those of TUNSETOFFLOAD (linux/if_tun.h). Fragmentation of UDP (UFO) is not among them: Linux
/// itself has given it up, USO has taken its place.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u8);

impl Offloads {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The checksum of TCP or UDP is missing (VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM). All else needs this.
    pub const CSUM: Self = Self(0x01);
    /// Several TCP segments in one packet, over IPv4 (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4).
    pub const TSO4: Self = Self(0x02);
    /// The same over IPv6 (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6).
    pub const TSO6: Self = Self(0x04);
    /// Those also with the CWR flag (VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN).
    pub const ECN: Self = Self(0x08);
    /// Several UDP datagrams in one packet, over IPv4 (VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4).
    pub const USO4: Self = Self(0x20);
    /// The same over IPv6 (VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO6).
    pub const USO6: Self = Self(0x40);
    /// Everything.
    pub const ALL: Self = Self(0x6f);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::CSUM, "csum"),
        (Self::TSO4, "tso4"),
        (Self::TSO6, "tso6"),
        (Self::ECN, "ecn"),
        (Self::USO4, "uso4"),
        (Self::USO6, "uso6"),
    ];

    /// Those of `bits` that are known.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// As TUNSETOFFLOAD wants them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of these are in it.
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Without these.
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl BitOr for Offloads {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl fmt::Debug for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(bit, _)| self.contains(*bit));
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}
