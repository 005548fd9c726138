//! Disks.

use super::{Attachment, NotPossible, notice};
use donjon_block::{Format, OpenError, Options as OpenOptions, open};
use donjon_disk::Disk;
use donjon_limit::Limit;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_net::options::{Options, OptionsError, quoted};
use donjon_nvme::NvmePci;
use donjon_virtio::blk::{self, Blk};
use donjon_virtio::pci::VirtioPci;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// The most bytes of a serial number that every bus can show.
const SERIAL: usize = 20;

/// What a disk is connected by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bus {
    /// virtio block device.
    #[default]
    Virtio,
    /// NVMe controller.
    Nvme,
}

impl FromStr for Bus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "virtio" => Ok(Self::Virtio),
            "nvme" => Ok(Self::Nvme),
            _ => Err("there is virtio and nvme"),
        }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Virtio => "virtio",
            Self::Nvme => "nvme",
        })
    }
}

/// A disk of a domain.
///
/// As text: `FILE[,format=raw|qcow2|vmdk][,bus=virtio|nvme][,ro][,serial=S][,name=NAME][,queues=N]` and a [`Limit`];
/// a comma in a file's name is written twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskSpec {
    /// The image.
    pub path: PathBuf,
    /// Its format; found out if not given.
    pub format: Option<Format>,
    /// What it is connected by.
    pub bus: Bus,
    /// The guest may not write.
    pub read_only: bool,
    /// The serial number that the guest sees; its name if not given.
    pub serial: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// Queues; one for each vCPU if not given, up to four.
    pub queues: Option<u16>,
    /// What it may do.
    pub limit: Limit,
}

/// It does not say a disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskSpecError {
    /// No file.
    #[error("say which image: FILE[,format=raw|qcow2|vmdk][,bus=virtio|nvme][,ro][,serial=S][,name=NAME]")]
    NoFile,
    /// The list is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Too long, or not for everyone.
    #[error(
        "serial={0}: a serial number has 1 to {SERIAL} letters, digits or other visible ASCII characters"
    )]
    Serial(String),
    /// Not a name.
    #[error("name={0}: a device's name has 1 to 32 letters, digits, - and _")]
    Name(String),
    /// Too many.
    #[error("queues={0}: a disk has 1 to {max} queues", max = blk::MAX_QUEUES)]
    Queues(u16),
}

const KEYS: [&str; 10] = [
    "format",
    "bus",
    "ro",
    "serial",
    "name",
    "queues",
    Limit::KEYS[0],
    Limit::KEYS[1],
    Limit::KEYS[2],
    Limit::KEYS[3],
];

impl FromStr for DiskSpec {
    type Err = DiskSpecError;

    fn from_str(text: &str) -> Result<Self, DiskSpecError> {
        let (path, rest) = super::split_path(text);
        if path.is_empty() {
            return Err(DiskSpecError::NoFile);
        }
        let mut spec = Self {
            path: path.into(),
            ..Self::default()
        };
        let Some(rest) = rest else {
            return Ok(spec);
        };
        let mut options = Options::parse(rest)?;
        spec.format = options.parsed("format")?;
        spec.bus = options.parsed("bus")?.unwrap_or_default();
        spec.read_only = options.word("ro")?;
        spec.serial = options.value("serial")?;
        spec.name = options.value("name")?;
        spec.queues = options.parsed("queues")?;
        let mut values = [const { None }; 4];
        for (value, key) in values.iter_mut().zip(Limit::KEYS) {
            *value = options.value(key)?;
        }
        options.finish(&KEYS)?;
        let limit = Limit::from_values(values.each_ref().map(Option::as_deref));
        spec.limit = limit.map_err(|e| OptionsError::bad("limit", e))?;
        spec.check()?;
        Ok(spec)
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for DiskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.path.to_string_lossy()))?;
        if let Some(format) = self.format {
            write!(f, ",format={format}")?;
        }
        if self.bus != Bus::default() {
            write!(f, ",bus={}", self.bus)?;
        }
        if self.read_only {
            f.write_str(",ro")?;
        }
        if let Some(serial) = &self.serial {
            write!(f, ",serial={}", quoted(serial))?;
        }
        if let Some(name) = &self.name {
            write!(f, ",name={name}")?;
        }
        if let Some(queues) = self.queues {
            write!(f, ",queues={queues}")?;
        }
        if !self.limit.is_unlimited() {
            write!(f, ",{}", self.limit)?;
        }
        Ok(())
    }
}

impl DiskSpec {
    fn check(&self) -> Result<(), DiskSpecError> {
        if let Some(serial) = &self.serial {
            let fits = (1..=SERIAL).contains(&serial.len()) && serial.chars().all(|c| c.is_ascii_graphic());
            if !fits {
                return Err(DiskSpecError::Serial(serial.clone()));
            }
        }
        if let Some(name) = &self.name {
            super::check_name(name).map_err(|()| DiskSpecError::Name(name.clone()))?;
        }
        match self.queues {
            Some(queues) if !(1..=blk::MAX_QUEUES).contains(&queues) => Err(DiskSpecError::Queues(queues)),
            _ => Ok(()),
        }
    }
}

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A disk over the life of its domain.
pub struct DiskDevice {
    name: String,
    spec: Mutex<DiskSpec>,
    bus: Bus,
    queues: u16,
    disk: Arc<Disk>,
    /// In the machine that runs.
    front: Mutex<Option<Front>>,
}

/// The device that the guest has.
enum Front {
    Virtio(Weak<Blk>),
    Nvme(Weak<NvmePci>),
}

impl Front {
    fn limit_changed(&self) {
        match self {
            Self::Virtio(blk) => blk.upgrade().iter().for_each(|b| b.limit_changed()),
            Self::Nvme(nvme) => nvme.upgrade().iter().for_each(|n| n.limit_changed()),
        }
    }

    fn resized(&self) {
        match self {
            Self::Virtio(blk) => blk.upgrade().iter().for_each(|b| b.resized()),
            Self::Nvme(nvme) => nvme.upgrade().iter().for_each(|n| n.resized()),
        }
    }
}

impl DiskDevice {
    /// Opens the image. `name` counts if the options have none; `cpus` are the domain's.
    pub fn open(spec: &DiskSpec, name: String, cpus: u32) -> Result<Arc<Self>, DiskError> {
        let name = spec.name.clone().unwrap_or(name);
        let options = OpenOptions {
            format: spec.format,
            read_only: spec.read_only,
            lock: true,
        };
        let image = open(&spec.path, &options)?;
        let path = spec.path.clone();
        let serial = spec
            .serial
            .clone()
            .unwrap_or_else(|| name.chars().take(SERIAL).collect());
        let disk = Disk::new(image, serial, spec.limit);
        disk.on_full(move |full| {
            let path = path.display();
            notice(&match full {
                true => format!("no room for {path} on the host; the guest's writes wait until there is"),
                false => format!("there is room for {path} again"),
            });
        });
        Ok(Arc::new(Self {
            disk,
            bus: spec.bus,
            queues: spec.queues.unwrap_or(cpus.clamp(1, 4) as u16),
            spec: Mutex::new(spec.clone()),
            front: Mutex::default(),
            name,
        }))
    }

    fn front(&self) -> std::sync::MutexGuard<'_, Option<Front>> {
        self.front.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Attachment for DiskDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "disk"
    }

    fn options(&self) -> String {
        let options = self.spec.lock().unwrap_or_else(|e| e.into_inner()).to_string();
        match self.disk.is_full() {
            true => options + " (waits for room on the host)",
            false => options,
        }
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        match self.bus {
            Bus::Nvme => {
                let nvme = NvmePci::new(self.disk.clone(), ram, self.queues);
                *self.front() = Some(Front::Nvme(Arc::downgrade(&nvme)));
                nvme
            }
            Bus::Virtio => {
                let blk = Blk::new(self.disk.clone(), self.queues);
                *self.front() = Some(Front::Virtio(Arc::downgrade(&blk)));
                VirtioPci::new(blk, ram)
            }
        }
    }

    fn set_limit(&self, limit: Limit) -> Result<(), NotPossible> {
        self.disk.limiter().set(Instant::now(), limit);
        self.spec.lock().unwrap_or_else(|e| e.into_inner()).limit = limit;
        self.front().iter().for_each(Front::limit_changed);
        Ok(())
    }

    fn resize(&self, size: u64) -> Result<(), NotPossible> {
        let now = self.disk.size();
        if size < now {
            let what = format!(
                "a disk in use can only grow: it has {now} bytes, not {size}; shrink the file system and then the \
                 image while no domain uses it: donjon disk resize"
            );
            return Err(NotPossible::new(self, what));
        }
        let resized = self.disk.image().resize(size);
        resized.map_err(|e| NotPossible::new(self, e))?;
        self.front().iter().for_each(Front::resized);
        Ok(())
    }
}
