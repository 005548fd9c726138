//! Pairs of names on the command line.

use anyhow::{Result, bail};
use std::path::PathBuf;

/// A file or directory to be copied between the host and the lab.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    pub host: PathBuf,
    pub lab: String,
}

/// A program of the host that the lab is to have in /usr/bin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub name: String,
    pub path: PathBuf,
}

/// `HOST:LAB`. A path of the host may have a colon in it, one of the lab may not.
pub fn put(text: &str) -> Result<Copied> {
    let Some((host, lab)) = text.rsplit_once(':') else {
        bail!("{text:?} is not HOST:LAB, such as ./data:/root/data");
    };
    copied(host, lab, text)
}

/// `LAB:HOST`.
pub fn get(text: &str) -> Result<Copied> {
    let Some((lab, host)) = text.split_once(':') else {
        bail!("{text:?} is not LAB:HOST, such as /root/result:./result");
    };
    copied(host, lab, text)
}

fn copied(host: &str, lab: &str, text: &str) -> Result<Copied> {
    if host.is_empty() || !lab.starts_with('/') {
        bail!("in {text:?} the path in the lab has to be absolute, and the one on the host has to be there");
    }
    Ok(Copied {
        host: host.into(),
        lab: lab.into(),
    })
}

/// `NAME=PATH`.
pub fn peer(text: &str) -> Result<Peer> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !path.is_empty() => Ok(Peer {
            name: name.into(),
            path: path.into(),
        }),
        _ => bail!("{text:?} is not NAME=PATH, such as firecracker=/opt/bin/firecracker-v1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_name_both_ends() {
        let expected = |host: &str, lab: &str| Copied {
            host: host.into(),
            lab: lab.into(),
        };
        assert_eq!(put("a:b/c:/root/d").unwrap(), expected("a:b/c", "/root/d"));
        assert_eq!(get("/root/d:a:b/c").unwrap(), expected("a:b/c", "/root/d"));
        for wrong in ["a", "a:b", ":/b", ""] {
            assert!(put(wrong).is_err(), "{wrong}");
        }
        for wrong in ["/a", "a:b", "/a:", ""] {
            assert!(get(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn peers_have_plain_names() {
        let found = peer("fc=/opt/a=b").unwrap();
        assert_eq!((&found.name[..], found.path), ("fc", "/opt/a=b".into()));
        for wrong in ["fc", "=x", "fc=", "a/b=c"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }
}
