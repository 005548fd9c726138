use super::uart::{fcr, iir, lcr, lsr, msr};
use super::*;
use crate::line::probe::Probe;
use donjon_engine::Clock;
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(10);

/// Collects output; if there is a gate, each write waits for it.
#[derive(Clone, Default)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    gate: Option<Arc<Mutex<Receiver<()>>>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(gate) = &self.gate {
            let _ = gate.lock().unwrap().recv();
        }
        self.bytes.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Board {
    serial: Arc<Serial>,
    irq: Arc<Probe>,
    sink: Sink,
    _timers: Timers,
}

fn board_with(sink: Sink) -> Board {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let irq = Arc::new(Probe::default());
    let serial = Serial::new(&timers, irq.clone(), Box::new(sink.clone()));
    Board {
        serial,
        irq,
        sink,
        _timers: timers,
    }
}

fn board() -> Board {
    board_with(Sink::default())
}

impl Board {
    fn out(&self, register: u16, value: u8) {
        self.serial.write(register, 1, value as u32);
    }
    fn input(&self, register: u16) -> u8 {
        self.serial.read(register, 1) as u8
    }
    fn output(&self) -> Vec<u8> {
        assert!(self.serial.flush(SOON));
        std::mem::take(&mut *self.sink.bytes.lock().unwrap())
    }
    /// As a driver opens the port.
    fn open(&self) {
        self.out(2, fcr::ENABLE | 0x06);
        self.out(2, fcr::ENABLE | 0x80);
        self.out(4, mcr::DTR | mcr::RTS | mcr::OUT2);
        self.out(1, ier::RECEIVED | ier::LINE_STATUS);
    }
    /// A driver's interrupt handler: everything that can be read.
    fn drain(&self) -> Vec<u8> {
        let mut got = Vec::new();
        while self.input(5) & lsr::DATA_READY != 0 {
            got.push(self.input(0));
        }
        got
    }
}

#[test]
fn output_is_gathered_and_flushed() {
    let b = board();
    for byte in b"donjon\r\n" {
        assert_eq!(b.input(5) & 0x60, 0x60);
        b.out(0, *byte);
    }
    assert_eq!(b.output(), b"donjon\r\n");
    let quiet = Instant::now();
    b.out(0, b'x');
    while b.sink.bytes.lock().unwrap().is_empty() {
        assert!(quiet.elapsed() < SOON, "written without being asked");
    }
    let Sink { bytes, .. } = b.sink.clone();
    b.out(0, b'y');
    drop(b);
    let dropped = Instant::now();
    while *bytes.lock().unwrap() != b"xy" {
        assert!(
            dropped.elapsed() < SOON,
            "what was queued is written after the port is gone"
        );
    }
}

#[test]
fn transmitter_interrupts() {
    let b = board();
    b.out(1, ier::TRANSMIT_EMPTY);
    assert!(b.irq.level(), "enabling it is a cause");
    assert_eq!(b.input(2), iir::TRANSMIT_EMPTY);
    assert!(!b.irq.level(), "reading IIR withdraws it");
    assert_eq!(b.input(2), iir::NONE);
    b.out(0, b'a');
    assert!(b.irq.level(), "empty again");
    b.input(2);
    // serial8250_do_startup's test for chips that forget: off and on again interrupts again.
    b.out(1, 0);
    b.out(1, ier::TRANSMIT_EMPTY);
    assert_eq!(b.input(2), iir::TRANSMIT_EMPTY);
}

#[test]
fn receiver_interrupts_and_priorities() {
    let b = board();
    b.serial.set_pace(0);
    b.open();
    b.out(1, 0x0f);
    b.input(2);
    assert!(!b.irq.level());
    assert_eq!(b.serial.push(b"abc"), 3);
    assert!(b.irq.level());
    assert_eq!(
        b.input(2),
        iir::FIFOS | iir::TIMEOUT,
        "below the trigger level of 8"
    );
    b.serial.push_break();
    assert_eq!(
        b.input(2),
        iir::FIFOS | iir::LINE_STATUS,
        "line status comes first"
    );
    assert_eq!(b.input(5), lsr::DATA_READY | lsr::BREAK | 0x60 | 0x80);
    assert_eq!(b.drain(), b"abc\0");
    assert!(!b.irq.level());
    b.serial.port.lock().wire_free = 0;
    b.serial.push(b"12345678");
    assert_eq!(b.input(2), iir::FIFOS | iir::RECEIVED);
    b.input(0);
    assert_eq!(b.input(2), iir::FIFOS | iir::TIMEOUT);
    b.serial.set_pace(PACE);
    b.out(2, fcr::ENABLE | fcr::CLEAR_RECEIVER);
    assert_eq!(b.input(2), iir::FIFOS | iir::NONE);
}

#[test]
fn loopback_and_modem_status() {
    let b = board();
    assert_eq!(b.input(6), msr::CTS | msr::DSR | msr::DCD);
    // autoconfig(): OUT2 and RTS loop back to DCD and CTS.
    b.out(4, mcr::LOOP | 0x0a);
    assert_eq!(b.input(6) & 0xf0, 0x90);
    b.out(1, ier::MODEM_STATUS);
    b.out(4, mcr::LOOP | mcr::DTR);
    assert_eq!(b.input(2), iir::MODEM_STATUS);
    assert_eq!(b.input(6), msr::DSR | 0x0b);
    assert_eq!(b.input(2), iir::NONE);
    b.out(4, mcr::LOOP | mcr::DTR | mcr::OUT1);
    assert_eq!(b.input(6), msr::DSR | msr::RI);
    b.out(4, mcr::LOOP | mcr::DTR);
    assert_eq!(b.input(6), msr::DSR | 0x04, "a ring counts when it ends");
    b.out(0, b'z');
    b.out(0, b'y');
    assert_eq!(
        b.input(5) & (lsr::DATA_READY | lsr::OVERRUN),
        3,
        "one byte of room without FIFOs"
    );
    assert_eq!(b.input(0), b'z');
    assert!(b.output().is_empty());
}

#[test]
fn a_16550a_is_recognized() {
    let b = board();
    // autoconfig(): scratch, FIFO bits, divisor latch.
    b.out(7, 0x5a);
    assert_eq!(b.input(7), 0x5a);
    b.out(1, 0xff);
    assert_eq!(b.input(1), 0x0f);
    b.out(1, 0);
    b.out(2, fcr::ENABLE);
    assert_eq!(b.input(2) >> 6, 3);
    b.out(3, lcr::DLAB);
    b.out(0, 1);
    b.out(1, 2);
    assert_eq!((b.input(0), b.input(1)), (1, 2));
    b.out(3, 3);
    assert_eq!((b.input(1), b.input(3)), (0, 3));
}

#[test]
fn a_driver_that_empties_the_receiver_while_it_starts_loses_nothing() {
    let b = board();
    b.serial.push(b"typed before the driver was there");
    let mut got = vec![];
    // As serial8250_do_startup does it: twice over, and reading the receiver "for luck" at the end.
    for _ in 0..2 {
        b.out(2, fcr::ENABLE | 0x06);
        b.out(1, ier::RECEIVED);
        for _ in 0..3 {
            if b.input(5) & lsr::DATA_READY != 0 {
                got.push(b.input(0));
            }
        }
    }
    assert_eq!(got, b"");
    let start = Instant::now();
    while got.len() < 33 {
        got.extend(b.drain());
        assert!(start.elapsed() < SOON);
    }
    assert_eq!(got, b"typed before the driver was there");
}

#[test]
fn input_waits_for_a_listener() {
    let b = board();
    b.serial.set_pace(0);
    assert_eq!(b.serial.push(b"early"), 5);
    assert_eq!(b.input(5) & lsr::DATA_READY, 0);
    b.out(2, fcr::ENABLE | 0x06);
    b.open();
    assert!(b.irq.level());
    assert_eq!(b.drain(), b"early", "not lost to the driver's FIFO reset");
    // RTS drops: the wire stops; what is in the FIFO is there.
    b.out(4, mcr::DTR | mcr::OUT2);
    b.serial.push(b"x");
    assert_eq!(b.drain(), b"");
    b.out(4, mcr::DTR | mcr::RTS | mcr::OUT2);
    let start = Instant::now();
    while !b.irq.level() {
        assert!(start.elapsed() < SOON);
    }
    assert_eq!(b.drain(), b"x");
    // A loader that polls.
    let b = board();
    b.serial.push(b"y");
    let polled = (0..100).find(|_| b.input(5) & lsr::DATA_READY != 0);
    assert!(polled.is_some());
    assert_eq!(b.input(0), b'y');
}

#[test]
fn megabytes_of_input_arrive_with_back_pressure() {
    const SIZE: usize = 2 << 20;
    let b = board();
    b.serial.set_pace(0);
    b.open();
    let (room, wait): (Sender<()>, Receiver<()>) = channel();
    let room = Mutex::new(room);
    b.serial
        .on_room(move || room.lock().unwrap().send(()).unwrap_or_default());
    let data: Vec<u8> = (0..SIZE).map(|i| (i / 8 * 31) as u8).collect();
    let refusals = AtomicUsize::new(0);
    let got = std::thread::scope(|s| {
        let (b, data, refusals) = (&b, &data, &refusals);
        s.spawn(move || {
            let mut rest = &data[..];
            loop {
                rest = &rest[b.serial.push(rest)..];
                if rest.is_empty() {
                    return;
                }
                refusals.fetch_add(1, SeqCst);
                wait.recv_timeout(SOON).expect("told of room");
            }
        });
        let (mut got, start) = (Vec::with_capacity(SIZE), Instant::now());
        while got.len() < SIZE {
            got.extend(b.drain());
            assert!(start.elapsed() < 6 * SOON);
        }
        got
    });
    assert!(got == data);
    assert!(refusals.load(SeqCst) > SIZE / BACKLOG / 2);
}

#[test]
fn input_keeps_its_pace() {
    let b = board();
    b.serial.set_pace(16_000);
    b.open();
    let start = Instant::now();
    b.serial.push(&[7; 160]);
    let mut got = 0;
    while got < 160 {
        got += b.drain().len();
        assert!(start.elapsed() < SOON);
    }
    assert!(
        start.elapsed() >= Duration::from_millis(9),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_reader_that_stalls_holds_the_transmitter_and_nothing_else() {
    let (go, gate) = channel();
    let b = board_with(Sink {
        gate: Some(Arc::new(Mutex::new(gate))),
        ..Sink::default()
    });
    b.out(1, ier::TRANSMIT_EMPTY);
    let mut sent = 0;
    while b.input(5) & lsr::THR_EMPTY != 0 {
        b.out(0, sent as u8);
        sent += 1;
        assert!(sent < 1 << 20);
    }
    b.input(2);
    assert!(!b.irq.level());
    assert!(!b.serial.flush(Duration::from_millis(5)));
    drop(go);
    let start = Instant::now();
    while !b.irq.level() {
        assert!(start.elapsed() < SOON, "the transmitter is empty again");
    }
    assert_eq!(b.input(5) & 0x60, 0x60);
    assert_eq!(b.output(), (0..sent).map(|i| i as u8).collect::<Vec<_>>());
}

#[test]
fn reset_and_restore() {
    let b = board();
    b.open();
    b.serial.push(&[9; 100]);
    let Migrate::State(record) = b.serial.migrate() else {
        panic!()
    };
    b.serial.reset();
    assert!(!b.irq.level());
    assert!(
        b.serial.has_input(),
        "what has not reached the FIFO is for the next system"
    );
    let c = board();
    c.serial.restore(&record).unwrap();
    assert!(c.irq.level());
    let (mut n, start) = (0, Instant::now());
    while n < 100 {
        n += c.drain().len();
        assert!(start.elapsed() < SOON);
    }
}

proptest! {
    #[test]
    fn any_access_is_harmless(ops in prop::collection::vec((0u8..8, any::<u8>(), any::<u8>()), 0..300)) {
        let b = board();
        for (op, at, value) in ops {
            match op {
                0..=3 => b.out(at as u16 % 8, value),
                4..=5 => drop(b.input(at as u16 % 8)),
                6 => drop(b.serial.push(&vec![value; at as usize * 64])),
                _ => b.serial.push_break(),
            }
            let p = b.serial.port.lock();
            prop_assert!(p.state.uart.is_legal());
            prop_assert!(p.state.backlog.len() <= BACKLOG + FIFO);
            prop_assert_eq!(b.irq.level(), p.state.uart.interrupting());
        }
        let Migrate::State(record) = b.serial.migrate() else { panic!() };
        prop_assert_eq!(board().serial.restore(&record), Ok(()));
    }

    #[test]
    fn any_record_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let b = board();
        if b.serial.restore(&Record { kind: "serial".into(), version: 1, bytes }).is_ok() {
            b.drain();
        }
    }
}
