//! MAC addresses.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The address of one network interface (IEEE 802): not of a group of them, and not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// It is not the address of an interface.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MacError {
    /// Not six bytes.
    #[error("{0:?} is no MAC address; write six bytes such as 02:00:00:00:00:01")]
    Syntax(String),
    /// The lowest bit of the first byte is set.
    #[error("{0} is the address of a group; the first byte of an interface's is even, such as 02")]
    Multicast(String),
    /// All zero.
    #[error("00:00:00:00:00:00 is nobody's address; write one such as 02:00:00:00:00:01")]
    Zero,
}

impl Mac {
    /// From its bytes.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Zero),
            [first, ..] if first & 1 != 0 => Err(MacError::Multicast(Self(bytes).to_string())),
            _ => Ok(Self(bytes)),
        }
    }

    /// One of the 2^46 that nobody else hands out (locally administered).
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 6];
        // So few are never cut short.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes[0] = bytes[0] & !1 | 2;
        Ok(Self(bytes))
    }

    /// In the order they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(syntax)?;
            // from_str_radix takes a sign, too.
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(syntax());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| syntax())?;
        }
        match parts.next() {
            None => Self::new(bytes),
            Some(_) => Err(syntax()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_those_of_interfaces() {
        let error = |text: &str| text.parse::<Mac>().unwrap_err().to_string();
        assert!(error("01:00:5e:00:00:01").contains("group"));
        assert!(error("ff:ff:ff:ff:ff:ff").contains("group"));
        assert!(error("00:00:00:00:00:00").contains("nobody"));
        for bad in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:01",
            "02:00:00:00:00:1",
            "02-00-00-00-00-01",
            "+2:00:00:00:00:01",
            "02:00:00:00:00:0g",
            "0200:00:00:00:01",
            "02:00:00:00:00:01:",
            "ä:00:00:00:00:01",
        ] {
            assert!(error(bad).contains("02:00:00:00:00:01"), "{bad}");
        }
        assert_eq!(
            "52:54:00:AB:cd:ef".parse::<Mac>().unwrap().to_string(),
            "52:54:00:ab:cd:ef"
        );
    }

    #[test]
    fn random_ones_are_local_and_differ() {
        let all: std::collections::HashSet<_> = (0..100).map(|_| Mac::random().unwrap()).collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|m| m.bytes()[0] & 3 == 2));
    }

    proptest! {
        #[test]
        fn text_and_json_say_all(bytes: [u8; 6]) {
            if let Ok(mac) = Mac::new(bytes) {
                prop_assert_eq!(mac.to_string().parse::<Mac>(), Ok(mac));
                let json = serde_json::to_string(&mac).unwrap();
                prop_assert_eq!(serde_json::from_str::<Mac>(&json).unwrap(), mac);
            } else {
                prop_assert!(bytes == [0; 6] || bytes[0] & 1 == 1);
            }
        }
    }
}
