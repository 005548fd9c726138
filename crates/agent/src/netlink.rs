//! Network interfaces with fixed addresses, by rtnetlink(7).

use donjon_agent_protocol::boot::{InterfaceConfig, Network, Route};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: an address that is not used for its first second is of no use.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// Bytes of an interface's name: IFNAMSIZ without the zero.
const LONGEST_NAME: usize = 15;
/// Bytes of a message's header: length, type, flags, sequence number, port.
const HEADER: usize = 16;

/// A socket to the kernel's network configuration.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket in this thread's network namespace.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let route = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers at once.
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Gives an interface what the configuration says, and sets it up.
    pub fn configure(&mut self, config: &InterfaceConfig) -> Result<(), String> {
        let name = &config.name;
        self.set_up(name, config.mtu)
            .map_err(|e| format!("cannot set up the interface {name:?}: {e}"))?;
        let index = rustix::net::netdevice::name_to_index(&self.socket, name)
            .map_err(|e| format!("there is no interface {name:?}: {e}"))?;
        for address in &config.addresses {
            self.add_address(index, address).map_err(|e| {
                format!(
                    "cannot give {name:?} the address {}/{}: {e}",
                    address.address, address.prefix
                )
            })?;
        }
        for route in &config.routes {
            self.add_route(index, route)
                .map_err(|e| format!("cannot add the route {route:?} of {name:?}: {e}"))?;
        }
        Ok(())
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, name: &str, mtu: Option<u32>) -> io::Result<()> {
        if name.len() > LONGEST_NAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "its name is too long",
            ));
        }
        // struct ifinfomsg: family, type, index, flags, which flags to change.
        let mut body = vec![0; 8];
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        if let Some(mtu) = mtu {
            attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    fn add_address(&mut self, index: u32, address: &Network) -> io::Result<()> {
        let (family, bytes) = family(address.address, address.prefix)?;
        let flags = if address.address.is_ipv6() { IFA_F_NODAD } else { 0 };
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![family, address.prefix, flags, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &bytes);
        attribute(&mut body, IFA_ADDRESS, &bytes);
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    fn add_route(&mut self, index: u32, route: &Route) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let of = route.to.map(|t| t.address).or(route.via);
        let of = of.ok_or_else(|| invalid("a route needs `to` or `via`"))?;
        if route.via.is_some_and(|via| via.is_ipv4() != of.is_ipv4()) {
            return Err(invalid("`to` and `via` are of different families"));
        }
        let (family, _) = self::family(of, 0)?;
        let prefix = route.to.map_or(0, |t| t.prefix);
        let scope = if route.via.is_some() {
            RT_SCOPE_UNIVERSE
        } else {
            RT_SCOPE_LINK
        };
        // struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
        let mut body = vec![
            family,
            prefix,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_BOOT,
            scope,
            RTN_UNICAST,
        ];
        body.extend([0; 4]);
        if let Some(to) = route.to.filter(|t| t.prefix > 0) {
            attribute(&mut body, RTA_DST, &self::family(to.address, to.prefix)?.1);
        }
        if let Some(via) = route.via {
            attribute(&mut body, RTA_GATEWAY, &self::family(via, 0)?.1);
        }
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Sends a request and waits until the kernel has done it.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER + body.len()) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 8192];
        loop {
            let n = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(result) = acknowledged(&answer[..n], self.sequence) {
                return result;
            }
        }
    }
}

/// Address family and bytes of an address, if it can have this prefix.
fn family(address: IpAddr, prefix: u8) -> io::Result<(u8, Vec<u8>)> {
    let (family, bytes) = match address {
        IpAddr::V4(a) => (AddressFamily::Inet, a.octets().to_vec()),
        IpAddr::V6(a) => (AddressFamily::Inet6, a.octets().to_vec()),
    };
    if usize::from(prefix) > bytes.len() * 8 {
        let what = format!("a prefix of {prefix} bits is too long");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok((family as i32 as u8, bytes))
}

/// Appends a struct rtattr with its content, padded to four bytes.
fn attribute(message: &mut Vec<u8>, kind: u16, content: &[u8]) {
    message.extend((content.len() as u16 + 4).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(content);
    message.extend(&[0; 3][..content.len().wrapping_neg() % 4]);
}

/// Finds the acknowledgement, a struct nlmsgerr, of the request with this number.
fn acknowledged(mut messages: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let word = |m: &[u8], at: usize| Some(u32::from_ne_bytes(m.get(at..at + 4)?.try_into().ok()?));
    while let Some(length) = word(messages, 0) {
        let length = (length as usize).max(HEADER);
        let message = messages.get(..length)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if kind == NLMSG_ERROR && word(message, 8) == Some(sequence) {
            return Some(match word(message, HEADER)?.cast_signed() {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
            });
        }
        messages = messages.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;

    fn ip(args: &[&str]) -> String {
        let output = Command::new("ip").args(args).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn network(address: &str, prefix: u8) -> Network {
        Network {
            address: address.parse().unwrap(),
            prefix,
        }
    }

    fn config() -> InterfaceConfig {
        InterfaceConfig {
            name: "eth0".into(),
            addresses: vec![network("10.1.2.3", 24), network("fd00:1::2", 64)],
            routes: vec![
                Route {
                    to: None,
                    via: Some([10, 1, 2, 1].into()),
                },
                Route {
                    to: None,
                    via: Some("fd00:1::1".parse().unwrap()),
                },
                Route {
                    to: Some(network("10.9.0.0", 16)),
                    via: Some([10, 1, 2, 9].into()),
                },
                Route {
                    to: Some(network("10.8.0.0", 16)),
                    via: None,
                },
            ],
            mtu: Some(1400),
        }
    }

    /// In a network of this thread's own, which iproute2 then looks at.
    #[test]
    fn interfaces_get_what_they_are_to_have() {
        let flags = if rustix::process::geteuid().is_root() {
            CloneFlags::CLONE_NEWNET
        } else {
            CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET
        };
        std::thread::spawn(move || {
            unshare(flags).unwrap();
            ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "peer"]);
            ip(&["link", "set", "peer", "up"]);
            let mut netlink = Netlink::new().unwrap();
            netlink.set_up("lo", None).unwrap();
            // Once more changes nothing.
            netlink.configure(&config()).unwrap();
            netlink.configure(&config()).unwrap();
            assert!(ip(&["addr", "show", "lo"]).contains("127.0.0.1/8"));
            let eth0 = ip(&["addr", "show", "eth0"]);
            for part in ["mtu 1400", ",UP", "inet 10.1.2.3/24", "inet6 fd00:1::2/64"] {
                assert!(eth0.contains(part), "{part}: {eth0}");
            }
            let routes = ip(&["route"]) + &ip(&["-6", "route"]);
            for part in [
                "default via 10.1.2.1 dev eth0",
                "10.9.0.0/16 via 10.1.2.9 dev eth0",
                "10.8.0.0/16 dev eth0",
                "10.1.2.0/24 dev eth0",
                "default via fd00:1::1 dev eth0",
            ] {
                assert!(routes.contains(part), "{part}: {routes}");
            }
            let error = |change: fn(&mut InterfaceConfig)| {
                let mut config = config();
                change(&mut config);
                Netlink::new().unwrap().configure(&config).unwrap_err()
            };
            assert!(error(|c| c.name = "eth7".into()).contains("eth7"));
            assert!(error(|c| c.name = "x".repeat(1000)).contains("xxx"));
            assert!(error(|c| c.addresses[0].prefix = 33).contains("10.1.2.3/33"));
            assert!(error(|c| c.routes[0].via = None).contains("needs"));
            assert!(error(|c| c.routes[2].via = Some("::1".parse().unwrap())).contains("different families"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn acknowledgements() {
        let ack = |length: u32, kind: u16, sequence: u32, error: i32| {
            let mut m = length.to_ne_bytes().to_vec();
            m.extend(kind.to_ne_bytes());
            m.extend([0; 2]);
            m.extend(sequence.to_ne_bytes());
            m.extend([0; 4]);
            m.extend(error.to_ne_bytes());
            m
        };
        assert!(matches!(acknowledged(&ack(20, 2, 7, 0), 7), Some(Ok(()))));
        let denied = [ack(20, 2, 6, 0), ack(20, 2, 7, -1)].concat();
        assert!(matches!(acknowledged(&denied, 7), Some(Err(e)) if e.raw_os_error() == Some(1)));
        for none in [
            ack(20, 2, 8, 0),
            ack(20, 3, 7, 0),
            ack(21, 2, 7, 0),
            ack(0, 2, 6, 0),
            vec![],
            vec![1; 3],
        ] {
            assert!(acknowledged(&none, 7).is_none(), "{none:?}");
        }
    }
}
