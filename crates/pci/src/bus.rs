//! The root bus: what is plugged where.

use crate::hotplug::Registers;
use crate::layout::DescriptionError;
use crate::map::Map;
use crate::node::Node;
use crate::removal::{Gone, Removal};
use crate::windows::{Extent, Windows};
use crate::{Function, HostBridge};
use arc_swap::ArcSwap;
use donjon_devices::MsiSink;
use donjon_devices::bus::Buses;
use donjon_devices::line::SharedLine;
use donjon_devices::sync::Lock;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Slots of a bus.
pub const SLOTS: u8 = 32;
/// Functions of a device.
pub const FUNCTIONS: usize = 8;
/// Wires that interrupt pins are connected to.
pub const INTX_LINES: usize = 8;

/// Which of the [`INTX_LINES`] wires pin `pin` (0 is INTA) of the device in `slot` is connected to.
pub fn intx_line(slot: u8, pin: u8) -> usize {
    (usize::from(slot) + usize::from(pin)) % INTX_LINES
}

/// What a bus is connected to.
pub struct Wiring {
    /// Takes MSI-X messages.
    pub msi: Arc<dyn MsiSink>,
    /// The wires of [`intx_line`].
    pub intx: [Arc<SharedLine>; INTX_LINES],
    /// What firmware writes into Interrupt Line registers: the ISA interrupt each wire arrives at.
    pub irqs: [u8; INTX_LINES],
    /// Where BARs may be.
    pub windows: Windows,
    /// Raises the general-purpose event whose handler looks at the hotplug registers.
    pub event: Box<dyn Fn() + Send + Sync>,
}

/// Functions that share a slot.
#[derive(Clone)]
pub struct Device {
    /// Slot 1 to 31; `None` for any.
    pub slot: Option<u8>,
    /// Function 0 and up, 1 to 8 of them.
    pub functions: Vec<Arc<dyn Function>>,
}

impl Device {
    /// A device of one function, for any slot.
    pub fn new(function: Arc<dyn Function>) -> Self {
        Self {
            slot: None,
            functions: vec![function],
        }
    }

    /// A device of one function, for this slot.
    pub fn at(slot: u8, function: Arc<dyn Function>) -> Self {
        Self {
            slot: Some(slot),
            functions: vec![function],
        }
    }
}

/// Why a device cannot be plugged in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlugError {
    /// Not a slot for devices.
    #[error("PCI slot {0} does not exist; slots for devices are 1 to 31")]
    NoSlot(u8),
    /// Somebody is there.
    #[error("PCI slot {0} is taken; leave the slot out to have a free one chosen")]
    Taken(u8),
    /// Everything is taken.
    #[error("all 31 PCI slots are taken; remove a device first")]
    Full,
    /// No functions, or more than eight.
    #[error("a PCI device has 1 to 8 functions, not {0}")]
    Functions(usize),
    /// A function describes itself wrongly.
    #[error("function {function} of the PCI device: {error}")]
    Description {
        /// Which.
        function: usize,
        /// Why.
        error: DescriptionError,
    },
}

/// There is nothing in a slot to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("PCI slot {0} has no device that can be removed")]
pub struct NotPlugged(pub u8);

type Nodes = [Option<Arc<Node>>; SLOTS as usize * FUNCTIONS];
type Observer = Arc<dyn Fn(u8) + Send + Sync>;

/// Bus 0 of a PCI Express hierarchy. Slot 0 is the host bridge; 1 to 31 are for devices, which can come and go
/// while the guest runs.
pub struct Bus {
    nodes: ArcSwap<Nodes>,
    map: Arc<Map>,
    wiring: Wiring,
    /// The devices in the slots. Held while one comes or goes.
    plugged: Lock<[Option<Arc<Gone>>; SLOTS as usize]>,
    pub(crate) hotplug: Lock<Registers>,
    /// CONFIG_ADDRESS.
    pub(crate) address: AtomicU32,
    observer: Lock<Option<Observer>>,
}

impl Bus {
    /// A bus with these devices, as firmware leaves it: BARs have addresses and decode them, nothing is a bus
    /// master.
    pub fn new(buses: &Arc<Buses>, wiring: Wiring, devices: Vec<Device>) -> Result<Arc<Self>, PlugError> {
        let bus = Arc::new(Self {
            nodes: ArcSwap::from_pointee(std::array::from_fn(|_| None)),
            map: Arc::new(Map::new(buses, wiring.windows.clone())),
            wiring,
            plugged: Lock::default(),
            hotplug: Lock::default(),
            address: AtomicU32::new(0),
            observer: Lock::default(),
        });
        bus.plug(0, &[Arc::new(HostBridge) as Arc<dyn Function>], true)?;
        // Those that want a slot first, so that nobody who does not care is in their way.
        let (fixed, any): (Vec<_>, Vec<_>) = devices.into_iter().partition(|d| d.slot.is_some());
        for device in fixed.into_iter().chain(any) {
            let mut plugged = bus.plugged.lock();
            let slot = bus.choose(&plugged[..], &device)?;
            bus.plug(slot, &device.functions, true)?;
            plugged[usize::from(slot)] = Some(Arc::default());
        }
        Ok(bus)
    }

    /// Plugs a device in while the guest runs, and tells the guest. Its BARs have addresses but do not decode
    /// them. The slot it is in.
    pub fn add(&self, device: Device) -> Result<u8, PlugError> {
        let slot = {
            let mut plugged = self.plugged.lock();
            let slot = self.choose(&plugged[..], &device)?;
            self.plug(slot, &device.functions, false)?;
            plugged[usize::from(slot)] = Some(Arc::default());
            self.hotplug.lock().inserted(slot);
            slot
        };
        (self.wiring.event)();
        Ok(slot)
    }

    /// Asks the guest to let go of a device. When it has, the device is removed.
    pub fn request_removal(&self, slot: u8) -> Result<Removal, NotPlugged> {
        let gone = {
            let plugged = self.plugged.lock();
            let gone = plugged.get(usize::from(slot)).cloned().flatten();
            let gone = gone.ok_or(NotPlugged(slot))?;
            self.hotplug.lock().wanted(slot);
            gone
        };
        (self.wiring.event)();
        Ok(Removal::of(gone))
    }

    /// Pulls a device out without asking, and tells the guest afterwards. For guests that do not answer: a
    /// driver may not survive it. The same slot should be left empty until the guest has noticed.
    pub fn remove_now(&self, slot: u8) -> Result<(), NotPlugged> {
        if !self.unplug(slot, |r| r.wanted(slot)) {
            return Err(NotPlugged(slot));
        }
        (self.wiring.event)();
        Ok(())
    }

    /// Calls `observer` with its slot whenever a device has been removed, by whomever; on that thread, with
    /// nothing locked.
    pub fn on_removal(&self, observer: impl Fn(u8) + Send + Sync + 'static) {
        *self.observer.lock() = Some(Arc::new(observer));
    }

    /// The slots with devices.
    pub fn slots(&self) -> Vec<u8> {
        let plugged = self.plugged.lock();
        (0..SLOTS)
            .filter(|&s| plugged[usize::from(s)].is_some())
            .collect()
    }

    /// The guest lets go of what is in these slots.
    pub(crate) fn eject(&self, slots: u32) {
        for slot in (1..SLOTS).filter(|s| slots & 1 << s != 0) {
            self.unplug(slot, |r| r.gone(slot));
        }
    }

    pub(crate) fn node(&self, number: u8) -> Option<Arc<Node>> {
        self.nodes.load()[usize::from(number)].clone()
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.load().iter().flatten().cloned().collect()
    }

    /// Runs `f` while devices neither come nor go.
    pub(crate) fn unchanging<T>(&self, f: impl FnOnce(&[Arc<Node>]) -> T) -> T {
        let _plugged = self.plugged.lock();
        f(&self.nodes())
    }

    /// Gives all BARs addresses, as after power-on.
    pub(crate) fn assign_all(&self, nodes: &[Arc<Node>]) {
        let mut used = vec![];
        nodes.iter().for_each(|n| n.assign(&mut used, true));
    }

    fn choose(&self, plugged: &[Option<Arc<Gone>>], device: &Device) -> Result<u8, PlugError> {
        if !(1..=FUNCTIONS).contains(&device.functions.len()) {
            return Err(PlugError::Functions(device.functions.len()));
        }
        let free = |slot: &u8| plugged[usize::from(*slot)].is_none();
        match device.slot {
            Some(slot) if !(1..SLOTS).contains(&slot) => Err(PlugError::NoSlot(slot)),
            Some(slot) if !free(&slot) => Err(PlugError::Taken(slot)),
            Some(slot) => Ok(slot),
            None => self.free(plugged).first().copied().ok_or(PlugError::Full),
        }
    }

    /// Slots without devices, first those that the guest knows are empty.
    pub fn free_slots(&self) -> Vec<u8> {
        let plugged = self.plugged.lock();
        self.free(&plugged[..])
    }

    fn free(&self, plugged: &[Option<Arc<Gone>>]) -> Vec<u8> {
        let unsettled = self.hotplug.lock().unsettled();
        let free = (1..SLOTS).filter(|s| plugged[usize::from(*s)].is_none());
        let (known, rest): (Vec<_>, Vec<_>) = free.partition(|s| unsettled & 1 << s == 0);
        [known, rest].concat()
    }

    fn plug(&self, slot: u8, functions: &[Arc<dyn Function>], decode: bool) -> Result<(), PlugError> {
        let mut new = Nodes::clone(&self.nodes.load());
        let mut used: Vec<Extent> = self.nodes().iter().flat_map(|n| n.extents()).collect();
        let multi = functions.len() > 1;
        let made: Result<Vec<_>, _> = (0..)
            .zip(functions)
            .map(|(i, function)| {
                Node::new(slot << 3 | i, multi, function.clone(), &self.map, &self.wiring)
                    .map(Arc::new)
                    .map_err(|error| PlugError::Description {
                        function: i.into(),
                        error,
                    })
            })
            .collect();
        for node in made? {
            node.assign(&mut used, decode);
            let number = usize::from(node.number());
            new[number] = Some(node);
        }
        self.nodes.store(Arc::new(new));
        Ok(())
    }

    /// Takes a device off the bus; whether there was one.
    fn unplug(&self, slot: u8, note: impl FnOnce(&mut Registers)) -> bool {
        let (gone, nodes) = {
            let mut plugged = self.plugged.lock();
            let Some(gone) = plugged.get_mut(usize::from(slot)).and_then(Option::take) else {
                return false;
            };
            let mut new = Nodes::clone(&self.nodes.load());
            let first = usize::from(slot) * FUNCTIONS;
            let here = &mut new[first..first + FUNCTIONS];
            let nodes: Vec<_> = here.iter_mut().filter_map(Option::take).collect();
            self.nodes.store(Arc::new(new));
            nodes.iter().for_each(|n| n.detach());
            note(&mut self.hotplug.lock());
            (gone, nodes)
        };
        // First, so that whoever waits finds what the functions had open closed.
        drop(nodes);
        gone.happened();
        let observer = self.observer.lock().clone();
        if let Some(observer) = observer {
            observer(slot);
        }
        true
    }
}
