//! Sockets of the host's.

use super::icmp;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::sockopt::{set_ip_mtu_discover, set_ipv6_mtu_discover, set_ipv6_v6only, set_socket_linger};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A socket for an address's family.
pub fn new(address: IpAddr, kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, protocol)?;
    if address.is_ipv6() {
        // No way round to IPv4.
        set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Sends a datagram.
pub fn send_to(socket: impl AsFd, data: &[u8], to: SocketAddr) -> Result<(), Errno> {
    let send = || sendto(&socket, data, SendFlags::NOSIGNAL, &to).map(drop);
    match send() {
        // That was about one before, and is over now.
        Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => send(),
        sent => sent,
    }
}

/// Whether datagrams may be made into fragments on their way.
pub fn set_whole(socket: impl AsFd, address: IpAddr, whole: bool) {
    let _ = match address {
        IpAddr::V4(_) => set_ip_mtu_discover(
            socket,
            match whole {
                true => Ipv4PathMtuDiscovery::DO,
                false => Ipv4PathMtuDiscovery::DONT,
            },
        ),
        IpAddr::V6(_) => set_ipv6_mtu_discover(
            socket,
            match whole {
                true => Ipv6PathMtuDiscovery::DO,
                false => Ipv6PathMtuDiscovery::DONT,
            },
        ),
    };
}

/// Has the kernel keep what it hears of datagrams that did not arrive (IP_RECVERR).
pub fn tell_failures(socket: &OwnedFd, address: IpAddr) {
    let _ = match address {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
    };
}

/// A datagram that did not arrive.
pub struct Failure {
    pub to: SocketAddr,
    /// Not if that does not matter to who sent it.
    pub why: Option<icmp::Error>,
    /// Its beginning.
    pub data: Vec<u8>,
}

impl Failure {
    /// What to tell of an error.
    pub fn from_errno(e: Errno) -> Option<icmp::Error> {
        match e {
            Errno::CONNREFUSED => Some(icmp::Error::Port),
            Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::ADDRNOTAVAIL => {
                Some(icmp::Error::Host)
            }
            Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT => Some(icmp::Error::Network),
            Errno::ACCESS | Errno::PERM => Some(icmp::Error::Prohibited),
            _ => None,
        }
    }
}

/// The next of them (MSG_ERRQUEUE).
pub fn failure(socket: BorrowedFd<'_>) -> Option<Failure> {
    let (mut data, mut control) = ([0; 1280], [0; 256]);
    let mut parts = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    let errors = message.cmsgs().ok()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4RecvErr(e, _) | ControlMessageOwned::Ipv6RecvErr(e, _) => Some(e),
        _ => None,
    });
    let to = message.address.and_then(|a| {
        let v4 = a.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port())));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port()))))
    })?;
    let len = message.bytes;
    let why = errors.and_then(|e| match Errno::from_raw_os_error(e.ee_errno as i32) {
        Errno::MSGSIZE => Some(icmp::Error::TooBig(e.ee_info)),
        e => Failure::from_errno(e),
    });
    Some(Failure {
        to,
        why,
        data: data[..len].to_vec(),
    })
}

/// Closes a connection so that the other end sees a reset.
pub fn reset(socket: OwnedFd) {
    let _ = set_socket_linger(&socket, Some(Duration::ZERO));
}
