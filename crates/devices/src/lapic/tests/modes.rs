//! Modes, resets, and registers that fault or report errors.

use super::*;

#[test]
fn a_software_disabled_apic_takes_no_fixed_interrupt_but_nmi_and_init() {
    let (b, a) = one();
    a.page_write(offset::LVT_TIMER, 0x40);
    a.page_write(offset::SVR, 0xff);
    assert_eq!(a.page_read(offset::LVT_TIMER), 0x1_0040, "disabling masks");
    a.page_write(offset::LVT_TIMER, 0x40);
    assert_eq!(a.page_read(offset::LVT_TIMER), 0x1_0040, "and keeps masked");
    assert!(!b.bus.deliver(&fixed(0x40, false)));
    for (mode, bit) in [
        (DeliveryMode::Nmi, Attention::NMI),
        (DeliveryMode::Init, Attention::INIT),
    ] {
        assert!(b.bus.deliver(&Message {
            mode,
            ..fixed(0, false)
        }));
        assert_eq!(a.attention.take(bit), bit);
    }
}

#[test]
fn apic_base_transitions_are_those_of_the_manual() {
    let (_b, a) = one();
    let base = a.read_msr(IA32_APIC_BASE).unwrap();
    assert_eq!(base, 0xfee0_0900);
    assert_eq!(a.page(), Some(0xfee0_0000));
    let (off, x1, both) = (base & !0xc00, base, base | 0x400);
    let set = |v| a.write_msr(IA32_APIC_BASE, v);
    for illegal in [off | 0x400, base | 0x200, base | 1, base | 1 << 40] {
        assert_eq!(set(illegal), Err(Gp), "{illegal:#x}");
    }
    assert_eq!(set(0xfed0_0900), Ok(()));
    assert_eq!(a.page(), Some(0xfed0_0000), "relocated");
    assert_eq!(a.read_msr(x2(offset::ID)), Err(Gp), "not in xAPIC mode");
    for (v, ok) in [
        (both, true),
        (x1, false),
        (both, true),
        (off, true),
        (both, false),
        (off, true),
        (x1, true),
    ] {
        assert_eq!(set(v).is_ok(), ok, "{v:#x}");
    }
    set(both).unwrap();
    assert_eq!(a.page(), None);
    set(off).unwrap();
    assert_eq!(a.page(), None);
    set(x1).unwrap();
    assert_eq!(a.page_read(offset::SVR), 0xff, "disabling lost the state");
}

#[test]
fn x2apic_registers_fault_where_the_manual_says_so() {
    let (_b, a) = one();
    enter_x2apic(&a);
    let (read, write) = (|at| a.read_msr(x2(at)), |at, v| a.write_msr(x2(at), v));
    assert_eq!(read(offset::ID), Ok(0));
    assert_eq!(read(offset::LDR), Ok(1));
    assert_eq!(read(offset::VERSION), Ok(0x0105_0014));
    for at in [
        offset::APR,
        offset::RRD,
        offset::DFR,
        offset::ICR_HIGH,
        offset::EOI,
        offset::SELF_IPI,
        0,
        0x10,
    ] {
        assert_eq!(read(at), Err(Gp), "{at:#x}");
    }
    for (at, v) in [
        (offset::ID, 0),
        (offset::VERSION, 0),
        (offset::PPR, 0),
        (offset::LDR, 0),
        (offset::ISR, 0),
        (offset::IRR_LAST, 0),
        (offset::CURRENT_COUNT, 0),
        (offset::EOI, 1),
        (offset::ESR, 1),
        (offset::TPR, 0x100),
        (offset::SVR, 0x200),
        (offset::LVT_TIMER, 1 << 19),
        (offset::LVT_ERROR, 1 << 8),
        (offset::INITIAL_COUNT, 1 << 32),
        (offset::DIVIDE, 4),
        (offset::ICR, 1 << 13),
        (offset::ICR, 1 << 20),
        (offset::SELF_IPI, 0x100),
    ] {
        assert_eq!(write(at, v), Err(Gp), "{at:#x}");
    }
    for (at, v) in [
        (offset::EOI, 0),
        (offset::ESR, 0),
        (offset::TPR, 0x50),
        (offset::LVT_TIMER, 0x2_1040),
    ] {
        assert_eq!(write(at, v), Ok(()), "{at:#x}");
    }
    assert_eq!(read(offset::LVT_TIMER), Ok(0x2_0040));
    assert_eq!(a.read_msr(0x8ff), Err(Gp));
}

#[test]
fn init_keeps_mode_and_id() {
    let (b, a) = one();
    enter_x2apic(&a);
    b.bus.deliver(&fixed(0x55, false));
    a.set_cr8(3);
    a.init();
    assert!(!a.pending());
    assert_eq!(
        (a.cr8(), a.page(), a.read_msr(x2(offset::SVR))),
        (0, None, Ok(0xff))
    );
}

#[test]
fn illegal_vectors_are_errors() {
    let (b, a) = one();
    a.page_write(offset::LVT_ERROR, 0x30);
    a.page_write(offset::ICR, 1 << 18 | 0x0f);
    assert_eq!(take(&a), Some(0x30));
    eoi(&a);
    assert!(!b.bus.deliver(&fixed(0x0f, false)));
    assert_eq!(take(&a), None, "one error interrupt until ESR is written");
    assert_eq!(a.page_read(offset::ESR), 0, "shown after a write only");
    a.page_write(offset::ESR, 0);
    let both = error::SEND_ILLEGAL_VECTOR | error::RECEIVE_ILLEGAL_VECTOR;
    assert_eq!(a.page_read(offset::ESR), both as u32);
    a.page_read(0x40);
    assert_eq!(take(&a), Some(0x30), "an unimplemented register");
    a.page_write(offset::ESR, 0);
    assert_eq!(a.page_read(offset::ESR), error::ILLEGAL_REGISTER as u32);
}
