//! The board: parts, wires and addresses.

use crate::boot::{self, BootError, BootSource};
use crate::layout::{self, COM1_BASE, COM1_IRQ, IOAPIC_ADDRESS, PM_BASE, SCI_IRQ, pm as register};
use crate::{MachineSpec, SpecError, acpi};
use donjon_devices::bus::{Buses, Overlap};
use donjon_devices::line::{FanOut, SharedLine};
use donjon_devices::timer::Timers;
use donjon_devices::{LineSink, PowerSink, i8042, ioapic, lapic, pic, pit, pm, rtc, serial};
use donjon_engine::{Attention, Clock, PartitionConfig, VcpuConfig};
use donjon_memory::{MemoryError, Ram};
use donjon_pci::{Bus, Device, INTX_LINES, PlugError, Windows, Wiring};
use donjon_x86::CpuState;
use donjon_x86::cpuid::{CpuModel, PHYSICAL_BITS};
use std::io::Write;
use std::sync::Arc;

/// Where the interval timer's interrupt arrives at the I/O APIC; the other ISA interrupts keep their number.
const TIMER_PIN: u8 = 2;

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The specification.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// RAM.
    #[error(transparent)]
    Ram(#[from] MemoryError),
    /// Two devices at one address.
    #[error("the board's devices are in each other's way: {0}")]
    Overlap(#[from] Overlap),
    /// A PCI device.
    #[error(transparent)]
    Plug(#[from] PlugError),
}

/// What a machine is connected to.
pub struct Outside {
    /// One for each vCPU: how to get its attention.
    pub attentions: Vec<Arc<Attention>>,
    /// Hears of power-off and reset; called on the thread of the vCPU that asks for it.
    pub power: Arc<dyn PowerSink>,
    /// Takes what the guest sends through COM1.
    pub console: Box<dyn Write + Send>,
    /// The PCI devices that are there at power-on. A reset is a new machine: devices are made anew too.
    pub devices: Vec<Device>,
}

/// One machine from power-on to power-off or reset. A reset domain gets a new one: that cannot forget to
/// clear anything.
pub struct Machine {
    // Dropped first: no callback runs any more when the devices go.
    _timers: Timers,
    ram: Arc<Ram>,
    clock: Arc<Clock>,
    model: Arc<CpuModel>,
    buses: Arc<Buses>,
    apics: Vec<Arc<lapic::LocalApic>>,
    interrupts: Arc<lapic::ApicBus>,
    attentions: Vec<Arc<Attention>>,
    com1: Arc<serial::Serial>,
    pm: Arc<pm::Pm>,
    pci: Arc<Bus>,
}

impl Machine {
    /// Builds the board around `ram`, which comes from [`MachineSpec::ram`] so that devices can be made with it
    /// first. There must be as many attention words as vCPUs.
    pub fn new(spec: &MachineSpec, ram: Arc<Ram>, outside: Outside) -> Result<Self, MachineError> {
        spec.validate()?;
        let Outside {
            attentions,
            power,
            console,
            devices,
        } = outside;
        if attentions.len() != spec.cpus as usize {
            return Err(SpecError::Cpus(attentions.len() as u32).into());
        }
        let clock = Arc::new(Clock::new(spec.tsc_hz));
        let timers = Timers::new(clock.clone());

        let bus = lapic::ApicBus::new();
        let apics: Vec<_> = (0u32..)
            .zip(&attentions)
            .map(|(id, attention)| {
                let config = lapic::Config {
                    id,
                    bootstrap: id == 0,
                    physical_bits: PHYSICAL_BITS as u8,
                };
                lapic::LocalApic::new(config, &bus, attention.clone(), &timers)
            })
            .collect();
        // As firmware leaves it: interrupts of the 8259 pass through the bootstrap processor's LINT0.
        apics[0].virtual_wire();
        let pic = pic::Pic::new(apics[0].lint0());
        apics[0].connect_extint(&pic);
        let ioapic = ioapic::IoApic::new(0, &bus);
        let isa = |irq: u8| -> Arc<dyn LineSink> {
            FanOut::pair(pic.irq(irq), ioapic.pin(if irq == 0 { TIMER_PIN } else { irq }))
        };

        let pit = pit::Pit::new(&timers, isa(0));
        let rtc = rtc::Rtc::new(&timers, isa(8));
        let com1 = serial::Serial::new(&timers, isa(COM1_IRQ), console);
        let i8042 = i8042::I8042::new(isa(1), power.clone());
        let pm = pm::Pm::new(&timers, isa(SCI_IRQ), power.clone());

        let buses = Arc::new(Buses::default());
        let port = |first: u16, offset: u16| u64::from(first + offset);
        buses.ports.add(0x20, 2, pic.first())?;
        buses.ports.add(0xa0, 2, pic.second())?;
        buses.ports.add(0x4d0, 2, pic.elcr())?;
        buses.ports.add(0x40, 4, pit.counters())?;
        buses.ports.add(0x61, 1, pit.port_b())?;
        buses.ports.add(0x70, 2, rtc)?;
        buses.ports.add(port(COM1_BASE, 0), serial::PORTS, com1.clone())?;
        buses.ports.add(0x60, 1, i8042.data())?;
        buses.ports.add(0x64, 1, i8042.command())?;
        buses
            .ports
            .add(port(PM_BASE, register::EVENT), pm::EVENT_LEN, pm.event())?;
        buses
            .ports
            .add(port(PM_BASE, register::CONTROL), pm::CONTROL_LEN, pm.control())?;
        buses
            .ports
            .add(port(PM_BASE, register::TIMER), pm::TIMER_LEN, pm.timer())?;
        buses
            .ports
            .add(port(PM_BASE, register::GPE0), pm::GPE0_LEN, pm.gpe0())?;
        buses.mmio.add(IOAPIC_ADDRESS, ioapic::LEN, ioapic.clone())?;

        // As firmware leaves it: PCI's interrupts are levels.
        let levels = layout::INTX_IRQS.iter().fold(0, |bits, irq| bits | 1 << irq);
        pic.elcr().write(0, 1, levels & 0xff);
        pic.elcr().write(1, 1, levels >> 8);
        let wiring = Wiring {
            msi: bus.clone(),
            intx: intx(&pic, &ioapic),
            irqs: std::array::from_fn(|n| layout::INTX_IRQS[n % 2]),
            windows: Windows {
                ports: layout::PCI_PORTS,
                low: layout::PCI_LOW,
                high: layout::PCI_HIGH,
            },
            event: {
                let pm = pm.clone();
                Box::new(move || pm.raise_gpe(layout::HOTPLUG_GPE))
            },
        };
        // After everything that is fixed, so that no BAR is in its way.
        let pci = Bus::new(&buses, wiring, devices)?;
        let reset = pm::ResetControl::new(power);
        let config = pci.config_ports(reset);
        buses
            .ports
            .add(port(layout::CONFIG_PORT, 0), donjon_pci::CONFIG_LEN, config)?;
        let hotplug = pci.hotplug_ports();
        buses.ports.add(
            port(layout::HOTPLUG_PORT, 0),
            donjon_pci::hotplug::HOTPLUG_LEN,
            hotplug,
        )?;
        let ecam = pci.ecam();
        buses
            .mmio
            .add(layout::ECAM_ADDRESS, donjon_pci::ECAM_BUS_LEN, ecam)?;
        Ok(Self {
            _timers: timers,
            ram,
            clock,
            model: spec.model.clone(),
            buses,
            apics,
            interrupts: bus,
            attentions,
            com1,
            pm,
            pci,
        })
    }

    /// Loads a kernel; the state in which each vCPU starts. The machine must not have run yet.
    pub fn load(&self, source: &BootSource) -> Result<Vec<CpuState>, BootError> {
        let cpus = self.apics.len();
        let root = acpi::write(&self.ram, cpus as u32)?;
        let mut states = vec![boot::with_firmware_msrs(CpuState::wait_for_sipi()); cpus];
        states[0] = boot::load(source, &self.ram, root)?;
        Ok(states)
    }

    /// What an engine needs to make the CPUs.
    pub fn partition_config(&self) -> PartitionConfig {
        let vcpu = |(apic, attention): (&Arc<lapic::LocalApic>, &Arc<Attention>)| VcpuConfig {
            apic: apic.clone(),
            attention: attention.clone(),
        };
        PartitionConfig {
            ram: self.ram.clone(),
            model: self.model.clone(),
            clock: self.clock.clone(),
            io: self.buses.clone(),
            vcpus: self.apics.iter().zip(&self.attentions).map(vcpu).collect(),
            apics: Some(self.interrupts.clone()),
        }
    }

    /// Guest RAM.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The PCI bus, to plug devices in and out.
    pub fn pci(&self) -> &Arc<Bus> {
        &self.pci
    }

    /// Presses the power button, which asks the guest to shut down (ACPI 6.5 §4.8.2.2.1).
    pub fn press_power_button(&self) {
        self.pm.press_power_button();
    }

    /// The serial port the console is on.
    pub fn com1(&self) -> &Arc<serial::Serial> {
        &self.com1
    }
}

/// The PCI interrupt wires: each to a pin of the I/O APIC, and in turn to two of the 8259's.
fn intx(pic: &Arc<pic::Pic>, ioapic: &Arc<ioapic::IoApic>) -> [Arc<SharedLine>; INTX_LINES] {
    let irqs = layout::INTX_IRQS.map(|irq| SharedLine::new(pic.irq(irq)));
    std::array::from_fn(|n| {
        let pin = ioapic.pin(layout::INTX_GSI + n as u8);
        SharedLine::new(FanOut::pair(pin, irqs[n % 2].input()))
    })
}
