//! The guest's network: who has which address in it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 network with room for host and guest: `10.0.2.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    base: Ipv4Addr,
    prefix: u8,
}

/// An IPv6 network of 64 bits: `fd00::/64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network6(Ipv6Addr);

/// It is no network for a guest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Not ADDRESS/LENGTH, or of the other family.
    #[error("{0:?} is no network; write one such as 10.0.2.0/24")]
    Syntax(String),
    /// Too small, or larger than any private one.
    #[error("{0}: the prefix must be of 8 to 29 bits, as in 10.0.2.0/24")]
    Prefix(String),
    /// Bits behind the prefix are set.
    #[error("{given} is an address in a network; write the network: {network}")]
    Host {
        /// What was given.
        given: String,
        /// The network it is in.
        network: String,
    },
    /// Loopback, multicast and others.
    #[error(
        "{0}: hosts cannot have addresses there; take a private network such as 10.0.2.0/24 or fd00::/64"
    )]
    Special(String),
    /// Not of 64 bits.
    #[error("{0:?} is no IPv6 network of 64 bits; write one such as fd00::/64")]
    Syntax6(String),
}

/// Who has which address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// The host, to the guest: its router. The network's second address, 10.0.2.2.
    pub gateway: Ipv4Addr,
    /// The relay to the host's nameservers: the third, 10.0.2.3.
    pub dns: Ipv4Addr,
    /// The guest: the fifteenth, 10.0.2.15; the fourth in networks that are smaller than that.
    pub guest: Ipv4Addr,
    /// Bits of the network's prefix.
    pub prefix: u8,
    /// The network's last address, for everybody in it.
    pub broadcast: Ipv4Addr,
    /// The router, over IPv6: fd00::2.
    pub gateway6: Ipv6Addr,
    /// The relay to the host's nameservers, over IPv6: fd00::3.
    pub dns6: Ipv6Addr,
    /// For a guest that is told its IPv6 address, in the same 64 bits: fd00::15. Others make theirs up.
    pub guest6: Ipv6Addr,
    /// The Ethernet address of gateway and relay.
    pub mac: [u8; 6],
}

/// The router's address on the link (RFC 4861 §6.1.2 wants advertisements to come from there).
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl Addresses {
    /// Of these networks.
    pub fn new(network: Network, network6: Network6) -> Self {
        let base = network.base.to_bits();
        let last = base | (u32::MAX >> network.prefix);
        let at = |n: u32| Ipv4Addr::from_bits(base + n);
        let at6 = |n: u128| Ipv6Addr::from_bits(network6.0.to_bits() + n);
        let [a, b, c, d] = at(2).octets();
        Self {
            gateway: at(2),
            dns: at(3),
            guest: if network.prefix <= 27 { at(15) } else { at(4) },
            prefix: network.prefix,
            broadcast: Ipv4Addr::from_bits(last),
            gateway6: at6(2),
            dns6: at6(3),
            guest6: at6(0x15),
            mac: [0x52, 0x55, a, b, c, d],
        }
    }

    /// Bits of the IPv6 network's prefix.
    pub const PREFIX6: u8 = 64;

    /// The network's mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(!(u32::MAX >> self.prefix))
    }

    /// The IPv6 network.
    pub fn network6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.gateway6.to_bits() & !u128::from(u64::MAX))
    }

    /// Whether an address is in the guest's network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => (a & self.mask()) == (self.gateway & self.mask()),
            IpAddr::V6(a) => a.to_bits() >> 64 == self.gateway6.to_bits() >> 64,
        }
    }

    /// Whether gateway or relay have it.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => a == self.gateway || a == self.dns,
            IpAddr::V6(a) => a == self.gateway6 || a == self.dns6 || a == LINK_LOCAL,
        }
    }

    /// Whether it may be the guest's.
    pub fn may_be_guest(&self, address: IpAddr) -> bool {
        let special = match address {
            IpAddr::V4(a) => a == self.broadcast || a == (self.gateway & self.mask()),
            IpAddr::V6(a) if a.is_unicast_link_local() => return a != LINK_LOCAL,
            IpAddr::V6(a) => a == self.network6(),
        };
        self.contains(address) && !special && !self.is_ours(address)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            base: Ipv4Addr::new(10, 0, 2, 0),
            prefix: 24,
        }
    }
}

impl Default for Network6 {
    fn default() -> Self {
        Self(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let syntax = || NetworkError::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        if !(8..=29).contains(&prefix) {
            return Err(NetworkError::Prefix(text.to_owned()));
        }
        let base = Ipv4Addr::from_bits(address.to_bits() & !(u32::MAX >> prefix));
        if base != address {
            return Err(NetworkError::Host {
                given: text.to_owned(),
                network: format!("{base}/{prefix}"),
            });
        }
        // The first byte is never that of something else: prefixes have 8 bits at least.
        if matches!(base.octets()[0], 0 | 127 | 224..) || base.is_link_local() {
            return Err(NetworkError::Special(text.to_owned()));
        }
        Ok(Self { base, prefix })
    }
}

impl FromStr for Network6 {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let syntax = || NetworkError::Syntax6(text.to_owned());
        let address = text.strip_suffix("/64").ok_or_else(syntax)?;
        let address: Ipv6Addr = address.parse().map_err(|_| syntax())?;
        let base = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
        if base != address {
            return Err(NetworkError::Host {
                given: text.to_owned(),
                network: format!("{base}/64"),
            });
        }
        let first = base.segments()[0];
        if !(0x2000..0xfe00).contains(&first) {
            return Err(NetworkError::Special(text.to_owned()));
        }
        Ok(Self(base))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Display for Network6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.0)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl TryFrom<String> for Network6 {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl From<Network6> for String {
    fn from(network: Network6) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(network: &str) -> Addresses {
        Addresses::new(network.parse().unwrap(), Network6::default())
    }

    #[test]
    fn addresses_are_the_usual_ones() {
        let a = addresses("10.0.2.0/24");
        assert_eq!(a, Addresses::new(Network::default(), Network6::default()));
        let v4 = [a.gateway, a.dns, a.guest, a.broadcast, a.mask()].map(|a| a.to_string());
        assert_eq!(
            v4,
            ["10.0.2.2", "10.0.2.3", "10.0.2.15", "10.0.2.255", "255.255.255.0"]
        );
        let v6 = [a.gateway6, a.dns6, a.guest6, a.network6()].map(|a| a.to_string());
        assert_eq!(v6, ["fd00::2", "fd00::3", "fd00::15", "fd00::"]);
        for (address, guest) in [
            ("10.0.2.15", true),
            ("10.0.2.99", true),
            ("10.0.2.0", false),
            ("10.0.2.2", false),
            ("10.0.2.255", false),
            ("10.0.3.1", false),
            ("fd00::15", true),
            ("fe80::15", true),
            ("fe80::2", false),
            ("fd00::3", false),
            ("fd01::15", false),
        ] {
            assert_eq!(a.may_be_guest(address.parse().unwrap()), guest, "{address}");
        }
    }

    #[test]
    fn small_networks_have_room() {
        let a = addresses("192.168.7.8/29");
        let all = [a.gateway, a.dns, a.guest, a.broadcast].map(|a| a.to_string());
        assert_eq!(
            all,
            ["192.168.7.10", "192.168.7.11", "192.168.7.12", "192.168.7.15"]
        );
    }

    #[test]
    fn other_networks_are_refused() {
        for (text, what) in [
            ("10.0.2.0", "10.0.2.0/24"),
            ("10.0.2.0/30", "8 to 29"),
            ("10.0.2.1/24", "write the network: 10.0.2.0/24"),
            ("127.0.0.0/8", "private"),
            ("224.0.0.0/8", "private"),
            ("169.254.0.0/16", "private"),
            ("fd00::/64", "no network"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        for (text, what) in [
            ("fd00::", "64 bits"),
            ("fd00::/48", "64 bits"),
            ("fd00::1/64", "fd00::/64"),
            ("fe80::/64", "private"),
            ("::/64", "private"),
        ] {
            let error = text.parse::<Network6>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
