//! The timer, against the real clock.

use super::*;

#[test]
fn tsc_deadlines_fire_once_and_read_back() {
    let (b, a) = one();
    let clock = b.timers.clock();
    a.page_write(offset::LVT_TIMER, 0x4_00ec);
    assert_eq!(a.read_msr(IA32_TSC_DEADLINE), Ok(0));
    let deadline = clock.tsc() + 100_000_000;
    a.write_msr(IA32_TSC_DEADLINE, deadline).unwrap();
    assert_eq!(a.read_msr(IA32_TSC_DEADLINE), Ok(deadline));
    assert!(!a.pending());
    assert!(wait_for(&a, Attention::INTERRUPT));
    assert!(clock.tsc() >= deadline);
    assert_eq!(take(&a), Some(0xec));
    eoi(&a);
    assert_eq!(a.read_msr(IA32_TSC_DEADLINE), Ok(0), "disarmed");
    a.write_msr(IA32_TSC_DEADLINE, 1).unwrap();
    assert_eq!(
        take(&a),
        Some(0xec),
        "a deadline in the past fires before the write ends"
    );
    eoi(&a);
    a.write_msr(IA32_TSC_DEADLINE, clock.tsc() + 100_000_000).unwrap();
    a.write_msr(IA32_TSC_DEADLINE, 0).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    assert!(!a.pending());
    // In other modes the register is dead, and so is the counter in this one.
    a.page_write(offset::INITIAL_COUNT, 1000);
    assert_eq!(a.page_read(offset::INITIAL_COUNT), 0);
    a.page_write(offset::LVT_TIMER, 0xec);
    a.write_msr(IA32_TSC_DEADLINE, 1).unwrap();
    assert!(!a.pending());
}

#[test]
fn a_deadline_that_passes_while_masked_is_gone() {
    let (b, a) = one();
    a.page_write(offset::LVT_TIMER, 0x5_00ec);
    a.write_msr(IA32_TSC_DEADLINE, b.timers.clock().tsc() + 1000)
        .unwrap();
    std::thread::sleep(Duration::from_millis(2));
    a.page_write(offset::LVT_TIMER, 0x4_00ec);
    assert!(!a.pending());
    assert_eq!(a.read_msr(IA32_TSC_DEADLINE), Ok(0));
}

#[test]
fn the_counter_interrupts_once_or_periodically() {
    let (b, a) = one();
    a.page_write(offset::DIVIDE, 0xb);
    a.page_write(offset::LVT_TIMER, 0x40);
    let start = b.timers.clock().nanoseconds();
    a.page_write(offset::INITIAL_COUNT, 100_000_000);
    let count = a.page_read(offset::CURRENT_COUNT);
    assert!(count > 0 && count <= 100_000_000);
    assert!(wait_for(&a, Attention::INTERRUPT));
    assert!(b.timers.clock().nanoseconds() >= start + 100_000_000);
    assert_eq!(take(&a), Some(0x40));
    eoi(&a);
    assert_eq!(a.page_read(offset::CURRENT_COUNT), 0);
    a.page_write(offset::LVT_TIMER, 0x2_0041);
    a.page_write(offset::INITIAL_COUNT, 1_000_000);
    for _ in 0..5 {
        assert!(wait_for(&a, Attention::INTERRUPT));
        assert_eq!(take(&a), Some(0x41));
        eoi(&a);
    }
    a.page_write(offset::INITIAL_COUNT, 0);
    take(&a);
    eoi(&a);
    std::thread::sleep(Duration::from_millis(5));
    assert!(!a.pending());
}
