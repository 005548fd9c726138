//! Differentiated system description table (ACPI 6.5 §5.2.11.1): the devices that cannot be discovered.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, S5_TYPE, pci};
use crate::layout::{COM1_BASE, COM1_IRQ, ECAM_ADDRESS, ECAM_LEN, HOTPLUG_PORT, PM_BASE, pm};
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use donjon_pci::hotplug::HOTPLUG_LEN;

/// The table for processors 0 to `cpus` - 1.
pub fn table(cpus: u32) -> Vec<u8> {
    let mut code = vec![];
    off_state(&mut code);
    processors(&mut code, cpus);
    isa_devices(&mut code);
    pci::append(&mut code);
    let mut t = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    t.append_slice(&code);
    t.as_slice().to_vec()
}

/// The value of SLP_TYP for S5 (ACPI 6.5 §7.4.2).
fn off_state(code: &mut Vec<u8>) {
    Name::new("_S5_".into(), &Package::new(vec![&S5_TYPE, &S5_TYPE, &0u8, &0u8])).to_aml_bytes(code);
}

/// One processor device each, matched with the MADT by _UID (ACPI 6.5 §8.4).
fn processors(code: &mut Vec<u8>, cpus: u32) {
    for id in 0..cpus {
        let path = Path::new(&format!("C{id:03X}"));
        let hid = Name::new("_HID".into(), &"ACPI0007");
        let uid = Name::new("_UID".into(), &id);
        Scope::new("\\_SB_".into(), vec![&Device::new(path, vec![&hid, &uid])]).to_aml_bytes(code);
    }
}

fn isa_devices(code: &mut Vec<u8>) {
    let irq = |n: u8| Interrupt::new(true, true, false, false, n.into());
    let com1 = isa_device("COM1", "PNP0501", &[(COM1_BASE, 8)], Some(&irq(COM1_IRQ)));
    let rtc = isa_device("RTC_", "PNP0B00", &[(0x70, 2)], Some(&irq(8)));
    let timer = isa_device("TIMR", "PNP0100", &[(0x40, 4)], Some(&irq(0)));
    let pic = isa_device("PIC_", "PNP0000", &[(0x20, 2), (0xa0, 2)], None);
    // What is in use and claimed by no other device. Configuration space has to be here for systems to believe
    // the MCFG (PCI Firmware Specification 3.2 §4.1.2).
    let ports = [
        (0x61, 1),
        (0x4d0, 2),
        (PM_BASE, pm::LEN),
        (HOTPLUG_PORT, HOTPLUG_LEN as u8),
    ];
    let ecam = Memory32Fixed::new(true, ECAM_ADDRESS as u32, ECAM_LEN as u32);
    let board = isa_device("MBRD", "PNP0C02", &ports, Some(&ecam));
    Scope::new("\\_SB_".into(), vec![&com1, &rtc, &timer, &pic, &board]).to_aml_bytes(code);
}

/// A device with fixed ports, each given as the first and their number, and one other resource.
fn isa_device(name: &str, id: &str, ports: &[(u16, u8)], other: Option<&dyn Aml>) -> Code {
    let ports: Vec<_> = ports
        .iter()
        .map(|&(first, count)| IO::new(first, first, 1, count))
        .collect();
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as _).collect();
    resources.extend(other);
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &1u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let mut code = vec![];
    Device::new(name.into(), vec![&hid, &uid, &crs]).to_aml_bytes(&mut code);
    Code(code)
}

/// AML that is already encoded.
pub(super) struct Code(pub Vec<u8>);

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
