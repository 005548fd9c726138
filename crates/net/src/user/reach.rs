//! What of the host's network the guest can reach.
//!
//! That is what an ordinary program on the host can reach, the host's own addresses included, less what is the
//! host's alone: its loopback under any name, links' own addresses (169.254.0.0/16 with a cloud's metadata
//! service, fe80::/10), groups, and what is reserved. With `host-loopback` the gateway's address stands for the
//! host's loopback.

use super::addresses::Addresses;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Decides.
pub struct Reach {
    addresses: Addresses,
    host_loopback: bool,
}

/// Where a destination of the guest's is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// On the host or beyond, under this address.
    Outside(IpAddr),
    /// It is the gateway's own, where nothing listens.
    Gateway,
    /// It is that of the relay to nameservers.
    Dns,
    /// Nowhere: no such host.
    Nowhere,
    /// It is one for many, or for nobody in particular.
    Group,
}

impl Reach {
    pub fn new(addresses: Addresses, host_loopback: bool) -> Self {
        Self {
            addresses,
            host_loopback,
        }
    }

    /// Where on the host a destination of the guest's is.
    pub fn outward(&self, destination: IpAddr) -> Reached {
        let (gateway, dns, loopback): (IpAddr, IpAddr, IpAddr) = match destination {
            IpAddr::V4(_) => (
                self.addresses.gateway.into(),
                self.addresses.dns.into(),
                Ipv4Addr::LOCALHOST.into(),
            ),
            IpAddr::V6(_) => (
                self.addresses.gateway6.into(),
                self.addresses.dns6.into(),
                Ipv6Addr::LOCALHOST.into(),
            ),
        };
        match destination {
            a if a == gateway && self.host_loopback => Reached::Outside(loopback),
            a if a == gateway => Reached::Gateway,
            a if a == dns => Reached::Dns,
            IpAddr::V4(a) if a.is_multicast() || a.is_broadcast() || a == self.addresses.broadcast => {
                Reached::Group
            }
            IpAddr::V6(a) if a.is_multicast() => Reached::Group,
            a if self.addresses.contains(a) || !is_global(a) => Reached::Nowhere,
            a => Reached::Outside(a),
        }
    }

    /// Under which address the guest knows a sender; not at all if that is none of its business.
    pub fn inward(&self, source: IpAddr) -> Option<IpAddr> {
        match source {
            a if a.is_loopback() && self.host_loopback => Some(match a {
                IpAddr::V4(_) => self.addresses.gateway.into(),
                IpAddr::V6(_) => self.addresses.gateway6.into(),
            }),
            a => (is_global(a) && !self.addresses.contains(a)).then_some(a),
        }
    }
}

/// Whether an address may be that of one host beyond this link, other than this host's alone.
fn is_global(address: IpAddr) -> bool {
    match address {
        // "This" network, loopback, links, groups, reserved, broadcast (RFC 6890).
        IpAddr::V4(a) => !matches!(a.octets(), [0 | 127 | 224.., ..] | [169, 254, ..]),
        // Unspecified, loopback, all forms of IPv4 addresses in ::/8 (RFC 4291 §2.5.5), links, groups. Of what goes to a
        // translator at 64:ff9b::/96 (RFC 6052), the IPv4 address decides.
        IpAddr::V6(a) => match a.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                is_global(Ipv4Addr::new(a, b, c, d).into())
            }
            // fe80::/10 are links, fec0::/10 what was once for sites.
            [first, ..] => (0x100..0xfe80).contains(&first),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserNet;

    fn reach(host_loopback: bool) -> Reach {
        Reach::new(UserNet::default().addresses(), host_loopback)
    }

    #[test]
    fn the_host_has_itself_to_itself() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "240.0.0.1",
            "10.0.2.77",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd00::77",
        ] {
            let address: IpAddr = address.parse().unwrap();
            for loopback in [false, true] {
                assert_eq!(reach(loopback).outward(address), Reached::Nowhere, "{address}");
            }
            assert_eq!(reach(false).inward(address), None, "{address}");
        }
        for group in [
            "224.0.0.251",
            "239.1.2.3",
            "255.255.255.255",
            "10.0.2.255",
            "ff02::1",
        ] {
            assert_eq!(
                reach(true).outward(group.parse().unwrap()),
                Reached::Group,
                "{group}"
            );
        }
    }

    #[test]
    fn others_are_reached_as_they_are() {
        for address in [
            "192.168.1.1",
            "10.0.3.1",
            "1.1.1.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd01::1",
            "64:ff9b::1.1.1.1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(reach(false).outward(address), Reached::Outside(address));
            assert_eq!(reach(false).inward(address), Some(address));
        }
    }

    #[test]
    fn the_gateway_is_the_loopback_only_if_that_was_said() {
        for (gateway, dns, loopback) in [
            ("10.0.2.2", "10.0.2.3", "127.0.0.1"),
            ("fd00::2", "fd00::3", "::1"),
        ] {
            let [gateway, dns, loopback] = [gateway, dns, loopback].map(|a| a.parse::<IpAddr>().unwrap());
            assert_eq!(reach(false).outward(gateway), Reached::Gateway);
            assert_eq!(reach(true).outward(gateway), Reached::Outside(loopback));
            assert_eq!(reach(true).outward(dns), Reached::Dns);
            assert_eq!(reach(true).inward(loopback), Some(gateway));
            assert_eq!(reach(false).inward(loopback), None);
        }
    }
}
