//! A whole board, used by several threads at once: nothing deadlocks, whatever guests and hosts do, and its
//! state moves to another board.

use donjon_devices::lapic::{self, ApicBus, LocalApic};
use donjon_devices::line::FanOut;
use donjon_devices::timer::Timers;
use donjon_devices::{Lifecycle, Migrate, PowerSink, bus::Buses, i8042, ioapic, pic, pit, pm, rtc, serial};
use donjon_engine::{Attention, Clock, CpuIo, LocalApic as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Power(AtomicUsize);

impl PowerSink for Power {
    fn power_off(&self) {
        self.0.fetch_add(1, SeqCst);
    }
    fn reset(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Board {
    buses: Arc<Buses>,
    apics: Vec<Arc<LocalApic>>,
    serial: Arc<serial::Serial>,
    pm: Arc<pm::Pm>,
    parts: Vec<Arc<dyn Lifecycle>>,
    timers: Timers,
}

fn board(vcpus: u32) -> Board {
    let power: Arc<dyn PowerSink> = Arc::new(Power::default());
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let bus = ApicBus::new();
    let apic = |id| {
        let config = lapic::Config {
            id,
            bootstrap: id == 0,
            physical_bits: 40,
        };
        LocalApic::new(config, &bus, Arc::new(Attention::default()), &timers)
    };
    let apics: Vec<_> = (0..vcpus).map(apic).collect();
    apics[0].virtual_wire();
    let pic = pic::Pic::new(apics[0].lint0());
    apics[0].connect_extint(&pic);
    let ioapic = ioapic::IoApic::new(0, &bus);
    let isa = |irq: u8| FanOut::pair(pic.irq(irq), ioapic.pin(if irq == 0 { 2 } else { irq }));
    let pit = pit::Pit::new(&timers, isa(0));
    let rtc = rtc::Rtc::new(&timers, isa(8));
    let serial = serial::Serial::new(&timers, isa(4), Box::new(std::io::sink()));
    let i8042 = i8042::I8042::new(isa(1), power.clone());
    let pm = pm::Pm::new(&timers, isa(9), power.clone());
    let reset = pm::ResetControl::new(power);
    let buses = Arc::new(Buses::default());
    let p = &buses.ports;
    p.add(0x20, 2, pic.first()).unwrap();
    p.add(0xa0, 2, pic.second()).unwrap();
    p.add(0x4d0, 2, pic.elcr()).unwrap();
    p.add(0x40, 4, pit.counters()).unwrap();
    p.add(0x61, 1, pit.port_b()).unwrap();
    p.add(0x70, 2, rtc.clone()).unwrap();
    p.add(0x3f8, serial::PORTS, serial.clone()).unwrap();
    p.add(0x60, 1, i8042.data()).unwrap();
    p.add(0x64, 1, i8042.command()).unwrap();
    p.add(0x600, pm::EVENT_LEN, pm.event()).unwrap();
    p.add(0x604, pm::CONTROL_LEN, pm.control()).unwrap();
    p.add(0x608, pm::TIMER_LEN, pm.timer()).unwrap();
    p.add(0x620, pm::GPE0_LEN, pm.gpe0()).unwrap();
    p.add(0xcf9, 1, reset.clone()).unwrap();
    buses
        .mmio
        .add(ioapic::ADDRESS, ioapic::LEN, ioapic.clone())
        .unwrap();
    let mut parts: Vec<Arc<dyn Lifecycle>> = Vec::new();
    parts.extend(apics.iter().map(|a| a.clone() as Arc<dyn Lifecycle>));
    parts.extend([
        pic as Arc<dyn Lifecycle>,
        ioapic,
        pit,
        rtc,
        serial.clone(),
        i8042,
        pm.clone(),
        reset,
    ]);
    Board {
        buses,
        apics,
        serial,
        pm,
        parts,
        timers,
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

const PORTS: [u16; 14] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x43, 0x61, 0x70, 0x71, 0x3f8, 0x600, 0x604, 0x620,
];

/// What a hostile vCPU may do in one step.
fn guest_step(b: &Board, a: &LocalApic, r: &mut Random) {
    let (v, w) = (r.next(), r.next() as u32);
    let port = PORTS[v as usize % PORTS.len()] + (v >> 8) as u16 % 8;
    let size = 1 << (v >> 16 & 1);
    match v >> 32 & 15 {
        0..=2 => b.buses.port_out(port, size, w),
        3..=4 => {
            b.buses.port_in(port, size);
        }
        5 => {
            b.buses.mmio_write(ioapic::ADDRESS, 4, w as u64 & 0x3f);
            b.buses
                .mmio_write(ioapic::ADDRESS + 0x10, 4, (v >> 40) & 0x1_ffff);
        }
        6 => a.page_write((v >> 40) as u16 & 0xff0, w),
        7 => {
            a.page_read((v >> 40) as u16 & 0xffc);
        }
        8 => a.page_write(0xf0, 0x1ff),
        9 => a.page_write(0x300, 0x40 | w & 0xc08ff),
        10 => drop(a.write_msr(
            donjon_x86::msr::IA32_TSC_DEADLINE,
            b.timers.clock().tsc() + w as u64 % 100_000,
        )),
        11 => a.set_cr8(w as u8 & 15),
        12 => a.init(),
        _ => {
            if a.attention().take(Attention::INTERRUPT) != 0 {
                a.acknowledge();
            }
            a.page_write(0xb0, 0);
        }
    }
}

#[test]
fn threads_of_every_kind_never_deadlock() {
    const STEPS: usize = 1_500_000;
    let b = board(2);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let guests: Vec<_> = (0..2)
            .map(|i| {
                let b = &b;
                s.spawn(move || {
                    let mut r = Random(0x9e37_79b9_7f4a_7c15 ^ i as u64);
                    (0..STEPS).for_each(|_| guest_step(b, &b.apics[i], &mut r));
                })
            })
            .collect();
        s.spawn(|| {
            while !done.load(SeqCst) {
                b.serial.push(b"typed by somebody\n");
                b.pm.press_power_button();
                b.pm.raise_gpe(3);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        s.spawn(|| {
            while !done.load(SeqCst) {
                b.timers.pause();
                b.timers.resume();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let start = Instant::now();
        while !guests.iter().all(|g| g.is_finished()) {
            // Aborting is all that is left: a deadlocked thread cannot be joined.
            if start.elapsed() > Duration::from_secs(300) {
                eprintln!("deadlock: the guests' threads do not get on");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        done.store(true, SeqCst);
    });
}

#[test]
fn everything_moves_to_another_board() {
    let b = board(2);
    let mut r = Random(7);
    for _ in 0..3000 {
        guest_step(&b, &b.apics[(r.next() & 1) as usize], &mut r);
    }
    b.timers.pause();
    let c = board(2);
    c.timers.pause();
    for (from, to) in b.parts.iter().zip(&c.parts) {
        let Migrate::State(record) = from.migrate() else {
            panic!("every part here has state")
        };
        to.restore(&record).unwrap_or_else(|e| panic!("{e}"));
        for other in &c.parts {
            let Migrate::State(own) = other.migrate() else {
                panic!()
            };
            assert!(
                own.kind == record.kind || other.restore(&record).is_err(),
                "{} took {}",
                own.kind,
                record.kind
            );
        }
    }
    c.timers.resume();
    c.parts.iter().for_each(|p| p.reset());
    assert!(
        c.apics.iter().all(|a| !a.pending()),
        "nothing is pending after a reset"
    );
}

#[test]
fn a_board_that_is_dropped_is_gone() {
    let b = board(2);
    let (apic, serial) = (Arc::downgrade(&b.apics[1]), Arc::downgrade(&b.serial));
    let part = Arc::downgrade(&b.parts[2]);
    drop(b);
    assert!(
        apic.upgrade().is_none() && serial.upgrade().is_none() && part.upgrade().is_none(),
        "a cycle of owners"
    );
}

#[test]
fn the_pit_interrupts_through_both_controllers() {
    let b = board(1);
    let (a, io) = (&b.apics[0], &b.buses);
    let wait = || {
        assert_ne!(
            a.attention()
                .wait(Attention::INTERRUPT, Some(Duration::from_secs(10)))
                & Attention::INTERRUPT,
            0
        );
        a.attention().take(Attention::INTERRUPT);
        a.acknowledge()
    };
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        io.port_out(port, 1, value);
    }
    io.port_out(0x43, 1, 0x34);
    io.port_out(0x40, 1, 0x00);
    io.port_out(0x40, 1, 0x10);
    for _ in 0..3 {
        assert_eq!(wait(), Some(0x30));
        io.port_out(0x20, 1, 0x20);
    }
    io.port_out(0x21, 1, 0xff);
    a.attention().take(Attention::INTERRUPT);
    io.mmio_write(ioapic::ADDRESS, 4, 0x14);
    io.mmio_write(ioapic::ADDRESS + 0x10, 4, 0x51);
    for _ in 0..3 {
        assert_eq!(wait(), Some(0x51));
        a.page_write(0xb0, 0);
    }
}
