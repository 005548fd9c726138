//! The I/O APIC and the 8259 at the other end.

use super::*;

#[test]
fn a_level_interrupt_comes_again_until_its_line_falls() {
    let (b, a) = one();
    let io = IoApic::new(0, &b.bus);
    let pin = io.pin(9);
    io.write(0, 4, 0x10 + 18);
    io.write(0x10, 4, 0x8055);
    pin.set(true);
    assert_eq!(take(&a), Some(0x55));
    assert_eq!(a.page_read(offset::TMR + 0x20), 1 << 0x15);
    assert_eq!(io.read(0x10, 4) & 1 << 14, 1 << 14, "remote IRR");
    pin.set(false);
    pin.set(true);
    assert_eq!(take(&a), None, "one at a time");
    eoi(&a);
    assert_eq!(take(&a), Some(0x55), "still asserted");
    pin.set(false);
    eoi(&a);
    assert_eq!(take(&a), None);
    assert_eq!(io.read(0x10, 4) & 1 << 14, 0);
    // An edge of the same vector is not broadcast.
    b.bus.deliver(&fixed(0x55, false));
    assert_eq!(take(&a), Some(0x55));
    assert_eq!(a.page_read(offset::TMR + 0x20), 0);
}

#[test]
fn suppressed_broadcasts_leave_the_eoi_to_software() {
    let (b, a) = one();
    let io = IoApic::new(0, &b.bus);
    a.page_write(offset::SVR, 0x11ff);
    io.write(0, 4, 0x10);
    io.write(0x10, 4, 0x8055);
    io.pin(0).set(true);
    assert_eq!(take(&a), Some(0x55));
    eoi(&a);
    assert_eq!(take(&a), None);
    io.write(0x40, 4, 0x55);
    assert_eq!(take(&a), Some(0x55));
}

struct Source;

impl ExtInt for Source {
    fn acknowledge(&self) -> u8 {
        0x30
    }
}

#[test]
fn extint_reaches_the_processor_through_lint0() {
    let (b, a) = one();
    let source = Arc::new(Source);
    a.connect_extint(&source);
    let pin = a.lint0();
    pin.set(true);
    assert!(!a.pending(), "LINT0 is masked after reset");
    a.virtual_wire();
    a.set_cr8(15);
    assert!(a.pending(), "whatever the priority");
    assert_eq!(take(&a), Some(0x30));
    assert_eq!(a.page_read(offset::ISR + 0x10), 0, "not in service here");
    assert_eq!(
        take(&a),
        Some(0x30),
        "a line that stays asserted is offered again"
    );
    pin.set(false);
    assert_eq!(take(&a), None);
    assert!(b.bus.deliver(&Message {
        mode: DeliveryMode::ExtInt,
        ..fixed(0, false)
    }));
    assert_eq!(take(&a), Some(0x30), "as a message, once");
    assert_eq!(take(&a), None);
    // A disabled APIC passes the pins through.
    let base = a.read_msr(IA32_APIC_BASE).unwrap();
    a.write_msr(IA32_APIC_BASE, base & !base::ENABLE).unwrap();
    pin.set(true);
    assert_eq!(take(&a), Some(0x30));
    a.lint1().set(true);
    assert_eq!(a.attention.take(Attention::NMI), Attention::NMI);
}
