mod countdown;
mod harmless;
mod modes;
mod priority;
mod remote;
mod routing;
mod wires;

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
