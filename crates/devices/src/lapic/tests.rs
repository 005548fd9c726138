use super::registers::{error, offset};
use super::*;
use crate::MmioDevice;
use crate::ioapic::IoApic;
use crate::line::MsiSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError};
use donjon_x86::msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE, X2APIC_FIRST};
use proptest::prelude::*;
use std::time::Duration;

struct Board {
    timers: Timers,
    bus: Arc<ApicBus>,
    apics: Vec<Arc<LocalApic>>,
}

/// Processors with these IDs, enabled by software.
fn board(ids: &[u32]) -> Board {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let bus = ApicBus::new();
    let apics = ids.iter().map(|&id| {
        let config = Config {
            id,
            bootstrap: id == ids[0],
            physical_bits: 40,
        };
        let apic = LocalApic::new(config, &bus, Arc::new(Attention::default()), &timers);
        apic.page_write(offset::SVR, 0x1ff);
        apic
    });
    let apics = apics.collect();
    Board { timers, bus, apics }
}

fn one() -> (Board, Arc<LocalApic>) {
    let b = board(&[0]);
    let a = b.apics[0].clone();
    (b, a)
}

fn fixed(vector: u8, level: bool) -> Message {
    let destination = Destination {
        id: 0,
        logical: false,
    };
    Message {
        destination,
        mode: DeliveryMode::Fixed,
        vector,
        level,
        redirect: false,
    }
}

/// What a processor does with its interrupt flag set: takes the bit, then the interrupt.
fn take(a: &LocalApic) -> Option<u8> {
    (a.attention.take(Attention::INTERRUPT) != 0)
        .then(|| a.acknowledge())
        .flatten()
}

fn eoi(a: &LocalApic) {
    a.page_write(offset::EOI, 0);
}

fn enter_x2apic(a: &LocalApic) {
    let base = a.read_msr(IA32_APIC_BASE).unwrap();
    a.write_msr(IA32_APIC_BASE, base | base::X2APIC).unwrap();
}

fn x2(at: u16) -> u32 {
    X2APIC_FIRST + at as u32 / 16
}

fn wait_for(a: &LocalApic, bit: u32) -> bool {
    a.attention.wait(bit, Some(Duration::from_secs(10))) & bit != 0
}

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

#[test]
fn a_software_disabled_apic_takes_no_fixed_interrupt_but_nmi_and_init() {
    let (b, a) = one();
    a.page_write(offset::LVT_TIMER, 0x40);
    a.page_write(offset::SVR, 0xff);
    assert_eq!(a.page_read(offset::LVT_TIMER), 0x1_0040, "disabling masks");
    a.page_write(offset::LVT_TIMER, 0x40);
    assert_eq!(a.page_read(offset::LVT_TIMER), 0x1_0040, "and keeps masked");
    assert_eq!(b.bus.deliver(&fixed(0x40, false)), 0);
    for (mode, bit) in [
        (DeliveryMode::Nmi, Attention::NMI),
        (DeliveryMode::Init, Attention::INIT),
    ] {
        assert_eq!(
            b.bus.deliver(&Message {
                mode,
                ..fixed(0, false)
            }),
            1
        );
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
    assert_eq!(read(offset::VERSION), Ok(0x0106_0014));
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
    assert_eq!(b.bus.deliver(&fixed(0x0f, false)), 0);
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
    assert_eq!(
        b.bus.deliver(&Message {
            mode: DeliveryMode::ExtInt,
            ..fixed(0, false)
        }),
        1
    );
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

/// Sends an IPI from `from`; who got it, in order.
fn ipi(b: &Board, from: usize, icr: u32, destination: u32) -> Vec<usize> {
    let a = &b.apics[from];
    if a.page().is_some() {
        a.page_write(offset::ICR_HIGH, destination << 24);
        a.page_write(offset::ICR, icr);
        assert_eq!(a.page_read(offset::ICR_HIGH), destination << 24);
        assert_eq!(a.page_read(offset::ICR), icr & 0xcefff);
    } else {
        a.write_msr(x2(offset::ICR), (destination as u64) << 32 | icr as u64)
            .unwrap();
    }
    received(b)
}

fn received(b: &Board) -> Vec<usize> {
    let got = |a: &&Arc<LocalApic>| {
        let bits = a
            .attention
            .take(Attention::INTERRUPT | Attention::NMI | Attention::INIT);
        let sipi = a.attention.take_sipi().is_some();
        if bits & Attention::INTERRUPT != 0 {
            a.acknowledge();
            a.end_of_interrupt();
        }
        bits != 0 || sipi
    };
    (0..b.apics.len()).filter(|&i| got(&&b.apics[i])).collect()
}

const LOGICAL: u32 = 1 << 11;
const LOWEST: u32 = 1 << 8;

#[test]
fn physical_and_shorthand_ipis() {
    let b = board(&[0, 1, 2, 5]);
    for (icr, destination, got) in [
        (0x40, 1, vec![1]),
        (0x40, 5, vec![3]),
        (0x40, 3, vec![]),
        (0x40, 0xff, vec![0, 1, 2, 3]),
        (0x40 | 1 << 18, 1, vec![0]),
        (0x40 | 2 << 18, 1, vec![0, 1, 2, 3]),
        (0x40 | 3 << 18, 1, vec![1, 2, 3]),
        (0x400 | 3 << 18, 0, vec![1, 2, 3]),
        (0x500 | 1 << 14, 2, vec![2]),
        (0x500 | 1 << 15, 2, vec![]),
        (0x699, 5, vec![3]),
        (0x200 | 0x40, 1, vec![]),
        (0x05, 1, vec![]),
    ] {
        assert_eq!(ipi(&b, 0, icr, destination), got, "{icr:#x} to {destination:#x}");
    }
    b.apics[0].page_write(offset::ICR_HIGH, 1 << 24);
    b.apics[0].page_write(offset::ICR, 0x69a);
    assert_eq!(b.apics[1].attention.take_sipi(), Some(0x9a));
}

#[test]
fn logical_flat_and_cluster_ipis() {
    let b = board(&[0, 1, 2, 3]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::LDR, 1 << (24 + i));
    }
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x5), [0, 2]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xff), [0, 1, 2, 3]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xf0), [0usize; 0]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::DFR, 0);
        a.page_write(offset::LDR, [0x01, 0x02, 0x11, 0x12][i] << 24);
    }
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x03), [0, 1]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x12), [3]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x23), [0usize; 0]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xff), [0, 1, 2, 3]);
}

#[test]
fn x2apic_ipis_and_clusters() {
    let b = board(&[0, 1, 17, 255, 300]);
    b.apics.iter().for_each(|a| enter_x2apic(a));
    assert_eq!(b.apics[4].read_msr(x2(offset::LDR)), Ok(18 << 16 | 1 << 12));
    assert_eq!(ipi(&b, 0, 0x40, 300), [4]);
    assert_eq!(ipi(&b, 0, 0x40, 0xff), [3], "no broadcast in x2APIC mode");
    assert_eq!(ipi(&b, 0, 0x40, u32::MAX), [0, 1, 2, 3, 4]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x3), [0, 1]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x1_0002), [2]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x2_0002), [0usize; 0]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, u32::MAX), [0, 1, 2, 3, 4]);
    b.apics[1].write_msr(x2(offset::SELF_IPI), 0x77).unwrap();
    assert_eq!(take(&b.apics[1]), Some(0x77));
}

#[test]
fn lowest_priority_goes_to_the_idlest_and_takes_turns() {
    let b = board(&[0, 1, 2, 3]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::LDR, 1 << (24 + i));
    }
    b.apics[0].set_cr8(4);
    b.apics[3].page_write(offset::SVR, 0xff);
    let mut got = [0; 4];
    for _ in 0..30 {
        let [to] = ipi(&b, 0, 0x80 | LOGICAL | LOWEST, 0xff)[..] else {
            panic!("not exactly one")
        };
        got[to] += 1;
    }
    assert_eq!((got[0], got[3]), (0, 0));
    assert!(got[1] >= 5 && got[2] >= 5, "{got:?}");
}

#[test]
fn msis_are_decoded() {
    let b = board(&[0, 1, 2, 300]);
    let to = |address: u64, data| {
        b.bus.send(address, data);
        received(&b)
    };
    b.apics
        .iter()
        .enumerate()
        .for_each(|(i, a)| a.page_write(offset::LDR, 1 << (24 + i)));
    assert_eq!(to(0xfee0_1000, 0x41), [1]);
    assert_eq!(to(0xfeef_f000, 0x41), [0, 1, 2, 3]);
    assert_eq!(to(0xfee0_6004, 0x41), [1, 2]);
    assert_eq!(to(0xfee0_600c, 0x41).len(), 1, "redirection hint");
    assert_eq!(to(0xfee0_2000, 0x400), [2]);
    assert_eq!(to(0xfee2_c020, 0x41), [3], "extended destination");
    assert_eq!(to(0xfed0_1000, 0x41), [0usize; 0]);
    assert_eq!(to(0x1_fee0_1000, 0x41), [0usize; 0]);
    b.apics.iter().for_each(|a| enter_x2apic(a));
    assert_eq!(
        to(0xfeef_f000, 0x41),
        [0, 1, 2, 3],
        "a device's 0xff is a broadcast in any mode"
    );
}

#[test]
fn state_survives_and_damage_is_found() {
    let (b, a) = one();
    b.bus.deliver(&fixed(0x31, true));
    b.bus.deliver(&fixed(0x61, false));
    assert_eq!(take(&a), Some(0x61));
    a.attention.raise(Attention::NMI);
    a.attention.raise_sipi(0x9f);
    let Migrate::State(record) = a.migrate() else {
        panic!()
    };
    let (_c, other) = one();
    other.restore(&record).unwrap();
    assert_eq!(other.page_read(offset::PPR), 0x60);
    assert_eq!(other.attention.take(Attention::NMI), Attention::NMI);
    assert_eq!(other.attention.take_sipi(), Some(0x9f));
    other.end_of_interrupt();
    assert_eq!(take(&other), Some(0x31));
    assert_eq!(other.page_read(offset::TMR + 0x10), 1 << 17);
    for cut in 0..record.bytes.len() {
        let bad = Record {
            bytes: record.bytes[..cut].to_vec(),
            ..record.clone()
        };
        assert!(matches!(other.restore(&bad), Err(RestoreError::Damaged { .. })));
    }
    let newer = Record {
        version: 2,
        ..record.clone()
    };
    assert!(matches!(
        other.restore(&newer),
        Err(RestoreError::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
    let foreign = Record {
        kind: "pit".into(),
        ..record
    };
    assert!(matches!(other.restore(&foreign), Err(RestoreError::Kind { .. })));
}

#[test]
fn processors_interrupt_each_other_without_deadlock_or_loss() {
    const ROUNDS: u32 = 20_000;
    let b = board(&[0, 1]);
    let io = IoApic::new(0, &b.bus);
    let pin = io.pin(3);
    io.write(0, 4, 0x16);
    io.write(0x10, 4, 0x8070);
    let run = |me: usize| {
        let (a, other) = (&b.apics[me], 1 - me as u32);
        // Ping-pong: each round waits for the other's interrupt, so a lost one hangs (and is reported).
        for round in 0..ROUNDS {
            if round & 1 == me as u32 {
                a.page_write(offset::ICR_HIGH, other << 24);
                a.page_write(offset::ICR, 0x50 + round % 8);
            } else {
                loop {
                    assert!(wait_for(a, Attention::INTERRUPT), "interrupt {round} was lost");
                    let vector = take(a);
                    if vector.is_some() {
                        eoi(a);
                    }
                    if vector.is_some_and(|v| v < 0x70) {
                        break;
                    }
                }
            }
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| run(0));
        s.spawn(|| run(1));
        s.spawn(|| (0..ROUNDS).for_each(|i| pin.set(i % 2 == 0)));
    });
}

proptest! {
    /// Whatever a guest writes, in either mode: no panic, priorities hold, state survives.
    #[test]
    fn any_register_access_is_harmless(
        x2apic: bool,
        ops in prop::collection::vec((0u8..8, any::<u16>(), any::<u64>()), 1..150),
    ) {
        let b = board(&[0, 1]);
        let io = IoApic::new(0, &b.bus);
        let a = &b.apics[0];
        if x2apic {
            enter_x2apic(a);
        }
        for (op, at, value) in ops {
            match op {
                0 => drop(a.page_read(at & 0xffc)),
                1 => a.page_write(at & 0xff0, value as u32),
                2 => drop(a.read_msr(X2APIC_FIRST + at as u32 % 0x100)),
                3 => drop(a.write_msr(X2APIC_FIRST + at as u32 % 0x40, value & 0xf_ffff)),
                4 => drop(a.write_msr(IA32_APIC_BASE, value & 0xffff_fd00)),
                5 => drop(a.write_msr(IA32_TSC_DEADLINE, value)),
                6 => b.bus.send(0xfee0_0000 | value & 0xf_ffff, at as u32),
                _ => {
                    let (pending, before) = (a.pending(), a.page_read(offset::PPR));
                    let got = a.acknowledge();
                    // The timer may have come between the two.
                    prop_assert!(!pending || got.is_some());
                    if let Some(v) = got {
                        prop_assert!(v >= 16 && v >> 4 > before as u8 >> 4);
                        prop_assert_eq!(a.page_read(offset::PPR) & 0xf0, v as u32 & 0xf0);
                    }
                }
            }
            let waiting = a.pending();
            prop_assert!(!waiting || wait_for(a, Attention::INTERRUPT));
        }
        drop(io);
        let Migrate::State(record) = a.migrate() else { panic!() };
        let (_c, other) = one();
        prop_assert_eq!(other.restore(&record), Ok(()));
    }

    /// Whatever a file says: an error or a state, no panic then or later.
    #[test]
    fn any_record_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_b, a) = one();
        if a.restore(&Record { kind: "lapic".into(), version: 1, bytes }).is_ok() {
            a.acknowledge();
            a.end_of_interrupt();
            a.page_read(offset::CURRENT_COUNT);
        }
    }
}
