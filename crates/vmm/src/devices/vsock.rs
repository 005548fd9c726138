//! Sockets between host and guest.

use super::Attachment;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_net::options::{Options, OptionsError, quoted};
use donjon_virtio::pci::VirtioPci;
use donjon_virtio::vsock::{CIDS, Vsock, VsockError};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A domain's sockets.
///
/// As text: `PATH[,cid=N]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VsockSpec {
    /// The Unix socket for connections to the guest; those from it go to sockets of this name with `_PORT` behind it.
    pub path: PathBuf,
    /// The guest's address.
    pub cid: u64,
}

/// It does not say sockets.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VsockSpecError {
    /// No path.
    #[error("say where the Unix socket is to be: PATH[,cid=N]")]
    NoPath,
    /// The list is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Not a guest's address.
    #[error("cid={0}: a guest has an address from {first} to {last}", first = CIDS.start(), last = CIDS.end())]
    Cid(u64),
}

impl FromStr for VsockSpec {
    type Err = VsockSpecError;

    fn from_str(text: &str) -> Result<Self, VsockSpecError> {
        let (path, rest) = super::split_path(text);
        if path.is_empty() {
            return Err(VsockSpecError::NoPath);
        }
        let mut cid = *CIDS.start();
        if let Some(rest) = rest {
            let mut options = Options::parse(rest)?;
            cid = options.parsed("cid")?.unwrap_or(cid);
            options.finish(&["cid"])?;
        }
        if !CIDS.contains(&cid) {
            return Err(VsockSpecError::Cid(cid));
        }
        Ok(Self {
            path: path.into(),
            cid,
        })
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for VsockSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},cid={}", quoted(&self.path.to_string_lossy()), self.cid)
    }
}

/// A socket device over the life of its domain.
pub struct VsockDevice {
    spec: VsockSpec,
    /// Holds the socket; machines get others like it.
    vsock: Arc<Vsock>,
}

impl VsockDevice {
    /// Listens.
    pub fn new(spec: &VsockSpec) -> Result<Arc<Self>, VsockError> {
        Ok(Arc::new(Self {
            spec: spec.clone(),
            vsock: Vsock::new(spec.cid, &spec.path)?,
        }))
    }
}

impl Attachment for VsockDevice {
    fn name(&self) -> &str {
        "vsock"
    }

    fn kind(&self) -> &'static str {
        "vsock"
    }

    fn options(&self) -> String {
        self.spec.to_string()
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        VirtioPci::new(self.vsock.anew(), ram)
    }
}
