//! What becomes of a packet of the guest's, and where those for it come from.

mod events;

use super::addresses::Addresses;
use super::core::Core;
use super::dns::{self, Dns};
use super::fragments::Fragments;
use super::ip::{self, Ip};
use super::link::{self, Router};
use super::listen::Listeners;
use super::outbox::Next;
use super::ping::{self, Pings};
use super::reach::Reached;
use super::resolver::Resolver;
use super::tcp::{Segment, Tcp};
use super::token::Kind;
use super::udp::{self, Datagram, Udp};
use super::{Limits, dhcp, icmp};
use crate::backend::count;
use crate::header::{Checked, ETHERNET, HEAD, HEADER, Header, Left, ROOM};
use crate::packet::{Gather, Scatter};
use std::net::IpAddr;

/// The smallest MTU of IPv6 (RFC 8200 §5).
const MIN_MTU6: usize = 1280;
/// Packets that are looked for in a row.
const TURN: usize = 64;

/// Everything.
pub struct Stack {
    pub core: Core,
    resolver: Resolver,
    router: Option<Router>,
    fragments: Fragments,
    tcp: Tcp,
    udp: Udp,
    pings: Pings,
    dns: Dns,
    listeners: Listeners,
    /// For what is received from sockets, and for packets that are looked at as a whole.
    scratch: Vec<u8>,
    packet: Vec<u8>,
    /// The network is gone, though somebody still has its port.
    closed: bool,
}

/// What a packet of the guest's is behind: who sent it, and whether its checksum is still to be made.
struct Behind {
    mac: [u8; 6],
    undone: bool,
    header: Header,
}

impl Stack {
    pub fn new(mut core: Core, resolver: Resolver, listeners: Listeners, limits: Limits) -> Self {
        let router = (core.mtu >= MIN_MTU6).then(|| Router::new(&mut core));
        Self {
            resolver,
            router,
            fragments: Fragments::default(),
            tcp: Tcp::new(limits.tcp),
            udp: Udp::new(limits.udp),
            pings: Pings::new(),
            dns: Dns::new(),
            listeners,
            scratch: vec![0; ROOM],
            packet: vec![],
            closed: false,
            core,
        }
    }

    /// Takes a packet of the guest's.
    pub fn input(&mut self, packet: &dyn Gather) {
        if self.closed {
            return count(&self.core.drops.sent);
        }
        let mut head = [0; HEAD];
        let head = &mut head[..packet.len().min(HEAD)];
        packet.load(0, head);
        let Ok(checked) = Checked::new(head, packet.len()) else {
            return count(&self.core.drops.malformed);
        };
        let frame = &head[HEADER..];
        let mac = *frame[6..].first_chunk().expect("an Ethernet header");
        let ours = frame[..6] == self.core.addresses.mac || frame[0] & 1 != 0;
        // Nobody is a group, and the gateway's packets do not come from the guest.
        if !ours || mac[0] & 1 != 0 || mac == self.core.addresses.mac {
            return;
        }
        if frame[12..14] == ip::ARP.to_be_bytes() {
            link::arp(&mut self.core, frame);
            return self.look_for_guest();
        }
        let Some(ip) = Ip::parse(frame, packet.len() - HEADER) else {
            return;
        };
        let behind = Behind {
            mac,
            undone: !matches!(checked.left, Left::Nothing),
            header: checked.header,
        };
        if ip.protocol == ip::TCP && ip.fragment.is_none() && behind.undone && self.may_speak(&ip) {
            self.learn(&ip, mac);
            if let Some(segment) = Segment::parse(mac, &ip, frame) {
                let (tcp, core) = (&mut self.tcp, &mut self.core);
                tcp.input(core, &mut self.resolver, &segment, packet, &mut self.scratch);
            }
            return;
        }
        let mut whole = std::mem::take(&mut self.packet);
        whole.resize(packet.len(), 0);
        packet.load(0, &mut whole);
        self.copied(&whole, &behind);
        self.packet = whole;
    }

    /// Takes a packet that the guest cannot change any more.
    fn copied(&mut self, packet: &[u8], behind: &Behind) {
        let frame = &packet[HEADER..];
        let Some(ip) = Ip::parse(frame, frame.len()) else {
            return;
        };
        let payload = &frame[ip.payload.clone()];
        let Some(fragment) = ip.fragment else {
            // UDP's may be left out over IPv4 (RFC 768).
            let none = ip.protocol == ip::UDP && ip.source.is_ipv4() && payload.get(6..8) == Some(&[0, 0]);
            if !behind.undone && !none && !ip::verify(&ip, payload) {
                return count(&self.core.drops.malformed);
            }
            return self.deliver(&ip, packet, payload, behind);
        };
        // A connection's segments are never so long.
        if ip.protocol == ip::TCP {
            return;
        }
        let Some(payload) = self.fragments.add(&ip, fragment, payload, self.core.now) else {
            return;
        };
        let ip = Ip {
            whole: false,
            fragment: None,
            ..ip
        };
        if ip::verify(&ip, &payload) || (ip.protocol == ip::UDP && payload.get(6..8) == Some(&[0, 0])) {
            let behind = Behind {
                header: Header::default(),
                ..*behind
            };
            self.deliver(&ip, &[], &payload, &behind);
        }
    }

    /// `packet` is the whole, if there is one.
    fn deliver(&mut self, ip: &Ip, packet: &[u8], payload: &[u8], behind: &Behind) {
        let core = &mut self.core;
        // Who asks for an address has none.
        if ip.protocol == ip::UDP
            && let Some(datagram) = Datagram::parse(behind.mac, ip, payload)
            && dhcp::is_for_server(core, ip, datagram.to)
        {
            return dhcp::input(core, &mut self.resolver, datagram.data);
        }
        if ip.protocol == ip::ICMPV6
            && ip.source.is_ipv6()
            && payload.len() >= 8
            && let Some(router) = &mut self.router
            && router.input(core, ip, behind.mac, payload)
        {
            return;
        }
        if !self.may_speak(ip) {
            return;
        }
        self.learn(ip, behind.mac);
        // The gateway is one hop on the way of what goes further.
        let further = !self.core.addresses.is_ours(ip.destination);
        if ip.hops <= 1 && further && matches!(self.core.reach(ip.destination), Reached::Outside(_)) {
            return self.expired(ip, behind.mac, payload);
        }
        match (ip.protocol, ip.source) {
            (ip::TCP, _) => {
                if let Some(segment) = Segment::parse(behind.mac, ip, &packet[HEADER..]) {
                    let (tcp, core) = (&mut self.tcp, &mut self.core);
                    tcp.input(core, &mut self.resolver, &segment, &packet, &mut self.scratch);
                }
            }
            (ip::UDP, _) => {
                if let Some(datagram) = Datagram::parse(behind.mac, ip, payload) {
                    self.datagrams(datagram, &behind.header);
                }
            }
            (ip::ICMP, IpAddr::V4(_)) | (ip::ICMPV6, IpAddr::V6(_)) => self.message(ip, behind.mac, payload),
            _ => {}
        }
    }

    /// One datagram, or several in one packet.
    fn datagrams(&mut self, all: Datagram<'_>, header: &Header) {
        let size = match header.gso_type {
            Header::GSO_UDP_L4 => usize::from(header.gso_size),
            _ => usize::MAX,
        };
        if all.data.is_empty() {
            return self.datagram(all);
        }
        for data in all.data.chunks(size) {
            self.datagram(Datagram { data, ..all });
        }
    }

    fn datagram(&mut self, datagram: Datagram<'_>) {
        let core = &mut self.core;
        if self.listeners.reply(core, &datagram) {
            return;
        }
        match core.reach(datagram.to.ip()) {
            Reached::Dns if datagram.to.port() == dns::PORT => {
                self.dns.input(core, &mut self.resolver, datagram);
            }
            _ => self.udp.input(core, datagram),
        }
    }

    fn message(&mut self, ip: &Ip, mac: [u8; 6], message: &[u8]) {
        if !ping::is_request(ip, message) {
            return;
        }
        let core = &mut self.core;
        let (guest, to) = (ip.source, ip.destination);
        let why = match core.reach(to) {
            _ if core.addresses.is_ours(to) => {
                let ident = u16::from_be_bytes([message[4], message[5]]);
                let (protocol, reply) = icmp::echo_reply((to, guest), ident, message);
                return core.send_ip(mac, (to, guest), protocol, &reply);
            }
            Reached::Outside(address) => match self.pings.request(core, mac, guest, address, message) {
                Ok(()) => return,
                Err(why) => why,
            },
            Reached::Group => return,
            _ => icmp::Error::Host,
        };
        core.unreachable(mac, (guest, to), why, &original(ip, mac, message));
    }

    fn expired(&mut self, ip: &Ip, mac: [u8; 6], payload: &[u8]) {
        let addresses = (ip.source, ip.destination);
        let original = original(ip, mac, payload);
        self.core
            .unreachable(mac, addresses, icmp::Error::Expired, &original);
    }

    /// Whether the guest may have the address that it says a packet is from.
    fn may_speak(&self, ip: &Ip) -> bool {
        ip.source.is_ipv4() == ip.destination.is_ipv4()
            && (ip.source.is_ipv4() || self.router.is_some())
            && self.core.addresses.may_be_guest(ip.source)
    }

    fn learn(&mut self, ip: &Ip, mac: [u8; 6]) {
        self.core.neighbours.learn(ip.source, mac);
        if ip.source == IpAddr::V4(self.core.addresses.guest) {
            self.look_for_guest();
        }
    }

    /// Has those go on that wait until it is known where the guest is.
    fn look_for_guest(&mut self) {
        let guest = self.core.addresses.guest.into();
        if !self.core.guest_found && self.core.neighbours.find(guest).is_some() {
            self.core.guest_found = true;
            self.tcp.found_guest(&mut self.core);
            self.listeners.found_guest(&mut self.core);
        }
    }

    /// Makes the next packet for the guest.
    pub fn output(&mut self, into: &mut dyn Scatter) -> Option<usize> {
        for _ in 0..TURN {
            let token = match self.core.outbox.pop()? {
                Next::Packet(packet) if packet.len() > into.len() => {
                    count(&self.core.drops.received);
                    continue;
                }
                Next::Packet(packet) => {
                    into.store(0, &packet);
                    return Some(packet.len());
                }
                Next::From(token) => token,
            };
            let core = &mut self.core;
            let buffer = &mut self.scratch[..];
            match token.kind() {
                Kind::Tcp => {
                    if let Some(len) = self.tcp.produce(core, token, into, &mut self.packet) {
                        return Some(len);
                    }
                }
                Kind::Udp => self.udp.produce(core, token, buffer),
                Kind::Ping => self.pings.produce(core, token, buffer),
                Kind::Listener => self.listeners.produce(core, token, buffer),
                Kind::Wake | Kind::Dns | Kind::Client | Kind::Router => {}
            }
        }
        None
    }

    /// Closes everything.
    pub fn close(&mut self) {
        self.closed = true;
        self.tcp = Tcp::new(0);
        self.udp = Udp::new(0);
        self.pings = Pings::new();
        self.dns = Dns::new();
        self.listeners = Listeners::default();
    }

    /// Who has which address.
    pub fn addresses(&self) -> Addresses {
        self.core.addresses
    }
}

/// A packet of the guest's from its IP header on.
fn original(ip: &Ip, mac: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut packet = ip::begin(
        [0; 6],
        mac,
        (ip.source, ip.destination),
        ip.protocol,
        payload.len(),
    );
    packet.extend_from_slice(payload);
    packet.split_off(HEADER + ETHERNET)
}

const _: () = assert!(ROOM >= udp::LARGEST);
