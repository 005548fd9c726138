//! Who has an address: ARP (RFC 826), neighbour discovery and router advertisements (RFC 4861, RFC 8106).

use super::addresses::{Addresses, LINK_LOCAL};
use super::core::Core;
use super::timers::Timer;
use super::token::{Kind, Token};
use super::{icmp, ip};
use crate::header::{ETHERNET, HEADER};
use rustix::net::{AddressFamily, SocketAddrV6, SocketFlags, SocketType, connect, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Seconds for which the guest may count on an advertisement.
const LIFETIME: u16 = 1800;
/// Seconds for which an address made of the prefix is good, and for which new connections should use it.
const VALID: u32 = 86400;
const PREFERRED: u32 = 14400;
/// From one advertisement to the next (RFC 4861 §6.2.1).
const INTERVAL: Duration = Duration::from_secs(400);

/// The router's advertisements, where the MTU is one that IPv6 can have.
pub struct Router {
    timer: Timer,
    token: Token,
}

impl Router {
    /// The first advertisement answers the guest's question.
    pub fn new(core: &mut Core) -> Self {
        Self {
            timer: Timer::default(),
            token: core.token(Kind::Router),
        }
    }

    /// It is time for another.
    pub fn expired(&mut self, core: &mut Core) {
        if core.timers.is_due(&mut self.timer, self.token, core.now) {
            self.advertise(core);
        }
    }

    fn advertise(&mut self, core: &mut Core) {
        let addresses = core.addresses;
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
        // Without a way to others' networks for the host there is none for the guest, which then tries IPv4 at once.
        let lifetime = if host_has_route() { LIFETIME } else { 0 };
        message.extend(lifetime.to_be_bytes());
        // Reachable time and retransmission timer are not said.
        message.extend([0; 8]);
        message.extend([1, 1]);
        message.extend(addresses.mac);
        message.extend([5, 1, 0, 0]);
        message.extend((core.mtu as u32).to_be_bytes());
        // On the link, and to make addresses of.
        message.extend([3, 4, Addresses::PREFIX6, 0xc0]);
        message.extend(VALID.to_be_bytes());
        message.extend(PREFERRED.to_be_bytes());
        message.extend([0; 4]);
        message.extend(addresses.network6().octets());
        message.extend([25, 3, 0, 0]);
        message.extend(u32::from(LIFETIME).to_be_bytes());
        message.extend(addresses.dns6.octets());
        send(core, ALL_NODES_MAC, LINK_LOCAL, ALL_NODES, message);
        core.set_timer(&mut self.timer, self.token, INTERVAL);
    }

    /// Takes a message about neighbours; whether it was one.
    pub fn input(&mut self, core: &mut Core, packet: &ip::Ip, from: [u8; 6], message: &[u8]) -> bool {
        let kind = message[0];
        if !(ROUTER_SOLICITATION..=137).contains(&kind) {
            return false;
        }
        // One that was forwarded is forged.
        if packet.hops != 255 {
            return true;
        }
        match kind {
            ROUTER_SOLICITATION => self.advertise(core),
            NEIGHBOUR_SOLICITATION => {
                let Some(target) = message.get(8..24).and_then(<[u8]>::first_chunk::<16>) else {
                    return true;
                };
                answer(core, packet.source, from, Ipv6Addr::from(*target));
            }
            _ => {}
        }
        true
    }
}

fn answer(core: &mut Core, source: IpAddr, from: [u8; 6], target: Ipv6Addr) {
    let IpAddr::V6(source) = source else { return };
    if !core.addresses.is_ours(target.into()) {
        return;
    }
    // Of a router; solicited by one who has an address; to override what was known.
    let (to, mac, flags) = match source.is_unspecified() {
        true => (ALL_NODES, ALL_NODES_MAC, 0xa0),
        false => (source, from, 0xe0),
    };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(core.addresses.mac);
    send(core, mac, target, to, message);
}

fn send(core: &mut Core, mac: [u8; 6], from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) {
    let addresses = (from.into(), to.into());
    let protocol = icmp::finish(addresses, &mut message);
    core.send_ip(mac, addresses, protocol, &message);
}

/// Whether the host has a way to IPv6 networks of others. Nothing is sent to find that out.
fn host_has_route() -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None) else {
        return false;
    };
    // Any global unicast address (RFC 4291 §2.4).
    let anybody = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
    connect(&socket, &SocketAddrV6::new(anybody, 9, 0, 0)).is_ok()
}

/// Takes an ARP packet.
pub fn arp(core: &mut Core, frame: &[u8]) {
    let Some(packet) = frame.get(ETHERNET..).and_then(<[u8]>::first_chunk::<28>) else {
        return;
    };
    // Ethernet and IPv4.
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return;
    }
    let address = |at: usize| Ipv4Addr::from(*packet[at..].first_chunk::<4>().expect("28 bytes"));
    let mac: [u8; 6] = *packet[8..].first_chunk().expect("28 bytes");
    let (operation, sender, target) = (packet[7], address(14), address(24));
    if mac[0] & 1 != 0 {
        return;
    }
    if core.addresses.may_be_guest(sender.into()) {
        core.neighbours.learn(sender.into(), mac);
    }
    // Somebody may ask whether an address is free to have (RFC 5227): that of the host is not.
    if operation == 1 && core.addresses.is_ours(target.into()) && target != sender {
        let reply = arp_packet(core, 2, target, mac, sender);
        core.send(reply);
    }
}

/// Asks where the guest is.
pub fn ask(core: &mut Core, guest: Ipv4Addr) {
    let request = arp_packet(core, 1, core.addresses.gateway, BROADCAST, guest);
    core.send(request);
}

fn arp_packet(core: &Core, operation: u8, sender: Ipv4Addr, mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + ETHERNET + 28);
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    packet.extend(mac);
    packet.extend(core.addresses.mac);
    packet.extend(ip::ARP.to_be_bytes());
    packet.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    packet.extend(core.addresses.mac);
    packet.extend(sender.octets());
    packet.extend(if operation == 1 { [0; 6] } else { mac });
    packet.extend(target.octets());
    packet
}
