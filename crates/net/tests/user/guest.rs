//! A guest with a TCP/IP stack that is not ours: smoltcp's.

use donjon_net::user::Addresses;
use donjon_net::{Backend, HEADER, Offloads, Port, ROOM, User, UserNet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x15];

/// The guest's network card.
pub struct Card {
    port: Arc<dyn Port>,
    undone: bool,
    mtu: usize,
    /// Every n-th packet to the guest gets lost, if it is not zero.
    pub lose: usize,
    pub received: usize,
}

pub struct Received(Vec<u8>);
pub struct Sending(Arc<dyn Port>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0[HEADER..])
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; HEADER + len];
        let result = f(&mut packet[HEADER..]);
        self.0.send(&&packet[..]).unwrap();
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending)> {
        let mut room = vec![0; ROOM];
        loop {
            let len = self.port.receive(&mut &mut room[..]).ok()?;
            self.received += 1;
            if self.lose == 0 || !self.received.is_multiple_of(self.lose) {
                room.truncate(len);
                return Some((Received(room), Sending(self.port.clone())));
            }
        }
    }

    fn transmit(&mut self, _: Time) -> Option<Sending> {
        Some(Sending(self.port.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = 14 + self.mtu;
        if self.undone {
            c.checksum.tcp = Checksum::Tx;
        }
        c
    }
}

pub struct Guest {
    pub user: User,
    pub card: Card,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub addresses: Addresses,
    start: Instant,
    /// What its clock is ahead.
    pub ahead: Duration,
    port: u16,
}

impl Guest {
    /// With its fixed addresses.
    pub fn new(net: &UserNet) -> Self {
        Self::on(User::start(net, None).unwrap())
    }

    pub fn on(user: User) -> Self {
        Self::with_mtu(user, 1500)
    }

    pub fn with_mtu(user: User, mtu: usize) -> Self {
        Self::build(user, mtu, false, false).with_addresses()
    }

    fn with_addresses(mut self) -> Self {
        let a = self.addresses;
        self.interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(a.guest.into(), a.prefix)).unwrap();
            all.push(IpCidr::new(a.guest6.into(), 64)).unwrap();
        });
        let routes = self.interface.routes_mut();
        routes.add_default_ipv4_route(a.gateway).unwrap();
        routes.add_default_ipv6_route(a.gateway6).unwrap();
        self
    }

    /// With no more than what it has made of its card's address.
    pub fn without_address(user: User, mtu: usize) -> Self {
        Self::build(user, mtu, false, true)
    }

    fn build(user: User, mtu: usize, undone: bool, slaac: bool) -> Self {
        let mut card = Card {
            port: user.queue(0).unwrap(),
            undone,
            mtu,
            lose: 0,
            received: 0,
        };
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 77;
        config.slaac = slaac;
        let mut interface = Interface::new(config, &mut card, Time::ZERO);
        let link: Ipv6Addr = "fe80::ff:fe00:15".parse().unwrap();
        interface.update_ip_addrs(|all| all.push(IpCidr::new(link.into(), 64)).unwrap());
        Self {
            addresses: user.addresses(),
            user,
            card,
            interface,
            sockets: SocketSet::new(vec![]),
            start: Instant::now(),
            ahead: Duration::ZERO,
            port: 49152,
        }
    }

    /// One that takes packets with checksums and segmentation undone.
    pub fn undone(net: &UserNet) -> Self {
        let user = User::start(net, None).unwrap();
        user.set_offloads(Offloads::ALL).unwrap();
        Self::build(user, 1500, true, false).with_addresses()
    }

    pub fn now(&self) -> Time {
        Time::from_micros((self.start.elapsed() + self.ahead).as_micros() as i64)
    }

    /// One round.
    pub fn step(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }

    /// Goes on until something has come true.
    #[track_caller]
    pub fn until<T>(&mut self, mut f: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.step();
            if let Some(value) = f(self) {
                self.step();
                return value;
            }
            assert!(Instant::now() < deadline, "it does not happen");
            // Both sides may have something to do: the host's programs are other threads.
            let port = self.card.port.clone();
            let wait = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = poll(
                &mut [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)],
                Some(&wait),
            );
        }
    }

    pub fn next_port(&mut self) -> u16 {
        self.port += 1;
        self.port
    }

    fn tcp_socket(&mut self, buffer: usize) -> tcp::Socket<'static> {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.set_congestion_control(tcp::CongestionControl::None);
        socket
    }

    /// Begins to connect.
    pub fn connect(&mut self, to: (IpAddr, u16), buffer: usize) -> SocketHandle {
        let mut socket = self.tcp_socket(buffer);
        let (port, to) = (self.next_port(), (IpAddress::from(to.0), to.1));
        socket.connect(self.interface.context(), to, port).unwrap();
        self.sockets.add(socket)
    }

    /// Connects.
    #[track_caller]
    pub fn connected(&mut self, to: (IpAddr, u16)) -> SocketHandle {
        let handle = self.connect(to, 65536);
        self.until(|g| g.tcp(handle).may_send().then_some(()));
        handle
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = self.tcp_socket(65536);
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends all of it.
    #[track_caller]
    pub fn send(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until(|g| {
            if let Ok(n) = g.tcp(handle).send_slice(bytes) {
                bytes = &bytes[n..];
            }
            bytes.is_empty().then_some(())
        });
    }

    /// Receives so many bytes.
    #[track_caller]
    pub fn receive(&mut self, handle: SocketHandle, len: usize) -> Vec<u8> {
        let mut bytes = vec![];
        self.until(|g| {
            while let Ok(n) = g.tcp(handle).recv(|b| {
                let n = b.len().min(len - bytes.len());
                bytes.extend_from_slice(&b[..n]);
                (n, n)
            }) && n > 0
            {}
            (bytes.len() == len).then_some(())
        });
        bytes
    }

    /// Receives until the other end has no more.
    #[track_caller]
    pub fn receive_all(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = vec![];
        self.until(|g| {
            let socket = g.tcp(handle);
            while socket.can_recv() {
                socket
                    .recv(|b| {
                        bytes.extend_from_slice(b);
                        (b.len(), ())
                    })
                    .unwrap();
            }
            (!socket.may_recv()).then_some(())
        });
        bytes
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 1 << 18]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn udp_send(&mut self, handle: SocketHandle, to: (IpAddr, u16), bytes: &[u8]) {
        let to = IpEndpoint::from((IpAddress::from(to.0), to.1));
        self.sockets
            .get_mut::<udp::Socket<'_>>(handle)
            .send_slice(bytes, to)
            .unwrap();
        self.step();
    }

    #[track_caller]
    pub fn udp_receive(&mut self, handle: SocketHandle) -> (Vec<u8>, IpEndpoint) {
        self.until(|g| {
            let socket = g.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket
                .recv()
                .ok()
                .map(|(bytes, from)| (bytes.to_vec(), from.endpoint))
        })
    }
}
