//! The guest's address and what belongs to it, for those who ask (RFC 2131).

use super::core::Core;
use super::resolver::Resolver;
use super::{ip, udp};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};
use std::net::{Ipv4Addr, SocketAddr};

/// The server's port, and the client's.
pub const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Seconds for which the address is let. It stays the same.
const LEASE: u32 = 86400;
/// Options (RFC 2132, RFC 3397).
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
/// Bytes of a domain's name at most (RFC 1035 §3.1).
const MAX_DOMAIN: usize = 253;

/// Answers a message.
pub fn input(core: &mut Core, resolver: &mut Resolver, message: &[u8]) {
    let Ok(packet) = DhcpPacket::new_checked(message) else {
        return;
    };
    let Ok(request) = DhcpRepr::parse(&packet) else {
        return;
    };
    let addresses = core.addresses;
    let Some(kind) = answer(&request, addresses.guest, addresses.gateway) else {
        return;
    };
    let accepted = kind != DhcpMessageType::Nak;
    // Who has an address and only asks for the rest is not let one.
    let lets = accepted && request.message_type != DhcpMessageType::Inform;
    let mtu = (core.mtu as u16).to_be_bytes();
    let domain = resolver.domain(core.now).filter(|d| d.len() <= MAX_DOMAIN);
    let mut options = vec![];
    if accepted {
        options.push(DhcpOption {
            kind: MTU,
            data: &mtu,
        });
        if let Some(domain) = &domain {
            options.push(DhcpOption {
                kind: DOMAIN,
                data: domain.as_bytes(),
            });
        }
    }
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if lets {
            Ipv4Addr::UNSPECIFIED
        } else {
            request.client_ip
        },
        your_ip: if lets {
            addresses.guest
        } else {
            Ipv4Addr::UNSPECIFIED
        },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: accepted.then_some(addresses.gateway),
        subnet_mask: accepted.then_some(addresses.mask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(addresses.gateway),
        parameter_request_list: None,
        dns_servers: accepted.then(|| [addresses.dns].into_iter().collect()),
        max_size: None,
        lease_duration: lets.then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    let mut bytes = vec![0; reply.buffer_len()];
    if reply
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
        .is_err()
    {
        return;
    }
    // A client that has no address yet may not take what is for one (RFC 2131 §4.1).
    let to = match request.client_ip {
        ip if accepted && ip == addresses.guest => ip,
        _ => Ipv4Addr::BROADCAST,
    };
    let EthernetAddress(client) = request.client_hardware_address;
    let mac = match request.broadcast || client[0] & 1 != 0 {
        true => [0xff; 6],
        false => client,
    };
    let (from, to) = ((addresses.gateway, SERVER).into(), (to, CLIENT).into());
    udp::send(core, mac, (from, to), &bytes);
}

/// What to say to a request, if anything.
fn answer(request: &DhcpRepr<'_>, guest: Ipv4Addr, server: Ipv4Addr) -> Option<DhcpMessageType> {
    // Another server was chosen.
    if request.server_identifier.is_some_and(|s| s != server) {
        return None;
    }
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(match wanted == guest {
                true => DhcpMessageType::Ack,
                false => DhcpMessageType::Nak,
            })
        }
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        _ => None,
    }
}

/// Whether a datagram is for the server.
pub fn is_for_server(core: &Core, packet: &ip::Ip, to: SocketAddr) -> bool {
    to.port() == SERVER
        && packet.source.is_ipv4()
        && (to.ip() == Ipv4Addr::BROADCAST
            || to.ip() == core.addresses.gateway
            || to.ip() == core.addresses.broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const SERVER_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 16);

    /// What is said to a message with these addresses: the one asked for, the one it has, and its server's.
    fn said(
        kind: DhcpMessageType,
        asked: Option<Ipv4Addr>,
        has: Ipv4Addr,
        server: Option<Ipv4Addr>,
    ) -> Option<u8> {
        let request = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 1]),
            client_ip: has,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: asked,
            client_identifier: None,
            server_identifier: server,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        answer(&request, GUEST, SERVER_ID).map(u8::from)
    }

    #[test]
    fn there_is_one_address_to_have() {
        use DhcpMessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        let none = Ipv4Addr::UNSPECIFIED;
        for (kind, asked, has, server, expected) in [
            (Discover, None, none, None, Some(Offer)),
            (Discover, Some(OTHER), none, None, Some(Offer)),
            // Selected, known from before, renewed (RFC 2131 §4.3.2).
            (Request, Some(GUEST), none, Some(SERVER_ID), Some(Ack)),
            (Request, Some(GUEST), none, None, Some(Ack)),
            (Request, None, GUEST, None, Some(Ack)),
            (Request, Some(OTHER), none, None, Some(Nak)),
            (Request, None, OTHER, None, Some(Nak)),
            (Request, None, none, None, Some(Nak)),
            // Another server's.
            (Request, Some(GUEST), none, Some(OTHER), None),
            (Inform, None, OTHER, None, Some(Ack)),
            (Release, None, GUEST, Some(SERVER_ID), None),
            (Decline, Some(GUEST), none, Some(SERVER_ID), None),
        ] {
            assert_eq!(
                said(kind, asked, has, server),
                expected.map(u8::from),
                "{kind:?} {asked:?} {has} {server:?}"
            );
        }
    }
}
