//! Network interfaces.

use super::{Attachment, NotPossible};
use donjon_limit::Limit;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_net::{Backend, ConnectError, Mac, Name, NetSpec};
use donjon_virtio::net::{Net, Settings};
use donjon_virtio::pci::VirtioPci;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Why a network interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// What it is connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The host gives no random numbers.
    #[error("cannot make up an address: {0}; give one: mac=02:00:00:00:00:01")]
    Mac(std::io::Error),
}

/// A network interface over the life of its domain.
pub struct NetDevice {
    name: String,
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
}

struct State {
    spec: NetSpec,
    mac: Mac,
    up: bool,
    /// In the machine that runs.
    front: Weak<Net>,
}

impl NetDevice {
    /// Connects it. Switches are in the directory `switches`, where it is called `port`.
    pub fn connect(
        spec: &NetSpec,
        name: String,
        switches: &Path,
        port: &Name,
    ) -> Result<Arc<Self>, NetError> {
        let mac = match spec.mac {
            Some(mac) => mac,
            None => Mac::random().map_err(NetError::Mac)?,
        };
        Ok(Arc::new(Self {
            name,
            backend: spec.connect(switches, port)?.into(),
            state: Mutex::new(State {
                spec: NetSpec {
                    mac: Some(mac),
                    ..spec.clone()
                },
                mac,
                up: true,
                front: Weak::new(),
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Attachment for NetDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "net"
    }

    fn options(&self) -> String {
        self.lock().spec.to_string()
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        let mut state = self.lock();
        let settings = Settings {
            mac: state.mac,
            mtu: state.spec.mtu,
            limit: state.spec.limit,
        };
        let net = Net::new(self.backend.clone(), settings);
        net.set_link(state.up);
        state.front = Arc::downgrade(&net);
        VirtioPci::new(net, ram)
    }

    fn set_limit(&self, limit: Limit) -> Result<(), NotPossible> {
        let mut state = self.lock();
        state.spec.limit = limit;
        state.front.upgrade().iter().for_each(|net| net.set_limit(limit));
        Ok(())
    }

    fn set_link(&self, up: bool) -> Result<(), NotPossible> {
        let mut state = self.lock();
        state.up = up;
        state.front.upgrade().iter().for_each(|net| net.set_link(up));
        Ok(())
    }
}
