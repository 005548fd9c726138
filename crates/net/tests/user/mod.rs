//! What the tests of the network in user mode share.
#![allow(dead_code)]

pub mod guest;

use crate::common::namespace::ip;
use donjon_net::UserNet;
use guest::Guest;
use smoltcp::socket::icmp;
use std::net::{IpAddr, TcpListener};

pub fn loopback() -> UserNet {
    UserNet {
        host_loopback: true,
        ..UserNet::default()
    }
}

/// The host's loopback, as the guest sees it.
pub fn gateway(guest: &Guest, v6: bool) -> IpAddr {
    match v6 {
        true => guest.addresses.gateway6.into(),
        false => guest.addresses.gateway.into(),
    }
}

pub fn listener(v6: bool) -> (TcpListener, u16) {
    let listener = TcpListener::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Bytes that tell where they belong.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (((n + seed) * 31) ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect()
}

/// What the guest is told of packets from a port of its own.
pub fn listen_icmp(guest: &mut Guest, endpoint: icmp::Endpoint) -> smoltcp::iface::SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 65536]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(endpoint).unwrap();
    guest.sockets.add(socket)
}

pub fn heard(guest: &mut Guest, handle: smoltcp::iface::SocketHandle) -> (Vec<u8>, IpAddr) {
    guest.until(|g| {
        let socket = g.sockets.get_mut::<icmp::Socket<'_>>(handle);
        socket
            .recv()
            .ok()
            .map(|(message, from)| (message.to_vec(), from.into()))
    })
}

/// Addresses that are not the loopback's, as if they were others'.
pub fn world() {
    ip("link set lo up");
    ip("address add 192.0.2.1/24 dev lo");
    ip("-6 address add 2001:db8::1/64 dev lo nodad");
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
}

pub const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
