//! Names of switches, their ports, and the host's interfaces.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a switch or a port of it is called: also the name of a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// What an interface of the host is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

/// It cannot be called that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Not a [`Name`].
    #[error(
        "{0:?} cannot be a name: it has 1 to {max} letters a-z and A-Z, digits, `.`, `_` and `-`, and begins with \
         a letter or digit, such as lan-1",
        max = Name::MAX
    )]
    Name(String),
    /// Not an [`InterfaceName`].
    #[error(
        "{0:?} cannot be an interface: its name has 1 to {max} letters, digits and signs but `/`, `:` and `%`, \
         such as tap0",
        max = InterfaceName::MAX
    )]
    Interface(String),
}

impl Name {
    /// Characters at most: those of a domain's name, and some to tell its interfaces apart.
    pub const MAX: usize = 64;
}

impl InterfaceName {
    /// Characters at most (IFNAMSIZ without the zero at the end).
    pub const MAX: usize = 15;
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let good = text.len() <= Self::MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(inner);
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Name(text.to_owned())),
        }
    }
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // What the kernel takes, less what is not ASCII, and less %, which has it make up a number.
        let inner = |b: u8| b.is_ascii_graphic() && !b"/:%".contains(&b);
        let good =
            (1..=Self::MAX).contains(&text.len()) && text.bytes().all(inner) && !matches!(text, "." | "..");
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Interface(text.to_owned())),
        }
    }
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}
text!(Name);
text!(InterfaceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "lan-1", "A.b_c", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "a\0",
            "ä",
            "a,b",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interfaces_are_what_the_kernel_takes() {
        for good in ["tap0", "br-lan.100", "a", &"x".repeat(15)] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "tap%d",
            "a b",
            "a\0",
            "ä",
            &"x".repeat(16),
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }
}
