//! What the command line says about a network interface.

#[cfg(test)]
mod tests;

use crate::backend::Backend;
use crate::mac::Mac;
use crate::name::{InterfaceName, Name};
use crate::options::{Options, OptionsError};
use crate::switch::{Switch, SwitchError};
use crate::tap::{MAX_QUEUES, Tap, TapError};
use crate::unplugged::Unplugged;
use crate::user::{MAX_MTU, User, UserError, UserNet};
use donjon_limit::Limit;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU16;
use std::path::Path;
use std::str::FromStr;

/// A network interface of a domain.
///
/// As text: `user`, `tap=IF`, `switch=NAME` or `none`, and behind that in any order `mac=02:00:00:00:00:01`, `mtu=9000`,
/// for a tap `queues=4`, what there is about a [`UserNet`], and a [`Limit`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// What it is connected to.
    pub connection: Connection,
    /// Its address; one that stays the same if the domain is to be known by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Pairs of queues.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub queues: NonZeroU16,
    /// Bytes of a packet without its Ethernet header, as the guest is told (VIRTIO_NET_F_MTU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What each direction may carry. Operations are packets.
    #[serde(default, skip_serializing_if = "Limit::is_unlimited")]
    pub limit: Limit,
}

/// What an interface is connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// What the host's programs can reach: [`User`].
    User(UserNet),
    /// A tap interface of the host: [`Tap`].
    Tap(InterfaceName),
    /// Other domains of the same user: [`Switch`].
    Switch(Name),
    /// Nothing: [`Unplugged`].
    None,
}

/// It does not say what to connect to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// None, or several.
    #[error(
        "say one thing to connect to: user for what the host can reach, tap=IF for the host's interface IF, \
         switch=NAME for other domains, or none"
    )]
    Connection,
    /// The list is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// More queues than there can be.
    #[error(
        "queues={0}: a tap has 1 to {MAX_QUEUES} pairs of queues, everything else one; leave it out for one"
    )]
    Queues(u16),
    /// It belongs to another connection.
    #[error("{0} is an option of user; leave it out, or connect to user")]
    NotUser(&'static str),
    /// Longer than a packet can be.
    #[error("mtu={0}: a network in user mode has {MAX_MTU} at most")]
    LongMtu(u16),
    /// No packet would go through.
    #[error("mtu={0}: IPv4 needs 68 and IPv6 1280 at least; Ethernet has 1500, jumbo frames have 9000")]
    Mtu(u16),
}

/// It cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// In user mode.
    #[error(transparent)]
    User(#[from] UserError),
    /// To a tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// To a switch.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// To nothing.
    #[error("the host has no descriptors left: raise `ulimit -n` ({0})")]
    None(std::io::Error),
}

impl NetSpec {
    const KEYS: [&'static str; 15] = [
        "user",
        "tap",
        "switch",
        "none",
        "mac",
        "queues",
        "mtu",
        "net",
        "net6",
        "forward",
        "host-loopback",
        Limit::KEYS[0],
        Limit::KEYS[1],
        Limit::KEYS[2],
        Limit::KEYS[3],
    ];

    /// An interface with nothing said but what it is connected to.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            mac: None,
            queues: one(),
            mtu: None,
            limit: Limit::default(),
        }
    }

    /// Says what is wrong with it, which may come from a file.
    pub fn check(&self) -> Result<(), SpecError> {
        let max = match self.connection {
            Connection::Tap(_) => MAX_QUEUES,
            _ => 1,
        };
        match (self.queues.get(), self.mtu) {
            (queues, _) if queues > max => Err(SpecError::Queues(queues)),
            (_, Some(mtu)) if mtu < 68 => Err(SpecError::Mtu(mtu)),
            (_, Some(mtu)) if mtu > MAX_MTU && matches!(self.connection, Connection::User(_)) => {
                Err(SpecError::LongMtu(mtu))
            }
            _ => Ok(()),
        }
    }

    /// Connects it. Switches are directories in `switches`; `port` is what this interface is called there, such
    /// as the domain's name with a number.
    pub fn connect(&self, switches: &Path, port: &Name) -> Result<Box<dyn Backend>, ConnectError> {
        Ok(match &self.connection {
            Connection::User(net) => Box::new(User::start(net, self.mtu)?),
            Connection::Tap(name) => Box::new(Tap::open(name, self.queues.get())?),
            Connection::Switch(name) => Box::new(Switch::join(&switches.join(name.as_str()), port)?),
            Connection::None => Box::new(Unplugged::new().map_err(ConnectError::None)?),
        })
    }
}

impl FromStr for NetSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Connection);
        }
        let mut options = Options::parse(text)?;
        let user = options.word("user")?;
        let net = options.parsed("net")?;
        let net6 = options.parsed("net6")?;
        let forward = options.all("forward")?;
        let host_loopback = options.word("host-loopback")?;
        let given = [
            (net.is_some(), "net"),
            (net6.is_some(), "net6"),
            (!forward.is_empty(), "forward"),
            (host_loopback, "host-loopback"),
        ];
        let user = user.then(|| {
            Connection::User(UserNet {
                net: net.unwrap_or_default(),
                net6: net6.unwrap_or_default(),
                host_loopback,
                forward,
            })
        });
        let tap = options.parsed("tap")?.map(Connection::Tap);
        let switch = options.parsed("switch")?.map(Connection::Switch);
        let none = options.word("none")?.then_some(Connection::None);
        let mac = options.parsed("mac")?;
        let queues = options.parsed("queues")?.unwrap_or(one());
        let mtu = options.parsed("mtu")?;
        let mut values = [const { None }; 4];
        for (value, key) in values.iter_mut().zip(Limit::KEYS) {
            *value = options.value(key)?;
        }
        // A key that is unknown may be what was meant to say the connection.
        options.finish(&Self::KEYS)?;
        let limit = Limit::from_values(values.each_ref().map(Option::as_deref));
        let mut connections = [user, tap, switch, none].into_iter().flatten();
        let (Some(connection), None) = (connections.next(), connections.next()) else {
            return Err(SpecError::Connection);
        };
        if !matches!(connection, Connection::User(_))
            && let Some((_, option)) = given.into_iter().find(|(given, _)| *given)
        {
            return Err(SpecError::NotUser(option));
        }
        let spec = Self {
            connection,
            mac,
            queues,
            mtu,
            limit: limit.map_err(|e| OptionsError::bad("limit", e))?,
        };
        spec.check()?;
        Ok(spec)
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for NetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.connection {
            Connection::User(net) => write!(f, "user{net}")?,
            Connection::Tap(name) => write!(f, "tap={}", crate::options::quoted(name.as_str()))?,
            Connection::Switch(name) => write!(f, "switch={name}")?,
            Connection::None => f.write_str("none")?,
        }
        if let Some(mac) = self.mac {
            write!(f, ",mac={mac}")?;
        }
        if self.queues != one() {
            write!(f, ",queues={}", self.queues)?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, ",mtu={mtu}")?;
        }
        match self.limit.is_unlimited() {
            true => Ok(()),
            false => write!(f, ",{}", self.limit),
        }
    }
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

fn is_one(count: &NonZeroU16) -> bool {
    *count == one()
}
