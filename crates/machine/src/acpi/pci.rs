//! The PCI host bridge and its hotplug controller, in AML (PCI Firmware Specification 3.2 §4).

use super::dsdt::Code;
use crate::layout::{
    CONFIG_PORT, ECAM_BUSES, HOTPLUG_GPE, HOTPLUG_PORT, INTX_GSI, INTX_IRQS, PCI_HIGH, PCI_LOW,
};
use acpi_tables::Aml;
use acpi_tables::aml::*;
use donjon_pci::hotplug::HOTPLUG_LEN;
use donjon_pci::{CONFIG_LEN, SLOTS, intx_line};

/// What `_OSC` answers to (PCI Firmware Specification 3.2 §4.5).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// The one thing systems may take control of: the PCI Express capability. There is no native hotplug, power
/// management event or error reporting to control.
const OSC_GRANTED: u32 = 1 << 4;
/// Bits of the status dword that `_OSC` returns.
const OSC_UNKNOWN_UUID: u32 = 1 << 2;
const OSC_UNKNOWN_REVISION: u32 = 1 << 3;
const OSC_MASKED: u32 = 1 << 4;

/// Values of Notify (ACPI 6.5 §5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// Appends everything about PCI.
pub fn append(code: &mut Vec<u8>) {
    // Systems say here which interrupt controllers they use (ACPI 6.5 §5.8.1): 0 is the 8259s.
    Name::new("PICM".into(), &ZERO).to_aml_bytes(code);
    let choose = Store::new(&Path::new("PICM"), &Arg(0)).encoded();
    Method::new("_PIC".into(), 1, false, vec![&choose]).to_aml_bytes(code);
    let resources = resources();
    let osc = osc();
    let routing = routing();
    let controller = hotplug_controller();
    let slots: Vec<_> = (1..SLOTS).map(slot).collect();
    let events = events();
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let zero = |name: &str| Name::new(name.into(), &ZERO);
    let (segment, bus, uid) = (zero("_SEG"), zero("_BBN"), zero("_UID"));
    let mut parts: Vec<&dyn Aml> = vec![
        &hid,
        &cid,
        &segment,
        &bus,
        &uid,
        &resources,
        &osc,
        &routing,
        &controller,
        &events,
    ];
    parts.extend(slots.iter().map(|s| s as &dyn Aml));
    Scope::new("\\_SB_".into(), vec![&Device::new("PCI0".into(), parts)]).to_aml_bytes(code);
    // Edge-triggered: the event is cleared before the method runs, so one during it is not lost.
    let name = format!("_E{HOTPLUG_GPE:02X}");
    let look = MethodCall::new("\\_SB_.PCI0.LOOK".into(), vec![]);
    let handler = Method::new(name.as_str().into(), 0, false, vec![&look]);
    Scope::new("\\_GPE".into(), vec![&handler]).to_aml_bytes(code);
}

/// Bits of AML written once.
trait Encoded {
    fn encoded(&self) -> Code;
}

impl<T: Aml> Encoded for T {
    fn encoded(&self) -> Code {
        let mut code = vec![];
        self.to_aml_bytes(&mut code);
        Code(code)
    }
}

/// The bus numbers, and the addresses that the bridge forwards.
fn resources() -> Code {
    use AddressSpaceCacheable::NotCacheable;
    let (low, high) = (PCI_LOW, PCI_HIGH);
    let buses = AddressSpace::new_bus_number(0u16, (ECAM_BUSES - 1) as u16);
    let config = IO::new(CONFIG_PORT, CONFIG_PORT, 1, CONFIG_LEN as u8);
    // All ports but those of the configuration mechanism: ISA devices are behind the bridge.
    let below = AddressSpace::new_io(0u16, CONFIG_PORT - 1, None);
    let above = AddressSpace::new_io(CONFIG_PORT + CONFIG_LEN as u16, 0xffff, None);
    let low = AddressSpace::new_memory(NotCacheable, true, low.start as u32, (low.end - 1) as u32, None);
    // Not called prefetchable, so that BARs that are not may be there too.
    let high = AddressSpace::new_memory(NotCacheable, true, high.start, high.end - 1, None);
    let all = ResourceTemplate::new(vec![&buses, &config, &below, &above, &low, &high]);
    Name::new("_CRS".into(), &all).encoded()
}

/// Operating System Capabilities: what the system may control (PCI Firmware Specification 3.2 §4.5.1).
fn osc() -> Code {
    let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
    let status_field = CreateDWordField::new(&status, &Arg(3), &0u8).encoded();
    let control_field = CreateDWordField::new(&control, &Arg(3), &8u8).encoded();
    let flag = |bit: &u32| Or::new(&status, &status, bit).encoded();
    let (unknown, revision, masked) = (
        flag(&OSC_UNKNOWN_UUID),
        flag(&OSC_UNKNOWN_REVISION),
        flag(&OSC_MASKED),
    );
    let grant = And::new(&Local(0), &control, &OSC_GRANTED).encoded();
    let not_first = NotEqual::new(&Arg(1), &ONE);
    let less = NotEqual::new(&Local(0), &control);
    let answer = Store::new(&control, &Local(0)).encoded();
    let uuid = Uuid::new(OSC_UUID);
    let ours = Equal::new(&Arg(0), &uuid);
    let check_revision = If::new(&not_first, vec![&revision]).encoded();
    let check_grant = If::new(&less, vec![&masked]).encoded();
    let known = If::new(
        &ours,
        vec![&control_field, &check_revision, &grant, &check_grant, &answer],
    )
    .encoded();
    let other = Else::new(vec![&unknown]).encoded();
    let result = Return::new(&Arg(3)).encoded();
    Method::new(
        "_OSC".into(),
        4,
        true,
        vec![&status_field, &known, &other, &result],
    )
    .encoded()
}

/// Which interrupt each pin of each slot arrives at (ACPI 6.5 §6.2.13). Hardwired: source is 0, and the source
/// index is the global interrupt, which is a level, active low; with the 8259s in use, the ISA interrupt.
fn routing() -> Code {
    let table = |name: &str, interrupt: &dyn Fn(usize) -> u8| {
        let mut entries = PackageBuilder::new();
        for slot in 1..SLOTS {
            for pin in 0..4u8 {
                let device = u32::from(slot) << 16 | 0xffff;
                let line = interrupt(intx_line(slot, pin));
                entries.add_element(&Package::new(vec![&device, &pin, &ZERO, &line]));
            }
        }
        Name::new(name.into(), &entries).encoded()
    };
    let apic = table("PRTA", &|line| INTX_GSI + line as u8);
    let pic = table("PRTP", &|line| INTX_IRQS[line % 2]);
    let (mode, apic_name, pic_name) = (Path::new("PICM"), Path::new("PRTA"), Path::new("PRTP"));
    let (with_apic, with_pic) = (Return::new(&apic_name), Return::new(&pic_name));
    let choice = If::new(&mode, vec![&with_apic]);
    let method = Method::new("_PRT".into(), 0, false, vec![&choice, &with_pic]);
    let mut code = apic.0;
    code.extend(pic.0);
    method.to_aml_bytes(&mut code);
    Code(code)
}

/// The registers of [`donjon_pci::hotplug`].
fn hotplug_controller() -> Code {
    let mut code = vec![];
    OpRegion::new(
        "HPCR".into(),
        OpRegionSpace::SystemIO,
        &HOTPLUG_PORT,
        &(HOTPLUG_LEN as u8),
    )
    .to_aml_bytes(&mut code);
    let fields = [*b"INSR", *b"RMVR", *b"EJTR"]
        .map(|name| FieldEntry::Named(name, 32))
        .to_vec();
    let rule = (
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
    );
    Field::new("HPCR".into(), rule.0, rule.1, rule.2, fields).to_aml_bytes(&mut code);
    Code(code)
}

/// A slot: where it is, its number for people, and how to let go of what is in it (ACPI 6.5 §6.1.11, 6.3.3).
fn slot(slot: u8) -> Code {
    let address = Name::new("_ADR".into(), &(u32::from(slot) << 16));
    let number = Name::new("_SUN".into(), &slot);
    let eject = Store::new(&Path::new("EJTR"), &(1u32 << slot)).encoded();
    let eject = Method::new("_EJ0".into(), 1, false, vec![&eject]);
    Device::new(slot_name(slot), vec![&address, &number, &eject]).encoded()
}

fn slot_name(slot: u8) -> Path {
    Path::new(&format!("S{slot:02X}_"))
}

/// `LOOK`: takes what is new from the registers and tells the slots; `TELL(slots, value)` tells some.
fn events() -> Code {
    let notices: Vec<_> = (1..SLOTS)
        .map(|slot| {
            let (bit, name) = (1u32 << slot, slot_name(slot));
            let chosen = And::new(&ZERO, &Arg(0), &bit).encoded();
            let tell = Notify::new(&name, &Arg(1)).encoded();
            If::new(&chosen, vec![&tell]).encoded()
        })
        .collect();
    let notices = notices.iter().map(|n| n as &dyn Aml).collect();
    let mut code = Method::new("TELL".into(), 2, true, notices).encoded().0;
    let steps = [("INSR", DEVICE_CHECK), ("RMVR", EJECT_REQUEST)].map(|(register, notice)| {
        let register = Path::new(register);
        let mut code = Store::new(&Local(0), &register).encoded().0;
        Store::new(&register, &Local(0)).to_aml_bytes(&mut code);
        MethodCall::new("TELL".into(), vec![&Local(0), &notice]).to_aml_bytes(&mut code);
        Code(code)
    });
    Method::new("LOOK".into(), 0, true, vec![&steps[0], &steps[1]]).to_aml_bytes(&mut code);
    Code(code)
}
