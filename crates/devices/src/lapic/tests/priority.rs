//! Which interrupt is taken when.

use super::*;

#[test]
fn higher_priorities_nest_and_lower_ones_wait() {
    let (b, a) = one();
    b.bus.deliver(&fixed(0x41, false));
    b.bus.deliver(&fixed(0x45, false));
    assert_eq!(take(&a), Some(0x45), "highest vector first");
    assert_eq!(take(&a), None, "same class waits");
    b.bus.deliver(&fixed(0x60, false));
    assert_eq!(take(&a), Some(0x60), "a higher class nests");
    assert_eq!(a.page_read(offset::PPR), 0x60);
    assert_eq!(
        a.page_read(offset::ISR + 0x30),
        1,
        "0x60 is bit 0 of the fourth register"
    );
    eoi(&a);
    assert_eq!(a.page_read(offset::PPR), 0x40);
    assert_eq!(take(&a), None);
    eoi(&a);
    assert_eq!(
        take(&a),
        Some(0x41),
        "EOI raises the attention bit for what waited"
    );
    eoi(&a);
    assert!(!a.pending());
    assert_eq!(a.acknowledge(), None);
}

#[test]
fn several_pending_classes_are_offered_one_after_another() {
    let (b, a) = one();
    a.set_cr8(15);
    for v in [0x31, 0x51, 0x71] {
        b.bus.deliver(&fixed(v, false));
    }
    assert_eq!(a.attention.bits(), 0, "nothing above the task priority");
    a.set_cr8(5);
    assert_eq!(take(&a), Some(0x71));
    a.set_cr8(0);
    assert_eq!(take(&a), None);
    eoi(&a);
    assert_eq!(take(&a), Some(0x51));
    eoi(&a);
    assert_eq!(take(&a), Some(0x31));
    assert_eq!(a.cr8(), 0);
}

#[test]
fn a_bit_left_alone_while_interrupts_are_off_is_still_good() {
    let (b, a) = one();
    b.bus.deliver(&fixed(0x51, false));
    b.bus.deliver(&fixed(0x61, false));
    assert_eq!(take(&a), Some(0x61));
    assert_eq!(a.attention.bits(), 0);
    b.bus.deliver(&fixed(0x71, false));
    // The handler runs with interrupts off: the bit stays while the EOI happens.
    eoi(&a);
    assert_eq!(take(&a), Some(0x71));
    eoi(&a);
    assert_eq!(take(&a), Some(0x51));
}

#[test]
fn task_priority_is_cr8_and_register() {
    let (_b, a) = one();
    a.page_write(offset::TPR, 0x5a);
    assert_eq!(
        (a.cr8(), a.page_read(offset::TPR), a.page_read(offset::PPR)),
        (5, 0x5a, 0x5a)
    );
    a.set_cr8(9);
    assert_eq!(a.page_read(offset::TPR), 0x90);
    assert_eq!(a.page_read(offset::APR), 0x90);
}
