//! The chips of a PC board: interrupt controllers, timers, clock, serial port, power management.
//!
//! A device here knows neither where it sits nor which interrupt it has. It is reached through
//! [`PortDevice`] or [`MmioDevice`] with offsets from its own start, it raises a [`LineSink`] or sends through
//! an [`MsiSink`], and it tells time with [`donjon_engine::Clock`] and [`timer::Timers`]. The board picks
//! addresses on a [`bus::Bus`] and connects pins.
//!
//! Guests are hostile: no access panics, hangs or allocates without bound. Registers follow the manuals named
//! in each module; where a chip's undocumented behaviour matters to real guests the comment says so.
//!
//! # Wiring
//!
//! ```
//! # use donjon_devices::*;
//! # use donjon_engine::{Attention, Clock};
//! # use std::sync::Arc;
//! # struct Power;
//! # impl PowerSink for Power { fn power_off(&self) {} fn reset(&self) {} }
//! # fn main() -> Result<(), bus::Overlap> {
//! # let power: Arc<dyn PowerSink> = Arc::new(Power);
//! let clock = Arc::new(Clock::new(Clock::DEFAULT_HZ));
//! let timers = timer::Timers::new(clock.clone());
//! let apics = lapic::ApicBus::new();
//! let attention = Arc::new(Attention::default());
//! let config = lapic::Config { id: 0, bootstrap: true, physical_bits: 40 };
//! let apic = lapic::LocalApic::new(config, &apics, attention.clone(), &timers); // one for each vCPU
//! apic.virtual_wire(); // what firmware leaves on the bootstrap processor
//!
//! let pic = pic::Pic::new(apic.lint0());
//! apic.connect_extint(&pic);
//! let ioapic = ioapic::IoApic::new(0, &apics);
//! let isa = |irq: u8| line::FanOut::pair(pic.irq(irq), ioapic.pin(if irq == 0 { 2 } else { irq }));
//! let pit = pit::Pit::new(&timers, isa(0));
//! let rtc = rtc::Rtc::new(&timers, isa(8));
//! let serial = serial::Serial::new(&timers, isa(4), Box::new(std::io::stdout()));
//! let i8042 = i8042::I8042::new(isa(1), power.clone());
//! let pm = pm::Pm::new(&timers, isa(9), power.clone());
//!
//! let buses = Arc::new(bus::Buses::default()); // implements donjon_engine::CpuIo
//! buses.ports.add(0x20, 2, pic.first())?;
//! buses.ports.add(0xa0, 2, pic.second())?;
//! buses.ports.add(0x4d0, 2, pic.elcr())?;
//! buses.ports.add(0x40, 4, pit.counters())?;
//! buses.ports.add(0x61, 1, pit.port_b())?;
//! buses.ports.add(0x70, 2, rtc.clone())?;
//! buses.ports.add(0x3f8, serial::PORTS, serial.clone())?;
//! buses.ports.add(0x60, 1, i8042.data())?;
//! buses.ports.add(0x64, 1, i8042.command())?;
//! buses.ports.add(0x600, pm::EVENT_LEN, pm.event())?;
//! buses.ports.add(0x604, pm::CONTROL_LEN, pm.control())?;
//! buses.ports.add(0x608, pm::TIMER_LEN, pm.timer())?;
//! buses.ports.add(0x620, pm::GPE0_LEN, pm.gpe0())?;
//! let reset_control = pm::ResetControl::new(power);
//! buses.ports.add(0xcf9, 1, reset_control.clone())?;
//! buses.mmio.add(ioapic::ADDRESS, ioapic::LEN, ioapic.clone())?;
//! // Everything that has state, in the order in which it is saved and restored.
//! let _parts: [Arc<dyn Lifecycle>; 9] = [apic, pic, ioapic, pit, rtc, serial, i8042, pm, reset_control];
//! # Ok(()) }
//! ```
//!
//! # Locks
//!
//! vCPU threads, the timer thread and host threads call in at the same time. A thread takes locks only in
//! this order, and may leave out any:
//!
//! 1. a device's own registers (serial, PIT, RTC, power management, i8042, a [`line::SharedLine`]);
//! 2. an interrupt controller's (PIC or I/O APIC);
//! 3. a local APIC's registers (its vectors and routing are atomics, so most deliveries take none);
//! 4. the timer queue; the queue of serial output; an [`donjon_engine::Attention`]'s.
//!
//! Calls the other way hold none of these: a local APIC acknowledges at the PIC, broadcasts an EOI to the
//! I/O APICs and sends IPIs with its registers unlocked, and timer callbacks run with the queue unlocked. A
//! device may hold its lock while it sets a line: two changes then reach the controller in the right order.
//!
//! Ownership points one way too: buses, boards and lines own devices; devices own their [`timer::Timer`]s,
//! whose callbacks refer back weakly; an [`lapic::ApicBus`] owns the local APICs.
#![forbid(unsafe_code)]

pub mod bus;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod line;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod rtc;
pub mod serial;
pub mod state;
pub mod sync;
pub mod timer;

pub use bus::{MmioDevice, PortDevice};
pub use line::{LineSink, MsiSink};
pub use pm::PowerSink;
pub use state::{Lifecycle, Migrate, Record, RestoreError, Saved};
