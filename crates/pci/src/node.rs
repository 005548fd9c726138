//! A function on the bus: its configuration space, and what follows from it.

mod saved;

pub(crate) use saved::Saved;

use crate::bar::{Window, extent, is_wide};
use crate::function::{Bar, Function};
use crate::layout::{DescriptionError, Layout, build};
use crate::map::{Claim, Map, Target};
use crate::msix::Table;
use crate::registers::{self as reg, command, express, msix, power, status};
use crate::space::Space;
use crate::windows::{Extent, Kind};
use crate::{Interrupts, Wiring, intx_line};
use donjon_devices::LineSink;
use donjon_devices::line::Unconnected;
use donjon_devices::sync::Lock;
use std::ops::Range;
use std::sync::Arc;

/// What configuration space makes of the world.
#[derive(Clone, Default, PartialEq, Eq)]
struct Outputs {
    master: bool,
    msix: bool,
    held: bool,
    pin_disabled: bool,
    /// BARs that decode addresses.
    extents: Vec<(u8, Extent)>,
}

struct State {
    space: Space,
    outputs: Outputs,
    attached: bool,
}

/// A function on the bus.
pub(crate) struct Node {
    /// Slot in the upper five bits, function in the lower three.
    number: u8,
    function: Arc<dyn Function>,
    interrupts: Arc<Interrupts>,
    layout: Layout,
    initial: Space,
    /// What firmware writes into the Interrupt Line register.
    irq: u8,
    targets: Vec<(Bar, Target)>,
    map: Arc<Map>,
    state: Lock<State>,
}

impl Node {
    /// Connects a function; it decodes nothing yet. `multi`: its device has others.
    pub fn new(
        number: u8,
        multi: bool,
        function: Arc<dyn Function>,
        map: &Arc<Map>,
        wiring: &Wiring,
    ) -> Result<Self, DescriptionError> {
        let d = function.description();
        let (layout, mut initial) = build(&d)?;
        if multi {
            initial.set(reg::HEADER_TYPE, &[reg::MULTI_FUNCTION]);
        }
        // Functions of a device use its pins in turn: 1 is INTA.
        let pin = number % 4;
        let line = intx_line(number >> 3, pin);
        if d.intx {
            initial.set(reg::INTERRUPT_PIN, &[pin + 1]);
        }
        let vectors = d.msix.map_or(0, |m| m.vectors);
        let wire: Arc<dyn LineSink> = match d.intx {
            true => wiring.intx[line].input(),
            false => Arc::new(Unconnected),
        };
        let interrupts = Interrupts::new(vectors, wiring.msi.clone(), wire);
        let target = |b: &Bar| match Kind::from(b.kind) {
            _ if d.msix.is_some_and(|m| m.bar == b.index) => {
                Target::Memory(Arc::new(Table(interrupts.clone())))
            }
            Kind::Memory => Target::Memory(Arc::new(Window {
                function: function.clone(),
                bar: b.index,
            })),
            Kind::Ports => Target::Ports(Arc::new(Window {
                function: function.clone(),
                bar: b.index,
            })),
        };
        let targets = layout.bars.iter().map(|b| (*b, target(b))).collect();
        function.connect(interrupts.clone());
        let state = State {
            space: initial.clone(),
            outputs: Outputs::default(),
            attached: true,
        };
        Ok(Self {
            number,
            function,
            interrupts,
            layout,
            initial,
            irq: if d.intx { wiring.irqs[line] } else { 0 },
            targets,
            map: map.clone(),
            state: Lock::new(state),
        })
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    /// Gives every BAR a place that nothing in `used` has, as firmware does, and adds it there. A BAR that
    /// does not fit stays at zero, where it is not mapped.
    pub fn assign(&self, used: &mut Vec<Extent>, decode: bool) {
        let mut s = self.state.lock();
        let mut bars: Vec<_> = self.layout.bars.iter().collect();
        bars.sort_by_key(|b| std::cmp::Reverse(b.size));
        for bar in bars {
            let Some(extent) = self.map.windows().place(bar, used) else {
                tracing::warn!(
                    slot = self.number >> 3,
                    bar = bar.index,
                    size = bar.size,
                    "no room for a PCI BAR"
                );
                continue;
            };
            used.push(extent);
            let at = reg::BAR + usize::from(bar.index) * 4;
            for (i, byte) in extent.start.to_le_bytes().into_iter().enumerate() {
                // Its own bits of the BAR stay, and so does what is not of a 64-bit one.
                if i < 4 || is_wide(bar) {
                    let kept = s.space.u8(at + i) & if i == 0 { 0xf } else { 0 };
                    s.space.set(at + i, &[byte | kept]);
                }
            }
        }
        s.space.set(reg::INTERRUPT_LINE, &[self.irq]);
        if decode {
            let enable = (command::IO | command::MEMORY).to_le_bytes();
            s.space.write(reg::COMMAND, enable[0]);
        }
        self.settle(&mut s);
    }

    /// Where its BARs are, decoding or not, as far as they are in a window.
    pub fn extents(&self) -> Vec<Extent> {
        let s = self.state.lock();
        let bars = self.layout.bars.iter();
        bars.filter_map(|b| extent(&s.space, b))
            .filter(|e| self.map.windows().contain(e))
            .collect()
    }

    /// A read of `size` bytes, up to 4, inside configuration space.
    pub fn read(&self, offset: usize, size: u8) -> u32 {
        let mut s = self.state.lock();
        if !s.attached {
            return u32::MAX;
        }
        for (index, range, at) in self.touched(offset, size) {
            self.function.config_read(index, s.space.slice(range), at);
        }
        let value = (0..usize::from(size)).fold(0, |v, i| v | u32::from(s.space.read(offset + i)) << (8 * i));
        if let reg::COMMAND..reg::REVISION = offset
            && self.interrupts.asserted()
        {
            // The status register is the upper half of the dword at 4.
            return value | (u32::from(status::INTERRUPT) << 16) >> ((offset - reg::COMMAND) * 8);
        }
        value
    }

    /// A write.
    pub fn write(&self, offset: usize, size: u8, value: u32) {
        let mut s = self.state.lock();
        if !s.attached {
            return;
        }
        let power = self.power_state(&s.space);
        let bytes = &value.to_le_bytes()[..usize::from(size)];
        for (i, byte) in bytes.iter().enumerate() {
            s.space.write(offset + i, *byte);
        }
        if let Some(at) = self.layout.power
            && !matches!(self.power_state(&s.space), power::D0 | power::D3_HOT)
        {
            // A state that is not supported is ignored (PCI Express Base 5.0 §7.5.2.2).
            let kept = s.space.u8(at + power::CONTROL) & !(power::STATE as u8);
            s.space.set(at + power::CONTROL, &[kept | power as u8]);
        }
        let control = self.layout.express.map(|at| at + express::DEVICE_CONTROL + 1);
        let written = control.and_then(|at| bytes.get(at.checked_sub(offset)?));
        if written.is_some_and(|b| b & express::INITIATE_RESET != 0) {
            return self.reset_locked(&mut s);
        }
        for (index, range, at) in self.touched(offset, size) {
            self.function.config_write(index, s.space.slice(range), at);
        }
        self.settle(&mut s);
    }

    /// The function's capabilities that an access hits: which, where, and which of its bytes.
    fn touched(&self, offset: usize, size: u8) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
        let end = offset + usize::from(size);
        let hits = self.layout.capabilities.iter().enumerate();
        hits.filter_map(move |(index, range)| {
            let (first, last) = (offset.max(range.start), end.min(range.end));
            (first < last).then(|| (index, range.clone(), first - range.start..last - range.start))
        })
    }

    fn power_state(&self, space: &Space) -> u16 {
        let control = self.layout.power.map(|at| space.u16(at + power::CONTROL));
        control.map_or(power::D0, |c| c & power::STATE)
    }

    fn outputs(&self, space: &Space) -> Outputs {
        let on = self.power_state(space) == power::D0;
        let command = if on {
            space.u16(reg::COMMAND)
        } else {
            command::INTX_DISABLE
        };
        let has = |bit: u16| command & bit != 0;
        let message = self
            .layout
            .msix_capability
            .map_or(0, |at| space.u16(at + msix::CONTROL));
        let decodes = |kind| match kind {
            Kind::Memory => has(command::MEMORY),
            Kind::Ports => has(command::IO),
        };
        let bars = self.layout.bars.iter().filter(|b| decodes(b.kind.into()));
        Outputs {
            master: has(command::MASTER),
            msix: message & msix::ENABLE != 0,
            // A message is a memory write, which needs bus mastering (PCI Local Bus 3.0 §6.8.3).
            held: message & msix::FUNCTION_MASK != 0 || !has(command::MASTER),
            pin_disabled: has(command::INTX_DISABLE),
            extents: bars.filter_map(|b| Some((b.index, extent(space, b)?))).collect(),
        }
    }

    /// Makes what configuration space says so.
    fn settle(&self, s: &mut State) {
        let new = self.outputs(&s.space);
        if new == s.outputs {
            return;
        }
        if s.outputs.master && !new.master {
            self.function.bus_master(false);
        }
        self.interrupts.configure(new.msix, new.held, new.pin_disabled);
        if new.extents != s.outputs.extents {
            let target = |bar: u8| {
                self.targets
                    .iter()
                    .find(|(b, _)| b.index == bar)
                    .map(|(_, t)| t.clone())
            };
            let claims = new.extents.iter().filter_map(|&(bar, extent)| {
                let target = target(bar)?;
                Some((bar, Claim { extent, target }))
            });
            self.map.set(self.number, claims);
        }
        if new.master && !s.outputs.master {
            self.function.bus_master(true);
        }
        s.outputs = new;
    }

    fn reset_locked(&self, s: &mut State) {
        s.space = self.initial.clone();
        self.settle(s);
        self.interrupts.reset();
        self.function.reset();
    }

    /// Power-on reset; it decodes nothing afterwards.
    pub fn reset(&self) {
        self.reset_locked(&mut self.state.lock());
    }

    /// Takes it off the bus for good.
    pub fn detach(&self) {
        let mut s = self.state.lock();
        s.attached = false;
        self.reset_locked(&mut s);
        // Whatever a thread of its own still says is not heard.
        self.interrupts.configure(false, true, true);
    }
}
