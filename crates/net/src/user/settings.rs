//! What can be chosen about a network in user mode.

use super::addresses::{Addresses, Network, Network6};
use super::forward::Forward;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A network of the guest's own, connected to what the host's programs can reach: [`User`](super::User).
///
/// As text, behind `user`: `net=10.0.2.0/24`, `net6=fd00::/64`, `host-loopback`, and any number of
/// `forward=`[`Forward`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserNet {
    /// The guest's network.
    #[serde(skip_serializing_if = "is_default")]
    pub net: Network,
    /// The same over IPv6.
    #[serde(skip_serializing_if = "is_default")]
    pub net6: Network6,
    /// The gateway's address leads to the host's 127.0.0.1 and ::1. Without that the guest does not reach what
    /// listens there.
    #[serde(skip_serializing_if = "is_default")]
    pub host_loopback: bool,
    /// Ports of the host that lead to the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
}

impl UserNet {
    /// Who has which address in it. They are fixed: a guest may be told them instead of asking by DHCP.
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.net, self.net6)
    }
}

/// As text behind `user`, each option with a comma before it.
impl fmt::Display for UserNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !is_default(&self.net) {
            write!(f, ",net={}", self.net)?;
        }
        if !is_default(&self.net6) {
            write!(f, ",net6={}", self.net6)?;
        }
        if self.host_loopback {
            f.write_str(",host-loopback")?;
        }
        self.forward
            .iter()
            .try_for_each(|forward| write!(f, ",forward={forward}"))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
