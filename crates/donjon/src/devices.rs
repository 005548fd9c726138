//! The devices of a domain that this process runs.

use crate::failure::Failure;
use donjon_control::{DeviceChange, DeviceInfo, DeviceKind, REMOVAL, Refusal};
use donjon_limit::Limit;
use donjon_net::{Connection, Name as PortName, NetSpec};
use donjon_vmm::devices::{
    Attachment, BalloonDevice, ConsoleDevice, Devices, DiskDevice, DiskSpec, FsDevice, FsSpec, Listed,
    NetDevice, PmemDevice, PmemSpec, RngDevice, VsockDevice, VsockSpec,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Makes devices and changes them.
pub struct Board {
    pub devices: Arc<Devices>,
    cpus: u32,
    /// Where switches are, if the user has a place for them.
    switches: Option<PathBuf>,
    ports: AtomicU32,
}

impl Board {
    /// The devices that every domain has.
    pub fn new(cpus: u32, memory: u64, switches: Option<PathBuf>) -> Result<Self, Failure> {
        let devices = Devices::new();
        devices.add(Arc::new(RngDevice))?;
        devices.add(BalloonDevice::new(memory))?;
        Ok(Self {
            devices,
            cpus,
            switches,
            ports: AtomicU32::new(0),
        })
    }

    /// Plugs a disk in.
    pub fn add_disk(&self, spec: &DiskSpec) -> anyhow::Result<String> {
        let disk = DiskDevice::open(spec, self.devices.free_name("disk"), self.cpus)?;
        self.add(disk)
    }

    /// Adds persistent memory, before the domain runs.
    pub fn add_pmem(&self, spec: &PmemSpec) -> anyhow::Result<String> {
        self.add(PmemDevice::open(spec, self.devices.free_name("pmem"))?)
    }

    /// Shares a directory.
    pub fn add_fs(&self, spec: &FsSpec) -> anyhow::Result<String> {
        self.add(FsDevice::open(spec, self.devices.free_name("fs"))?)
    }

    /// Plugs a network interface in.
    pub fn add_net(&self, spec: &NetSpec) -> anyhow::Result<String> {
        let number = self.ports.fetch_add(1, Relaxed);
        let port: PortName = format!("{}-{number}", std::process::id()).parse()?;
        let switches = match (&self.switches, &spec.connection) {
            (Some(switches), _) => switches,
            (None, Connection::Switch(_)) => {
                anyhow::bail!("there is no place for switches: set XDG_RUNTIME_DIR or HOME")
            }
            (None, _) => Path::new(""),
        };
        let net = NetDevice::connect(spec, self.devices.free_name("net"), switches, &port)?;
        self.add(net)
    }

    /// Adds a paravirtual console.
    pub fn add_console(&self) -> anyhow::Result<Arc<ConsoleDevice>> {
        let console = ConsoleDevice::new();
        self.add(console.clone())?;
        Ok(console)
    }

    /// Connects host and guest by sockets.
    pub fn add_vsock(&self, spec: &VsockSpec) -> anyhow::Result<String> {
        self.add(VsockDevice::new(spec)?)
    }

    fn add(&self, attachment: Arc<dyn Attachment>) -> anyhow::Result<String> {
        let name = attachment.name().to_owned();
        self.devices.add(attachment)?;
        Ok(name)
    }

    /// All of them.
    pub fn list(&self) -> Vec<DeviceInfo> {
        self.devices.list().into_iter().map(info).collect()
    }

    /// Plugs one in, as [`donjon_control::Command::DeviceAdd`] asks for.
    pub fn plug(&self, kind: DeviceKind, options: &str) -> Result<DeviceInfo, Refusal> {
        let name = match kind {
            DeviceKind::Disk => options
                .parse()
                .map_err(bad)
                .and_then(|spec| self.add_disk(&spec).map_err(no)),
            DeviceKind::Net => options
                .parse()
                .map_err(bad)
                .and_then(|spec| self.add_net(&spec).map_err(no)),
            DeviceKind::Fs => options
                .parse()
                .map_err(bad)
                .and_then(|spec| self.add_fs(&spec).map_err(no)),
        }?;
        self.one(&name)
    }

    /// Takes one out.
    pub fn unplug(&self, name: &str, force: bool) -> Result<(), Refusal> {
        self.devices.remove(name, REMOVAL, force).map_err(no)
    }

    /// Changes one.
    pub fn change(&self, name: &str, change: &DeviceChange) -> Result<DeviceInfo, Refusal> {
        let limit = change.limit.as_ref().map(|l| l.parse::<Limit>()).transpose();
        let limit = limit.map_err(bad)?;
        let changed = self.devices.with(name, |device| {
            if let Some(size) = change.size {
                device.resize(size)?;
            }
            if let Some(limit) = limit {
                device.set_limit(limit)?;
            }
            if let Some(up) = change.link {
                device.set_link(up)?;
            }
            Ok(())
        });
        changed.map_err(no)?;
        self.one(name)
    }

    fn one(&self, name: &str) -> Result<DeviceInfo, Refusal> {
        let found = self.list().into_iter().find(|d| d.name == name);
        found.ok_or_else(|| Refusal::new("gone", format!("{name} is not there any more")))
    }
}

fn info(device: Listed) -> DeviceInfo {
    DeviceInfo {
        name: device.name,
        kind: device.kind.into(),
        slot: device.slot,
        options: device.options,
    }
}

fn bad(e: impl std::fmt::Display) -> Refusal {
    Refusal::new("bad-options", e.to_string())
}

/// With its causes.
fn no(e: impl Into<anyhow::Error>) -> Refusal {
    Refusal::new("failed", format!("{:#}", e.into()))
}
