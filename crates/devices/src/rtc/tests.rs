use super::clock::{SECOND, control, flag, register};
use super::*;
use crate::line::probe::Probe;
use donjon_engine::Clock;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const S: u64 = SECOND as u64;
/// Friday, 31 December 1999, 23:59:58 UTC.
const EVE: i128 = 946_684_798;

/// A clock that shows [`EVE`] at time 0.
fn eve() -> Chip {
    Chip::new(EVE * SECOND, 0)
}

fn get(c: &mut Chip, index: u8, now: u64) -> u8 {
    c.index = index;
    c.read(now)
}

fn put(c: &mut Chip, index: u8, value: u8, now: u64) {
    c.index = index;
    c.write(value, now);
}

/// Century, year, month, day, weekday, hour, minute, second as the guest reads them.
fn time(c: &mut Chip, now: u64) -> [u8; 8] {
    [register::CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|i| get(c, i, now))
}

#[test]
fn the_century_rolls_over() {
    let mut c = eve();
    assert_eq!(time(&mut c, 0), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58]);
    assert_eq!(
        time(&mut c, 2 * S - 1),
        [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59]
    );
    assert_eq!(time(&mut c, 2 * S), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    let leap_day = 2 * S + (31 + 28) * 86_400 * S;
    assert_eq!(time(&mut c, leap_day)[..4], [0x20, 0, 0x02, 0x29]);
}

#[test]
fn formats() {
    let mut c = eve();
    put(&mut c, register::B, control::BINARY | control::HOURS_24, 0);
    assert_eq!(time(&mut c, 0), [19, 99, 12, 31, 6, 23, 59, 58]);
    put(&mut c, register::B, control::BINARY, 0);
    assert_eq!(get(&mut c, 4, 0), 0x80 | 11);
    assert_eq!(get(&mut c, 4, 2 * S), 12, "midnight is 12 AM");
    assert_eq!(get(&mut c, 4, 2 * S + 12 * 3600 * S), 0x80 | 12, "noon is 12 PM");
    put(&mut c, register::B, 0, 0);
    assert_eq!(get(&mut c, 4, 0), 0x91);
}

#[test]
fn setting_the_time_stops_it() {
    let mut c = eve();
    put(&mut c, register::B, control::SET | control::HOURS_24, 0);
    for (i, v) in [
        (register::CENTURY, 0x20),
        (9, 0x24),
        (8, 2),
        (7, 0x29),
        (6, 5),
        (4, 0x12),
        (2, 0x34),
        (0, 0x56),
    ] {
        put(&mut c, i, v, S);
    }
    assert_eq!(time(&mut c, 10 * S), [0x20, 0x24, 2, 0x29, 5, 0x12, 0x34, 0x56]);
    assert_eq!(
        get(&mut c, register::A, 10 * S - 1) & 0x80,
        0,
        "no update in progress"
    );
    put(&mut c, register::B, control::HOURS_24, 10 * S);
    assert_eq!(
        time(&mut c, 14 * S),
        [0x20, 0x24, 3 - 1, 0x29, 5, 0x12, 0x35, 0x00]
    );
    assert!(c.is_legal());
    // One field on its own, while running.
    put(&mut c, 9, 0x25, 14 * S);
    assert_eq!(
        time(&mut c, 14 * S)[..4],
        [0x20, 0x25, 3, 0x01],
        "no such day in 2025"
    );
}

#[test]
fn a_released_divider_updates_after_half_a_second() {
    let mut c = eve();
    put(&mut c, register::A, 0x76, 100);
    assert_eq!(time(&mut c, 5 * S)[7], 0x58);
    put(&mut c, register::A, 0x26, 5 * S);
    assert_eq!(time(&mut c, 5 * S + S / 2 - 1)[7], 0x58);
    assert_eq!(time(&mut c, 5 * S + S / 2)[7], 0x59);
}

#[test]
fn an_update_is_announced() {
    let mut c = eve();
    assert_eq!(get(&mut c, register::A, S - 244_001) & 0x80, 0);
    assert_eq!(get(&mut c, register::A, S - 244_000) & 0x80, 0x80);
    assert_eq!(get(&mut c, register::A, S) & 0x80, 0);
}

#[test]
fn flags_are_set_without_their_interrupts_and_cleared_by_reading() {
    let mut c = eve();
    put(&mut c, register::HOURS_ALARM, 0x12, 0);
    assert_eq!(get(&mut c, register::C, 0), 0);
    assert_eq!(get(&mut c, register::C, S), flag::UPDATE | flag::PERIODIC);
    assert_eq!(get(&mut c, register::C, S), 0);
    put(&mut c, register::B, flag::UPDATE | control::HOURS_24, S);
    assert_eq!(c.next_event(S), Some(2 * S));
    c.settle(2 * S);
    assert!(c.interrupting());
    assert_eq!(c.next_event(2 * S), None, "nothing more until C is read");
    assert_eq!(
        get(&mut c, register::C, 2 * S),
        flag::ANY | flag::UPDATE | flag::PERIODIC
    );
    assert!(!c.interrupting());
}

#[test]
fn the_periodic_rate_is_the_divider_tap() {
    let mut c = eve();
    put(&mut c, register::B, flag::PERIODIC, 0);
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        put(&mut c, register::A, 0x20 | rate, 0);
        assert_eq!(c.next_event(0), Some((S).div_ceil(hz)), "rate {rate}");
    }
    put(&mut c, register::A, 0x20, 0);
    assert_eq!(c.next_event(0), None);
}

#[test]
fn alarms() {
    let mut c = eve();
    put(&mut c, register::B, flag::ALARM | control::HOURS_24, 0);
    let mut at = |h, m, s| {
        for (i, v) in [
            (register::HOURS_ALARM, h),
            (register::MINUTES_ALARM, m),
            (register::SECONDS_ALARM, s),
        ] {
            put(&mut c, i, v, 0);
        }
        c.next_event(0).map(|t| t / S)
    };
    assert_eq!(at(0x23, 0x59, 0x59), Some(1));
    assert_eq!(at(0x00, 0x00, 0x05), Some(7), "tomorrow");
    assert_eq!(at(0x23, 0x59, 0x58), Some(86_400), "not now, a day from now");
    assert_eq!(at(0xff, 0xff, 0xff), Some(1), "every second");
    assert_eq!(at(0xff, 0x30, 0x00), Some(2 + 1800), "every hour");
    assert_eq!(at(0x24, 0x00, 0x00), None, "no such hour");
    assert_eq!(at(0xff, 0xff, 0x60), None);
    at(0x00, 0x00, 0x05);
    c.settle(6 * S);
    assert!(!c.interrupting());
    c.settle(100 * S);
    assert_eq!(
        get(&mut c, register::C, 100 * S) & (flag::ANY | flag::ALARM),
        flag::ANY | flag::ALARM
    );
}

fn rtc() -> (Timers, Arc<Rtc>, Arc<Probe>) {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let irq = Arc::new(Probe::default());
    let rtc = Rtc::new(&timers, irq.clone());
    (timers, rtc, irq)
}

fn out(r: &Rtc, index: u8, value: u8) {
    r.write(0, 1, index as u32);
    r.write(1, 1, value as u32);
}

fn input(r: &Rtc, index: u8) -> u8 {
    r.write(0, 1, index as u32);
    r.read(1, 1) as u8
}

#[test]
fn the_periodic_interrupt_arrives_and_waits_for_the_guest() {
    let (_t, r, irq) = rtc();
    out(&r, 0x80 | register::B, flag::PERIODIC | control::HOURS_24);
    let until = Instant::now() + Duration::from_secs(10);
    for n in 1..=5 {
        while irq.rises() < n {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(irq.rises(), n);
        assert!(input(&r, register::C) & flag::ANY != 0);
    }
    r.reset();
    assert_eq!(input(&r, register::B), control::HOURS_24);
}

#[test]
fn memory_holds_what_firmware_and_guest_put_there() {
    let (_t, r, _) = rtc();
    assert_eq!(r.read(0, 1), 0xff);
    out(&r, 0x0f, 0x0a);
    assert_eq!(r.shutdown_status(), 0x0a);
    out(&r, 0x7f, 0x55);
    assert_eq!(input(&r, 0x7f), 0x55);
    r.set_memory_size(3 << 30, 1 << 30);
    assert_eq!(
        [0x15, 0x16, 0x17, 0x18, 0x30, 0x31].map(|i| input(&r, i)),
        [0x80, 2, 0xff, 0xff, 0xff, 0xff]
    );
    assert_eq!(
        [0x34, 0x35, 0x5b, 0x5c, 0x5d].map(|i| input(&r, i)),
        [0, 0xbf, 0, 0x40, 0]
    );
    r.set(0, 0x99);
    r.set(0xff, 0x99);
    assert_eq!(input(&r, register::D), 0x80);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let year = calendar::Date::from_seconds(now as i64).year;
    assert_eq!(
        input(&r, register::CENTURY) as i64,
        year / 100 / 10 * 16 + year / 100 % 10
    );
}

proptest! {
    #[test]
    fn any_history_is_harmless(
        ops in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u8>(), 0u64..5_000_000_000), 0..100),
        start in prop_oneof![Just(0u64), any::<u64>()],
        wall in 0i128..253_402_300_800,
    ) {
        let mut now = start;
        let mut c = Chip::new(wall * SECOND, now);
        for (write, index, value, later) in ops {
            now = now.saturating_add(later);
            c.index = index & 127;
            // Mostly the clock's own registers.
            if value & 3 != 0 {
                c.index %= 14;
            }
            if write {
                c.write(value, now);
            } else {
                c.read(now);
            }
            prop_assert!(c.is_legal());
            if let Some(at) = c.next_event(now).filter(|_| now < u64::MAX - 86_400 * 2 * S) {
                prop_assert!(at > now);
                let mut later = c.clone();
                later.settle(at);
                prop_assert!(later.interrupting(), "woken for nothing");
                let mut before = c.clone();
                before.settle(at - 1);
                prop_assert!(!before.interrupting(), "woken late");
            }
        }
    }

    #[test]
    fn any_record_is_harmless(index: u8, offset: i128, memory in prop::collection::vec(any::<u8>(), 126..130), flags: u8, settled: u64) {
        let (_t, r, _) = rtc();
        let chip = Chip { index, memory, offset, flags: flags & 0x70, settled, ..Chip::new(0, 0) };
        let Migrate::State(record) = chip.save() else { panic!() };
        if r.restore(&record).is_ok() {
            for i in 0..128 {
                input(&r, i);
            }
        }
        r.migrate();
    }
}
