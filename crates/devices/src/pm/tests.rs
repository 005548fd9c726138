use super::*;
use crate::line::probe::Probe;
use donjon_engine::Clock;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Power {
    offs: AtomicUsize,
    resets: AtomicUsize,
}

impl PowerSink for Power {
    fn power_off(&self) {
        self.offs.fetch_add(1, SeqCst);
    }
    fn reset(&self) {
        self.resets.fetch_add(1, SeqCst);
    }
}

struct Board {
    timers: Timers,
    pm: Arc<Pm>,
    sci: Arc<Probe>,
    power: Arc<Power>,
}

fn board() -> Board {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let (sci, power) = (Arc::new(Probe::default()), Arc::new(Power::default()));
    let pm = Pm::new(&timers, sci.clone(), power.clone());
    Board {
        timers,
        pm,
        sci,
        power,
    }
}

#[test]
fn the_power_button_interrupts_until_acknowledged() {
    let b = board();
    let event = b.pm.event();
    b.pm.press_power_button();
    assert!(!b.sci.level(), "not enabled");
    assert_eq!(event.read(0, 2), 0x100);
    event.write(2, 2, 0x100);
    assert!(b.sci.level());
    event.write(0, 2, 0x100);
    assert!(!b.sci.level());
    assert_eq!(event.read(0, 4), 0x100_0000);
    b.pm.press_power_button();
    assert_eq!(event.read(1, 1) & 0xff, 1, "a byte of it");
    event.write(1, 1, 1);
    assert!(!b.sci.level());
    event.write(3, 1, 0);
    b.pm.press_power_button();
    assert!(!b.sci.level());
}

#[test]
fn s5_turns_off_and_other_sleeps_end_at_once() {
    let b = board();
    let control = b.pm.control();
    assert_eq!(control.read(0, 2), 1, "always ACPI mode");
    let off = (SLEEP_TYPE_S5 as u32) << 10;
    control.write(0, 2, off);
    assert_eq!(b.power.offs.load(SeqCst), 0, "SLP_EN is what acts");
    control.write(0, 2, off | 1 << 13);
    assert_eq!(b.power.offs.load(SeqCst), 1);
    assert_eq!(control.read(0, 2), off | 1, "SLP_EN reads as zero");
    control.write(0, 2, 0x3401);
    control.write(1, 1, 0x34);
    assert_eq!(b.power.offs.load(SeqCst), 3, "by bytes too");
    control.write(0, 2, 3 << 10 | 1 << 13);
    assert_eq!(b.power.offs.load(SeqCst), 3);
    assert_eq!(b.pm.event().read(0, 2), 0x8000, "awake again");
}

#[test]
fn general_purpose_events() {
    let b = board();
    let gpe = b.pm.gpe0();
    gpe.write(2, 1, 0x04);
    b.pm.raise_gpe(3);
    b.pm.raise_gpe(200);
    assert!(!b.sci.level());
    b.pm.raise_gpe(2);
    assert!(b.sci.level());
    assert_eq!(gpe.read(0, 4), 0x0004_000c);
    gpe.write(0, 1, 0x04);
    assert!(!b.sci.level());
}

#[test]
fn the_timer_runs_at_its_frequency() {
    let b = board();
    let timer = b.pm.timer();
    let ticks = || b.timers.clock().nanoseconds() as u128 * TIMER_HZ as u128 / 1_000_000_000;
    for _ in 0..100 {
        let (before, read, after) = (ticks(), timer.read(0, 4) as u128, ticks());
        assert!((before..=after).contains(&read));
    }
    timer.write(0, 4, 0);
}

#[test]
fn the_timer_carry_is_an_event() {
    let mut r = Registers::reset(24);
    // The top bit changes every 2^23 ticks: 2.3 seconds.
    r.settle(2_343_000_000);
    assert_eq!(r.status, 0);
    r.enable = registers::event::TIMER;
    let at = r.next_event().unwrap();
    assert_eq!(r.timer(at), 1 << 23);
    r.settle(at - 1);
    assert!(!r.sci());
    r.settle(at);
    assert!(r.sci());
    assert_eq!(r.next_event(), None);
    assert_eq!(r.timer(u64::MAX) >> 24, 0);
}

#[test]
fn reset_control_acts_on_the_rise() {
    let power = Arc::new(Power::default());
    let r = ResetControl::new(power.clone());
    r.write(0, 1, 0x02);
    r.write(0, 1, 0x06);
    r.write(0, 1, 0x06);
    assert_eq!(power.resets.load(SeqCst), 1);
    assert_eq!(r.read(0, 1), 6);
    r.write(0, 1, 0xf2);
    r.write(0, 1, 0x0e);
    assert_eq!(power.resets.load(SeqCst), 2);
    let Migrate::State(record) = r.migrate() else {
        panic!()
    };
    r.reset();
    assert_eq!(r.read(0, 1), 0);
    r.restore(&record).unwrap();
    assert_eq!(
        (r.read(0, 1), power.resets.load(SeqCst)),
        (0x0e, 2),
        "restoring does not reset"
    );
}

#[test]
fn an_enabled_24_bit_timer_interrupts() {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let sci = Arc::new(Probe::default());
    let pm = Pm::with_timer_width(
        &timers,
        sci.clone(),
        Arc::new(Power::default()),
        TimerWidth::Bits24,
    );
    pm.event().write(2, 2, 1);
    let start = Instant::now();
    while !sci.level() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(timers.clock().nanoseconds() >= 2_343_000_000);
}

proptest! {
    #[test]
    fn any_access_is_harmless(ops in prop::collection::vec((0u8..4, any::<bool>(), 0u16..4, 0u8..3, any::<u32>()), 0..200)) {
        let b = board();
        for (block, write, offset, size, value) in ops {
            let (window, len) = match block {
                0 => (b.pm.event(), EVENT_LEN),
                1 => (b.pm.control(), CONTROL_LEN),
                2 => (b.pm.timer(), TIMER_LEN),
                _ => (b.pm.gpe0(), GPE0_LEN),
            };
            let size = 1 << size;
            if offset as u64 + size as u64 > len {
                continue;
            }
            if write {
                window.write(offset, size, value);
            } else {
                window.read(offset, size);
            }
            let r = b.pm.registers.lock();
            prop_assert!(r.is_legal());
            prop_assert_eq!(b.sci.level(), r.sci());
        }
        let Migrate::State(record) = b.pm.migrate() else { panic!() };
        prop_assert_eq!(board().pm.restore(&record), Ok(()));
    }

    #[test]
    fn any_record_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let b = board();
        if b.pm.restore(&Record { kind: "pm".into(), version: 1, bytes }).is_ok() {
            b.pm.timer().read(0, 4);
            b.pm.event().read(0, 4);
        }
    }
}
