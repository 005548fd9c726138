//! What is not said in a request.

use crate::init;
use std::fs;

/// What runs where a request does not say how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults {
    /// Environment, below that of the request.
    pub env: Vec<(String, String)>,
    /// The working directory; the user's home, if not given.
    pub cwd: Option<String>,
    /// The user; root, if not given.
    pub user: Option<String>,
}

impl Defaults {
    /// Fields that end in a zero byte, which none of them can have in it: working directory, user, variables.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for field in [&self.cwd, &self.user] {
            text += field.as_deref().unwrap_or_default();
            text.push('\0');
        }
        for (name, value) in &self.env {
            text += &format!("{name}={value}\0");
        }
        text.into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut fields = text.split_terminator('\0');
        let mut field = || fields.next().filter(|f| !f.is_empty()).map(str::to_owned);
        let (cwd, user) = (field(), field());
        let variable = |v: &str| v.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
        Self {
            cwd,
            user,
            env: fields.filter_map(variable).collect(),
        }
    }

    /// Those of the container that process 1 runs.
    pub fn saved() -> Self {
        fs::read(init::DEFAULTS).map_or_else(|_| Self::default(), |b| Self::from_bytes(&b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_survive_their_file() {
        for defaults in [
            Defaults::default(),
            Defaults {
                env: vec![("A".into(), "b=c\nd".into()), ("E".into(), String::new())],
                cwd: None,
                user: Some("1:2".into()),
            },
        ] {
            assert_eq!(Defaults::from_bytes(&defaults.to_bytes()), defaults);
        }
    }
}
