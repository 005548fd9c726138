//! Names of images.

use crate::{Digest, Error};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Which image of which registry: `[docker://][REGISTRY/]NAME[:TAG][@DIGEST]`. What is left out is Docker's: the
/// registry docker.io, in it the prefix `library/`, the tag `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    inner: oci_spec::distribution::Reference,
    digest: Option<Digest>,
}

/// Longer than any reference.
const MAX_LENGTH: usize = 1024;

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |what: String| Error::Reference {
            text: crate::error::quote(text),
            what,
        };
        let name = text.strip_prefix("docker://").unwrap_or(text);
        if name.contains("://") {
            return Err(bad("only docker:// can stand in front of it".into()));
        }
        if name.len() > MAX_LENGTH {
            return Err(bad("it is too long".into()));
        }
        let inner: oci_spec::distribution::Reference = name.parse().map_err(|e| bad(format!("{e}")))?;
        // A registry's name may have capitals, and what was taken for one may turn out to be none.
        if inner
            .whole()
            .parse::<oci_spec::distribution::Reference>()
            .ok()
            .as_ref()
            != Some(&inner)
        {
            return Err(bad("names of images have small letters only".into()));
        }
        let digest = inner.digest().map(Digest::from_str).transpose();
        let digest = digest.map_err(|e| bad(e.to_string()))?;
        Ok(Self { inner, digest })
    }
}

impl fmt::Display for Reference {
    /// In full.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.whole())
    }
}

impl Reference {
    /// The registry's name and perhaps its port.
    pub fn registry(&self) -> &str {
        self.inner.registry()
    }

    /// The name in the registry.
    pub fn repository(&self) -> &str {
        self.inner.repository()
    }

    /// The tag, if it was given or nothing was.
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }

    /// The digest, if it was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Where the registry is: Docker Hub's API has another name.
    pub(crate) fn host(&self) -> &str {
        match self.registry() {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        }
    }

    /// What names the manifest in a request: the digest if there is one.
    pub(crate) fn manifest(&self) -> String {
        match self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag().unwrap_or("latest").to_owned(),
        }
    }

    /// Whether the registry is on this machine, where plain HTTP tells nobody anything.
    pub(crate) fn is_loopback(&self) -> bool {
        let registry = self.registry();
        let name = registry.rsplit_once(':').map_or(registry, |(name, _)| name);
        name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}
