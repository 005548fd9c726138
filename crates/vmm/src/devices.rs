//! The devices of a domain that can come and go: what they are over all resets, and where they are plugged in.

mod balloon;
mod console;
mod disk;
pub mod fs;
mod net;
mod pmem;
mod rng;
#[cfg(test)]
mod tests;
mod vsock;

pub use balloon::BalloonDevice;
pub use console::ConsoleDevice;
pub use disk::{Bus as DiskBus, DiskDevice, DiskError, DiskSpec, DiskSpecError};
pub use fs::{FsDevice, FsSpec, FsSpecError, Share, ShareSpecError};
pub use net::{NetDevice, NetError};
pub use pmem::{PmemDevice, PmemError, PmemSpec, PmemSpecError};
pub use rng::RngDevice;
pub use vsock::{VsockDevice, VsockSpec, VsockSpecError};

use donjon_limit::Limit;
use donjon_machine::Machine;
use donjon_machine::pci::{Bus, Device as PciDevice, Function, PlugError};
use donjon_memory::{MemoryFile, Ram};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A device over the life of its domain. A machine that is reset is a new one, and gets a new [`Function`] in front
/// of the same disk or network.
pub trait Attachment: Send + Sync {
    /// What people call it, such as `disk0`.
    fn name(&self) -> &str;

    /// `disk` or `net`, or what else it is.
    fn kind(&self) -> &'static str;

    /// The options that make one like it.
    fn options(&self) -> String;

    /// Whether people added it and can remove it.
    fn removable(&self) -> bool {
        true
    }

    /// A file that must be memory of every machine it is in.
    fn file(&self) -> Option<MemoryFile> {
        None
    }

    /// Its function in the machine that `ram` belongs to.
    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function>;

    /// Limits it from now on.
    fn set_limit(&self, limit: Limit) -> Result<(), NotPossible> {
        let _ = limit;
        Err(NotPossible::new(self, "cannot be limited"))
    }

    /// Plugs its cable in or pulls it.
    fn set_link(&self, up: bool) -> Result<(), NotPossible> {
        let _ = up;
        Err(NotPossible::new(self, "has no cable"))
    }

    /// Gives it another size in bytes; the balloon: leaves the guest so many bytes of its memory.
    fn resize(&self, size: u64) -> Result<(), NotPossible> {
        let _ = size;
        Err(NotPossible::new(self, "has no size"))
    }
}

/// Something that a device does not do.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {what}")]
pub struct NotPossible {
    device: String,
    what: String,
}

impl NotPossible {
    fn new<A: Attachment + ?Sized>(device: &A, what: impl ToString) -> Self {
        Self {
            device: format!("{} ({})", device.name(), device.kind()),
            what: what.to_string(),
        }
    }
}

/// Why a device did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Two of one name.
    #[error("there is a device called {0} already; choose another name: name=…")]
    Taken(String),
    /// None of this name.
    #[error("there is no device called {name:?}; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Part of the machine.
    #[error("{0} belongs to the machine and cannot be removed")]
    Fixed(String),
    /// The guest did not let go.
    #[error(
        "the guest does not let go of {0}: it may be in use (mounted, or an interface with addresses), or the guest \
         has no ACPI hotplug; it goes as soon as the guest lets go, or at once with --force, as if it were pulled out"
    )]
    Busy(String),
    /// The bus has no place.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The device itself.
    #[error(transparent)]
    NotPossible(#[from] NotPossible),
}

struct Entry {
    attachment: Arc<dyn Attachment>,
    slot: u8,
}

struct Running {
    ram: Arc<Ram>,
    bus: Arc<Bus>,
    press_power_button: Box<dyn Fn() + Send>,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// The machine, while there is one.
    running: Option<Running>,
}

/// All devices of a domain. Shared by its supervisor and by those who add and remove.
#[derive(Default)]
pub struct Devices {
    state: Mutex<State>,
}

/// What [`Devices::list`] tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its PCI slot on bus 0.
    pub slot: u8,
    /// Its options.
    pub options: String,
}

impl Devices {
    /// None.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `prefix` with the first number that is free.
    pub fn free_name(&self, prefix: &str) -> String {
        let state = self.lock();
        let taken = |name: &String| state.entries.iter().any(|e| e.attachment.name() == name);
        let mut names = (0..).map(|n| format!("{prefix}{n}"));
        names
            .find(|n| !taken(n))
            .expect("there are more numbers than devices")
    }

    /// Adds a device, to the running machine if there is one. Its slot stays the same over resets.
    pub fn add(&self, attachment: Arc<dyn Attachment>) -> Result<u8, DeviceError> {
        let mut state = self.lock();
        let name = attachment.name();
        if state.entries.iter().any(|e| e.attachment.name() == name) {
            return Err(DeviceError::Taken(name.into()));
        }
        // What is about to go keeps its slot until it is off the list.
        let free = |slot: &u8| state.entries.iter().all(|e| e.slot != *slot);
        let slots = match &state.running {
            Some(running) => running.bus.free_slots(),
            None => (1..donjon_machine::pci::SLOTS).collect(),
        };
        let slot = slots.into_iter().find(free).ok_or(PlugError::Full)?;
        if let Some(Running { ram, bus, .. }) = &state.running {
            if attachment.file().is_some() {
                let what = "a running domain's memory stays as it is; end the domain, and add it to its `donjon run`";
                return Err(NotPossible::new(&*attachment, what).into());
            }
            bus.add(PciDevice::at(slot, attachment.function(ram)))?;
        }
        state.entries.push(Entry { attachment, slot });
        Ok(slot)
    }

    /// Removes a device: the guest is asked to let go of it, for as long as `patience`; with `force` it is pulled out
    /// if the guest has not by then.
    pub fn remove(&self, name: &str, patience: Duration, force: bool) -> Result<(), DeviceError> {
        let (slot, bus, attachment) = {
            let mut state = self.lock();
            let entry = find(&state, name)?;
            if !entry.attachment.removable() {
                return Err(DeviceError::Fixed(name.into()));
            }
            let slot = entry.slot;
            let Some(running) = &state.running else {
                state.entries.retain(|e| e.slot != slot);
                return Ok(());
            };
            (slot, running.bus.clone(), entry.attachment.clone())
        };
        // Not with the list locked: the guest's answer comes by way of `forget`.
        if let Ok(removal) = bus.request_removal(slot)
            && !removal.wait(patience)
        {
            if !force {
                return Err(DeviceError::Busy(name.into()));
            }
            // It may have let go just now.
            let _ = bus.remove_now(slot);
        }
        // Not by its slot, which another may have by now.
        self.forget(|e| Arc::ptr_eq(&e.attachment, &attachment));
        Ok(())
    }

    /// Takes off the list what has gone.
    fn forget(&self, is_gone: impl FnMut(&Entry) -> bool) {
        let gone: Vec<_> = {
            let mut state = self.lock();
            let (gone, rest) = state.entries.drain(..).partition(is_gone);
            state.entries = rest;
            gone
        };
        for entry in gone {
            tracing::info!(device = entry.attachment.name(), "removed");
        }
    }

    /// Does something with a device.
    pub fn with<T>(
        &self,
        name: &str,
        act: impl FnOnce(&dyn Attachment) -> Result<T, NotPossible>,
    ) -> Result<T, DeviceError> {
        let attachment = find(&self.lock(), name)?.attachment.clone();
        Ok(act(&*attachment)?)
    }

    /// All of them, in order of slots.
    pub fn list(&self) -> Vec<Listed> {
        let state = self.lock();
        let mut all: Vec<_> = state
            .entries
            .iter()
            .map(|e| Listed {
                name: e.attachment.name().into(),
                kind: e.attachment.kind(),
                slot: e.slot,
                options: e.attachment.options(),
            })
            .collect();
        all.sort_by_key(|d| d.slot);
        all
    }

    /// The files that are to be memory of the next machine, in order of slots.
    pub(crate) fn files(&self) -> Vec<MemoryFile> {
        let state = self.lock();
        let mut entries: Vec<_> = state.entries.iter().collect();
        entries.sort_by_key(|e| e.slot);
        entries.iter().filter_map(|e| e.attachment.file()).collect()
    }

    /// Has a machine built with all of them; from then on devices come and go on its bus.
    pub(crate) fn build<E>(
        self: &Arc<Self>,
        ram: &Arc<Ram>,
        machine: impl FnOnce(Vec<PciDevice>) -> Result<Machine, E>,
    ) -> Result<Arc<Machine>, E> {
        let mut state = self.lock();
        let device = |e: &Entry| PciDevice::at(e.slot, e.attachment.function(ram));
        let machine = Arc::new(machine(state.entries.iter().map(device).collect())?);
        let button = machine.clone();
        let (me, bus) = (Arc::downgrade(self), Arc::downgrade(machine.pci()));
        machine.pci().on_removal(move |slot| {
            if let (Some(me), Some(bus)) = (me.upgrade(), bus.upgrade()) {
                // Unless the slot has another device already.
                me.forget(|e| e.slot == slot && !bus.slots().contains(&slot));
            }
        });
        state.running = Some(Running {
            ram: ram.clone(),
            bus: machine.pci().clone(),
            press_power_button: Box::new(move || button.press_power_button()),
        });
        Ok(machine)
    }

    /// Presses the machine's power button; tells whether there is a machine.
    pub fn press_power_button(&self) -> bool {
        let state = self.lock();
        let pressed = state.running.as_ref().map(|r| (r.press_power_button)());
        pressed.is_some()
    }

    /// Lets go of all devices, and of the files and networks behind them, whoever else has this.
    pub fn close(&self) {
        let entries = std::mem::take(&mut self.lock().entries);
        drop(entries);
    }

    /// The machine runs no more.
    pub(crate) fn powered_off(&self) {
        self.lock().running = None;
    }
}

/// What stands before the first single comma, with double ones made single; and what behind it.
fn split_path(text: &str) -> (String, Option<&str>) {
    let (mut path, mut rest) = (String::new(), text);
    loop {
        match rest.find(',') {
            None => return (path + rest, None),
            Some(at) if rest[at + 1..].starts_with(',') => {
                path += &rest[..=at];
                rest = &rest[at + 2..];
            }
            Some(at) => return (path + &rest[..at], Some(&rest[at + 1..])),
        }
    }
}

/// Tells the user on standard error.
fn notice(text: &str) {
    let mut err = std::io::stderr();
    // A terminal may be in raw mode.
    let line = match err.is_terminal() {
        true => format!("\r\ndonjon: {text}\r\n"),
        false => format!("donjon: {text}\n"),
    };
    // A closed standard error is no reason to stop.
    let _ = err.write_all(line.as_bytes());
}

/// Whether it is a device's name.
fn check_name(name: &str) -> Result<(), ()> {
    let proper = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ((1..=32).contains(&name.len()) && name.chars().all(proper))
        .then_some(())
        .ok_or(())
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Entry, DeviceError> {
    let found = state.entries.iter().find(|e| e.attachment.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = state.entries.iter().map(|e| e.attachment.name()).collect();
        DeviceError::Unknown {
            name: name.into(),
            known: names.join(", "),
        }
    })
}
