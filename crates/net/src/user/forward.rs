//! Ports of the host that lead to the guest.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A port of the host that leads to one of the guest: `[ADDR:]HOST:GUEST[/tcp|/udp]`.
///
/// Without an address it is a port of 127.0.0.1 and, where the host has it, of ::1, so that `localhost` is right
/// however it is resolved, and nobody else can reach it; `0.0.0.0:8080:80` is for everybody, `[::]:8080:80` over
/// IPv6. The host's port 0 is any that is free.
///
/// The guest sees a connection from the gateway to its IPv4 address, whatever the client has. A client is connected
/// when the host's kernel has taken it in, and reset if the guest then refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// Where on the host; on its loopback if nothing is said.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// It is no forwarding of a port.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForwardError {
    /// Not of that form.
    #[error(
        "{0:?}: write [ADDRESS:]HOST:GUEST, as in 8080:80, 0.0.0.0:8080:80, [::1]:8080:80 or 5353:53/udp"
    )]
    Syntax(String),
    /// Port 0 of the guest.
    #[error("{0:?}: the guest has no port 0; write HOST:GUEST, as in 0:80 for any port of the host's")]
    Guest(String),
}

impl Forward {
    /// Where to listen.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self.address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let syntax = || ForwardError::Syntax(text.to_owned());
        let (ports, udp) = match text.split_once('/') {
            None => (text, false),
            Some((ports, "tcp")) => (ports, false),
            Some((ports, "udp")) => (ports, true),
            Some(_) => return Err(syntax()),
        };
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u16>().map_err(|_| syntax()),
            false => Err(syntax()),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(syntax)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                let v6 = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                let address = match v6 {
                    Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6),
                    None => address.parse::<Ipv4Addr>().map(IpAddr::V4),
                };
                (Some(address.map_err(|_| syntax())?), host)
            }
        };
        let (host, guest) = (number(host)?, number(guest)?);
        if guest == 0 {
            return Err(ForwardError::Guest(text.to_owned()));
        }
        Ok(Self {
            address,
            host,
            guest,
            udp,
        })
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            None => {}
        }
        let udp = if self.udp { "/udp" } else { "" };
        write!(f, "{}:{}{udp}", self.host, self.guest)
    }
}

impl TryFrom<String> for Forward {
    type Error = ForwardError;

    fn try_from(text: String) -> Result<Self, ForwardError> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forwards_are_written_as_people_do() {
        let f = |text: &str| text.parse::<Forward>().unwrap();
        for text in ["8080:80", "0.0.0.0:8080:80", "[::1]:0:80", "127.0.0.2:53:53/udp"] {
            assert_eq!(f(text).to_string(), text);
        }
        assert_eq!(f("1:2/tcp"), f("1:2"));
        assert_eq!(f("1:2").addresses().len(), 2);
        assert_eq!(serde_json::to_string(&f("1:2/udp")).unwrap(), r#""1:2/udp""#);
        for (text, what) in [
            ("", "8080:80"),
            ("80", "8080:80"),
            ("a:80", "8080:80"),
            ("80:+8", "8080:80"),
            ("80:65536", "8080:80"),
            ("::1:80:80", "[::1]"),
            ("80:80/sctp", "/udp"),
            ("80:0", "no port 0"),
        ] {
            let error = text.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r"[\[\]:.0-9a-f/udtcp]{0,24}") {
            if let Ok(forward) = text.parse::<Forward>() {
                prop_assert_eq!(forward.to_string().parse::<Forward>().unwrap(), forward);
            }
        }
    }
}
