use super::*;
use crate::line::probe::Probe;
use donjon_engine::Clock;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// A counter with a control word, and a count written low byte first, at tick 0; it is loaded at tick 1.
fn counter(mode: u8, bcd: bool, count: u16) -> Counter {
    let mut c = Counter::new(true);
    c.control(0x30 | mode << 1 | bcd as u8, 0);
    for b in count.to_le_bytes() {
        c.write(b, 0);
    }
    c
}

fn read(c: &mut Counter, now: u64) -> u16 {
    let low = c.read(now);
    u16::from_le_bytes([low, c.read(now)])
}

fn outputs(c: &mut Counter, ticks: std::ops::Range<u64>) -> String {
    ticks.map(|t| if c.output(t) { '1' } else { '0' }).collect()
}

#[test]
fn waveforms_are_those_of_the_datasheet() {
    // Figures 16-21: the count is loaded at tick 1.
    assert_eq!(outputs(&mut counter(0, false, 4), 0..9), "000001111");
    assert_eq!(outputs(&mut counter(2, false, 3), 0..9), "111011011");
    assert_eq!(outputs(&mut counter(3, false, 4), 0..10), "1110011001");
    assert_eq!(outputs(&mut counter(3, false, 5), 0..12), "111100111001");
    assert_eq!(outputs(&mut counter(4, false, 3), 0..7), "1111011");
    for (mode, wave) in [(1, "11000111"), (5, "11111011")] {
        let mut c = counter(mode, false, 3);
        assert!(c.output(0) && c.output(100), "waits for its trigger");
        c.set_gate(false, 100);
        c.set_gate(true, 101);
        assert_eq!(outputs(&mut c, 100..108), wave);
    }
}

#[test]
fn counts_read_back() {
    let mut c = counter(2, false, 1000);
    assert_eq!(read(&mut c, 1), 1000);
    assert_eq!(read(&mut c, 1 + 400), 600);
    assert_eq!(read(&mut c, 1 + 1400), 600);
    let mut c = counter(0, false, 0);
    assert_eq!(read(&mut c, 1 + 1), 0xffff);
    assert_eq!(read(&mut c, 1 + 0x1_0000 + 5), 0xfffb, "goes on below zero");
    let mut c = counter(2, true, 0x1000);
    assert_eq!(read(&mut c, 1 + 1), 0x0999);
    let mut c = counter(0, true, 0x0010);
    assert_eq!(read(&mut c, 1 + 11), 0x9999);
    let mut c = counter(3, false, 1000);
    assert_eq!(
        [0, 100, 499, 500, 999].map(|t| read(&mut c, 1 + t)),
        [1000, 800, 2, 1000, 2]
    );
}

#[test]
fn latches_hold_and_the_first_wins() {
    let mut c = counter(2, false, 1000);
    c.control(0x00, 101);
    c.control(0x00, 201);
    assert_eq!(read(&mut c, 500), 900);
    assert_eq!(read(&mut c, 501), 500);
    // Status comes before the count.
    c.latch_count(301);
    c.latch_status(301);
    assert_eq!(c.read(302), 0b1011_0100);
    assert_eq!(read(&mut c, 302), 700);
    let mut fresh = Counter::new(true);
    fresh.control(0x34, 0);
    fresh.latch_status(0);
    assert_eq!(fresh.read(0), 0b1111_0100, "null count: nothing written yet");
}

#[test]
fn single_byte_access() {
    let mut c = Counter::new(true);
    c.control(0x14, 0);
    c.write(100, 0);
    assert_eq!(c.read(11), 90);
    c.control(0x24, 100);
    c.write(2, 100);
    assert_eq!((c.read(101), c.read(102)), (2, 1));
}

#[test]
fn the_gate_holds_and_restarts() {
    let mut c = counter(0, false, 100);
    c.set_gate(false, 1 + 40);
    assert_eq!(read(&mut c, 500), 60);
    c.set_gate(true, 1000);
    assert_eq!(read(&mut c, 1010), 50);
    assert_eq!(c.next_rise(1010), Some(1060));
    let mut c = counter(2, false, 100);
    c.set_gate(false, 50);
    assert_eq!(c.next_rise(50), None);
    c.set_gate(true, 200);
    assert_eq!(read(&mut c, 201), 100);
}

#[test]
fn a_new_count_waits_for_the_cycle_to_end() {
    let mut c = counter(2, false, 100);
    for b in [50, 0] {
        c.write(b, 21);
    }
    assert_eq!(read(&mut c, 100), 1);
    assert_eq!(read(&mut c, 101), 50);
    assert_eq!(c.next_rise(120), Some(151));
    // Mode 3 changes at half a cycle: 50 of the old one high, then 20 of the new one low.
    let mut c = counter(3, false, 100);
    for b in [40, 0] {
        c.write(b, 21);
    }
    assert_eq!(c.next_rise(21), Some(71));
    assert!(!c.output(51) && !c.output(70) && c.output(71));
    assert_eq!(c.next_rise(71), Some(111));
}

fn pit() -> (Timers, Arc<Pit>, Arc<Probe>) {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let irq = Arc::new(Probe::default());
    let pit = Pit::new(&timers, irq.clone());
    (timers, pit, irq)
}

fn program(p: &Arc<Pit>, word: u8, port: u16, count: u16) {
    let c = p.counters();
    c.write(3, 1, word as u32);
    for b in count.to_le_bytes() {
        c.write(port, 1, b as u32);
    }
}

/// Polls until it is so; a timer thread on a busy host may take its time.
fn eventually(what: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn counter_0_interrupts_at_its_rate_and_stops() {
    let (t, p, irq) = pit();
    let start = t.clock().nanoseconds();
    program(&p, 0x34, 0, 1193);
    eventually(|| irq.rises() >= 20);
    assert!(t.clock().nanoseconds() - start >= 19 * 999_800);
    program(&p, 0x30, 0, 11_932);
    let before = irq.rises();
    assert!(!irq.level());
    eventually(|| irq.level());
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(irq.rises(), before + 1, "one shot");
}

#[test]
fn a_period_too_short_to_serve_does_not_flood() {
    let (t, p, irq) = pit();
    let start = t.clock().nanoseconds();
    program(&p, 0x34, 0, 2);
    std::thread::sleep(Duration::from_millis(50));
    program(&p, 0x30, 0, 0);
    let most = (t.clock().nanoseconds() - start) / SHORTEST_PERIOD + 4;
    assert!(irq.rises() as u64 <= most, "{} > {most}", irq.rises());
}

#[test]
fn linux_calibrates_with_counter_2() {
    // pit_hpet_ptimer_calibrate_cpu: 50 ms in mode 0 through the speaker gate.
    let (t, p, _) = pit();
    let b = p.port_b();
    b.write(0, 1, b.read(0, 1) & !2 | 1);
    let start = ticks(t.clock().nanoseconds());
    program(&p, 0xb0, 2, (HZ / 20) as u16);
    while b.read(0, 1) & 0x20 == 0 {
        assert!(
            ticks(t.clock().nanoseconds()) - start <= 20 * HZ,
            "OUT 2 never rose"
        );
    }
    assert!(ticks(t.clock().nanoseconds()) - start >= HZ / 20);
    // quick_pit_calibrate: the count goes down with time, byte by byte.
    let start = ticks(t.clock().nanoseconds());
    program(&p, 0xb0, 2, 0xffff);
    let c = p.counters();
    for _ in 0..2000 {
        c.write(3, 1, 0x80);
        let count = c.read(2, 1) as u64 | (c.read(2, 1) as u64) << 8;
        let now = ticks(t.clock().nanoseconds());
        if now - start >= 0xffff {
            break;
        }
        let counted = 0xffff - count;
        assert!(counted <= now - start, "{counted} in {}", now - start);
    }
}

#[test]
fn port_b_toggles_refresh_and_keeps_its_switches() {
    let (_t, p, _) = pit();
    let b = p.port_b();
    b.write(0, 1, 0xfe);
    assert_eq!(b.read(0, 1) & 0xcf, 0x0e);
    let first = b.read(0, 1) & 0x10;
    let until = Instant::now() + Duration::from_secs(5);
    while b.read(0, 1) & 0x10 == first {
        assert!(Instant::now() < until);
    }
}

proptest! {
    #[test]
    fn any_counter_history_is_harmless(
        ops in prop::collection::vec((0u8..8, any::<u8>(), 0u64..200_000), 0..200),
        start in prop_oneof![Just(0u64), Just(u64::MAX - 5_000_000), any::<u64>()],
    ) {
        let (mut c, mut now) = (Counter::new(true), start);
        for (op, value, later) in ops {
            now = now.saturating_add(later);
            match op {
                0 => c.control(value & 0x3f, now),
                1 | 2 => c.write(value, now),
                3 => drop(c.read(now)),
                4 => c.set_gate(value & 1 != 0, now),
                5 => c.latch_status(now),
                6 => c.latch_count(now),
                _ => drop(c.output(now)),
            }
            prop_assert!(c.is_legal());
            if let Some(rise) = c.next_rise(now) {
                prop_assert!(rise > now);
                prop_assert!(rise == u64::MAX || rise - now <= 0x3_0000 + 2, "{}", rise - now);
                prop_assert!(c.clone().output(rise) || rise == u64::MAX, "not high at its rise");
            }
        }
    }

    #[test]
    fn any_port_access_is_harmless(ops in prop::collection::vec((0u8..4, any::<u8>(), any::<u8>()), 0..100)) {
        let (_t, p, _) = pit();
        let (c, b) = (p.counters(), p.port_b());
        for (op, at, value) in ops {
            match op {
                0 => c.write(at as u16 % 4, 1, value as u32),
                1 => drop(c.read(at as u16 % 4, 1)),
                2 => b.write(0, 1, value as u32),
                _ => drop(b.read(0, 1)),
            }
        }
        let Migrate::State(record) = p.migrate() else { panic!() };
        let (_t2, other, _) = pit();
        prop_assert_eq!(other.restore(&record), Ok(()));
    }

    #[test]
    fn any_record_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_t, p, _) = pit();
        if p.restore(&Record { kind: "pit".into(), version: 1, bytes }).is_ok() {
            p.counters().read(0, 1);
            p.port_b().read(0, 1);
        }
    }
}
