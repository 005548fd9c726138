//! What a domain may be called.

use std::fmt;
use std::str::FromStr;

/// A domain's name: also that of a directory, and short enough for the path of a socket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name(String);

/// It cannot be called that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a name has 1 to {} letters a-z and A-Z, digits, `.`, `_` and `-`, and begins with a letter or digit, such \
     as web-1",
    Name::MAX
)]
pub struct NameError;

impl Name {
    /// Characters at most.
    pub const MAX: usize = 48;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let good = (1..=Self::MAX).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.as_bytes().iter().all(inner);
        good.then(|| Self(text.to_owned())).ok_or(NameError)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "tiny", "web-1", "A.b_c", "0", &"x".repeat(48)] {
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
            "a\n",
            &"x".repeat(49),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
