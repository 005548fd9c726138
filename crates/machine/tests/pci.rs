//! PCI on the whole board: where it is, and that it is in nobody's way.

use donjon_devices::{Migrate, PowerSink, Record, RestoreError};
use donjon_engine::{Attention, CpuIo, LocalApic};
use donjon_machine::layout::{ECAM_ADDRESS, HOTPLUG_GPE, HOTPLUG_PORT, INTX_GSI, INTX_IRQS, IOAPIC_ADDRESS};
use donjon_machine::layout::{PCI_HIGH, PCI_LOW, PM_BASE, RESET_PORT, pm};
use donjon_machine::pci::{
    Bar, BarKind, Class, Description, Device, Function, Ids, Interrupts, Msix, intx_line,
};
use donjon_machine::{Machine, MachineError, MachineSpec, Outside};
use donjon_x86::cpuid::CpuModel;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

#[derive(Default)]
struct Power(AtomicUsize);

impl PowerSink for Power {
    fn power_off(&self) {}
    fn reset(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[derive(Default)]
struct Card(OnceLock<Arc<Interrupts>>);

impl Function for Card {
    fn description(&self) -> Description {
        let bar = |index, kind, size| Bar { index, kind, size };
        Description {
            ids: Ids {
                vendor: 0x1af4,
                device: 0x1042,
                subsystem_vendor: 0,
                subsystem: 0,
                revision: 0,
            },
            class: Class {
                base: 1,
                sub: 0x80,
                interface: 0,
            },
            express: true,
            bars: vec![
                bar(0, BarKind::Memory32 { prefetchable: false }, 0x4000),
                bar(2, BarKind::Memory64 { prefetchable: true }, 1 << 38),
                bar(4, BarKind::Io, 0x40),
            ],
            msix: Some(Msix { vectors: 2, bar: 1 }),
            intx: true,
            capabilities: vec![],
        }
    }
    fn connect(&self, interrupts: Arc<Interrupts>) {
        assert!(self.0.set(interrupts).is_ok());
    }
    fn read(&self, _: u8, offset: u64, _: u8) -> u64 {
        offset
    }
    fn write(&self, _: u8, _: u64, _: u8, _: u64) {}
    fn bus_master(&self, _: bool) {}
    fn reset(&self) {}
    fn migrate(&self) -> Migrate {
        Migrate::Stateless
    }
    fn restore(&self, _: &Record) -> Result<(), RestoreError> {
        Ok(())
    }
}

struct Board {
    machine: Machine,
    io: Arc<dyn CpuIo>,
    apic: Arc<dyn LocalApic>,
    power: Arc<Power>,
}

const SLOT: u8 = 6;

fn board(devices: Vec<Device>) -> Board {
    let power = Arc::new(Power::default());
    let spec = MachineSpec {
        cpus: 1,
        memory: 64 << 20,
        model: Arc::new(CpuModel::named("x86-64-v3").unwrap()),
        backing: Default::default(),
        tsc_hz: donjon_engine::Clock::DEFAULT_HZ,
    };
    let outside = Outside {
        attentions: vec![Arc::new(Attention::default())],
        power: power.clone(),
        console: Box::new(std::io::sink()),
        devices,
    };
    let machine = Machine::new(&spec, spec.ram(&[]).unwrap(), outside).unwrap();
    let config = machine.partition_config();
    let apic = config.vcpus[0].apic.clone();
    Board {
        io: config.io,
        machine,
        apic,
        power,
    }
}

impl Board {
    fn config(&self, slot: u8, register: u64) -> u64 {
        self.io
            .mmio_read(ECAM_ADDRESS + (u64::from(slot) << 15) + register, 4)
    }
    fn set_config(&self, slot: u8, register: u64, value: u64) {
        self.io
            .mmio_write(ECAM_ADDRESS + (u64::from(slot) << 15) + register, 4, value);
    }
    fn ioapic(&self, register: u8, value: u32) {
        self.io.mmio_write(IOAPIC_ADDRESS, 4, register.into());
        self.io.mmio_write(IOAPIC_ADDRESS + 0x10, 4, value.into());
    }
}

#[test]
fn the_bus_is_where_the_tables_say_and_reset_still_works() {
    let b = board(vec![Device::at(SLOT, Arc::new(Card::default()))]);
    assert_eq!(b.config(0, 0), 0x0008_1b36);
    b.io.port_out(0xcf8, 4, 0x8000_0000 | u32::from(SLOT) << 11);
    assert_eq!(b.io.port_in(0xcfc, 4), 0x1042_1af4);
    let (low, high) = (
        b.config(SLOT, 0x10),
        b.config(SLOT, 0x1c) << 32 | b.config(SLOT, 0x18) & !15,
    );
    assert!(PCI_LOW.contains(&low) && PCI_HIGH.contains(&high));
    assert_eq!(b.io.mmio_read(high + (1 << 38) - 4, 4), 0xffff_fffc);
    b.io.port_out(RESET_PORT, 1, 6);
    assert_eq!(b.power.0.load(SeqCst), 1);
    assert_eq!(b.io.port_in(0xcf8, 4), 0x8000_3000);
}

#[test]
fn messages_and_pins_reach_the_processor() {
    let card = Arc::new(Card::default());
    let b = board(vec![Device::at(SLOT, card.clone())]);
    let interrupts = card.0.get().unwrap();
    b.apic.page_write(0xf0, 0x1ff);
    // As systems do that use the I/O APIC.
    b.io.port_out(0x21, 1, 0xff);
    // The pin, through the I/O APIC: level-triggered, vector 0x51.
    let entry = 0x10 + 2 * (INTX_GSI + intx_line(SLOT, 0) as u8);
    b.ioapic(entry + 1, 0);
    b.ioapic(entry, 0x8051);
    interrupts.line(true);
    assert_eq!(b.apic.acknowledge(), Some(0x51));
    b.apic.page_write(0xb0, 0);
    assert_eq!(b.apic.acknowledge(), Some(0x51), "still asserted");
    interrupts.line(false);
    b.apic.page_write(0xb0, 0);
    assert!(!b.apic.pending());
    // A message.
    let table = b.config(SLOT, 0x14);
    b.io.mmio_write(table, 8, 0xfee0_0000);
    b.io.mmio_write(table + 8, 8, 0x61);
    b.set_config(SLOT, 4, 6);
    let capability = (0x40..0x100)
        .step_by(4)
        .find(|at| b.config(SLOT, *at) & 0xff == 0x11)
        .unwrap();
    b.set_config(SLOT, capability, 0x8000_0000);
    interrupts.msix(0);
    assert_eq!(b.apic.acknowledge(), Some(0x61));
}

#[test]
fn pins_reach_the_8259_as_levels() {
    let card = Arc::new(Card::default());
    let b = board(vec![Device::at(SLOT, card.clone())]);
    let irq = INTX_IRQS[intx_line(SLOT, 0) % 2];
    assert_eq!(b.config(SLOT, 0x3c) & 0xffff, 0x100 | u64::from(irq));
    assert_eq!(b.io.port_in(0x4d0, 2), 0x0c00);
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfb)] {
        b.io.port_out(port, 1, value);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1), (0xa1, 0)] {
        b.io.port_out(port, 1, value);
    }
    card.0.get().unwrap().line(true);
    assert_eq!(b.apic.acknowledge(), Some(0x28 + irq - 8));
}

#[test]
fn hotplug_raises_its_event() {
    let b = board(vec![]);
    let gpe = PM_BASE + pm::GPE0;
    b.io.port_out(gpe + 2, 1, 1 << HOTPLUG_GPE);
    let slot = b
        .machine
        .pci()
        .add(Device::new(Arc::new(Card::default())))
        .unwrap();
    assert_eq!(b.io.port_in(gpe, 1), 1 << HOTPLUG_GPE);
    assert_eq!(b.io.port_in(HOTPLUG_PORT, 4), 1 << slot);
    b.io.port_out(gpe, 1, 1 << HOTPLUG_GPE);
    let removal = b.machine.pci().request_removal(slot).unwrap();
    assert_eq!(b.io.port_in(gpe, 1), 1 << HOTPLUG_GPE);
    b.io.port_out(HOTPLUG_PORT + 8, 4, 1 << slot);
    assert!(removal.is_done());
}

#[test]
fn io_bars_do_not_hide_the_board() {
    let b = board(vec![Device::at(SLOT, Arc::new(Card::default()))]);
    for port in [0u64, 0x40, 0x3c0, 0x600, 0x640, 0xcc0, 0xcf8, 0xfc0] {
        b.set_config(SLOT, 0x20, port);
        assert_eq!(b.io.port_in(0x61, 1) & 0xc0, 0, "{port:#x}");
        assert_eq!(b.io.port_in(PM_BASE + 4, 2), 1);
        assert_eq!(b.config(0, 0), 0x0008_1b36);
    }
    b.set_config(SLOT, 0x20, 0x2000);
    assert_eq!(b.io.port_in(0x2004, 4), 4);
}

#[test]
fn a_bad_device_stops_the_machine_from_being_built() {
    let spec = MachineSpec {
        cpus: 1,
        memory: 64 << 20,
        model: Arc::new(CpuModel::named("x86-64-v3").unwrap()),
        backing: Default::default(),
        tsc_hz: donjon_engine::Clock::DEFAULT_HZ,
    };
    let outside = Outside {
        attentions: vec![Arc::new(Attention::default())],
        power: Arc::new(Power::default()),
        console: Box::new(std::io::sink()),
        devices: vec![Device::at(32, Arc::new(Card::default()))],
    };
    let error = Machine::new(&spec, spec.ram(&[]).unwrap(), outside).err();
    assert!(matches!(error, Some(MachineError::Plug(_))));
    let message = error.unwrap().to_string();
    assert_eq!(
        message,
        "PCI slot 32 does not exist; slots for devices are 1 to 31"
    );
}
