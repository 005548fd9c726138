//! Names of everything that has a socket or a timer.

use rustix::event::epoll::EventData;

/// What kind of thing it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The thread is to look at its orders.
    Wake,
    /// A port of the host that leads to the guest.
    Listener,
    /// A TCP connection.
    Tcp,
    /// A UDP port of the guest's.
    Udp,
    /// A series of echo requests.
    Ping,
    /// A question to a nameserver.
    Dns,
    /// A client of a forwarded UDP port.
    Client,
    /// The router.
    Router,
}

const KINDS: [Kind; 8] = [
    Kind::Wake,
    Kind::Listener,
    Kind::Tcp,
    Kind::Udp,
    Kind::Ping,
    Kind::Dns,
    Kind::Client,
    Kind::Router,
];

/// One of them. No two ever have the same, so that what comes too late finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(u64);

impl Token {
    /// The number is that of its kind alone.
    pub fn new(kind: Kind, number: u64) -> Self {
        Self(number << 3 | kind as u64)
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        KINDS[(self.0 & 7) as usize]
    }

    /// From what epoll says.
    pub fn from_data(data: EventData) -> Self {
        Self(data.u64())
    }

    /// For epoll to say.
    pub fn data(self) -> EventData {
        EventData::new_u64(self.0)
    }
}
