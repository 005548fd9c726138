use super::*;
use crate::lapic::{Config, LocalApic};
use crate::timer::Timers;
use donjon_engine::{Attention, Clock, LocalApic as _};
use proptest::prelude::*;

fn board() -> (Timers, Arc<LocalApic>, Arc<IoApic>) {
    let timers = Timers::new(Arc::new(Clock::new(Clock::DEFAULT_HZ)));
    let bus = ApicBus::new();
    let config = Config {
        id: 0,
        bootstrap: true,
        physical_bits: 40,
    };
    let apic = LocalApic::new(config, &bus, Arc::new(Attention::default()), &timers);
    apic.page_write(0xf0, 0x1ff);
    (timers, apic, IoApic::new(2, &bus))
}

fn get(io: &IoApic, register: u8) -> u32 {
    io.write(IOREGSEL, 4, register as u64);
    io.read(IOWIN, 4) as u32
}

fn set(io: &IoApic, register: u8, value: u32) {
    io.write(IOREGSEL, 4, register as u64);
    io.write(IOWIN, 4, value as u64);
}

fn entry(io: &IoApic, pin: u8, value: u64) {
    set(io, REG_TABLE + 2 * pin + 1, (value >> 32) as u32);
    set(io, REG_TABLE + 2 * pin, value as u32);
}

#[test]
fn identifies_itself() {
    let (_t, _a, io) = board();
    assert_eq!(get(&io, REG_ID), 2 << 24);
    assert_eq!(get(&io, REG_VERSION), 0x17_0020);
    set(&io, REG_ID, 0xff00_0000);
    assert_eq!(get(&io, REG_ID), 0x0f00_0000);
    assert_eq!(get(&io, REG_TABLE), 0x1_0000, "masked after reset");
    assert_eq!(get(&io, 0x3f), 0);
    assert_eq!(get(&io, 0x40), 0);
    io.write(IOREGSEL, 4, REG_VERSION as u64);
    assert_eq!(io.read(IOWIN + 2, 1) & 0xff, 0x17);
}

#[test]
fn an_edge_is_delivered_once_and_a_masked_one_is_lost() {
    let (_t, a, io) = board();
    let pin = io.pin(4);
    pin.set(true);
    entry(&io, 4, 0x41);
    assert!(!a.pending());
    pin.set(false);
    pin.set(true);
    pin.set(true);
    assert_eq!((a.acknowledge(), a.acknowledge()), (Some(0x41), None));
}

#[test]
fn a_level_asserted_while_masked_is_delivered_when_unmasked() {
    let (_t, a, io) = board();
    io.pin(20).set(true);
    entry(&io, 20, Entry::MASKED | Entry::LEVEL | 0x52);
    assert!(!a.pending());
    entry(&io, 20, Entry::LEVEL | 0x52);
    assert_eq!(a.acknowledge(), Some(0x52));
    assert_eq!(get(&io, REG_TABLE + 40), 0xc052);
    set(&io, REG_TABLE + 40, 0x8052);
    assert_eq!(get(&io, REG_TABLE + 40), 0xc052, "remote IRR is read-only");
    // The by-hand EOI of older kernels: an edge for a moment.
    set(&io, REG_TABLE + 40, Entry::MASKED as u32 | 0x52);
    assert_eq!(get(&io, REG_TABLE + 40), 0x1_0052);
}

#[test]
fn a_level_that_nobody_accepts_waits() {
    let (_t, a, io) = board();
    entry(&io, 7, Entry::LEVEL | 0x52 | 9 << 56);
    let pin = io.pin(7);
    pin.set(true);
    assert_eq!(get(&io, REG_TABLE + 14) & Entry::REMOTE_IRR as u32, 0);
    entry(&io, 7, Entry::LEVEL | 0x52);
    assert_eq!(a.acknowledge(), Some(0x52));
}

proptest! {
    #[test]
    fn any_access_is_harmless(ops in prop::collection::vec((0u8..6, any::<u16>(), any::<u32>()), 0..200)) {
        let (_t, a, io) = board();
        for (op, at, value) in ops {
            match op {
                0 => drop(io.read(at as u64 % LEN, 4)),
                1 => io.write(at as u64 % LEN, 4, value as u64),
                2 => set(&io, at as u8 % 0x50, value),
                3 => drop(get(&io, at as u8)),
                4 => io.pin(at as u8 % 32).set(value & 1 != 0),
                _ => {
                    a.acknowledge();
                    a.page_write(0xb0, 0);
                }
            }
            let r = io.registers.lock();
            for e in r.table {
                prop_assert_eq!(e.0 & !(Entry::WRITABLE | Entry::REMOTE_IRR), 0);
                prop_assert!(!e.in_service() || e.level());
            }
        }
        let Migrate::State(record) = io.migrate() else { panic!() };
        prop_assert_eq!(io.restore(&record), Ok(()));
    }
}
