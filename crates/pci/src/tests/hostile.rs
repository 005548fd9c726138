use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Config {
        slot: u8,
        function: u8,
        register: u16,
        size: u8,
        value: u32,
    },
    Bar {
        slot: u8,
        bar: u8,
        value: u32,
    },
    Command {
        slot: u8,
        value: u8,
    },
    Legacy {
        address: u32,
        offset: u16,
        size: u8,
        value: u32,
    },
    Table {
        slot: u8,
        offset: u16,
        wide: bool,
        value: u64,
    },
    Hotplug {
        offset: u16,
        size: u8,
        value: u32,
    },
    Add {
        slot: u8,
    },
    Request {
        slot: u8,
    },
    Interrupt {
        vector: u16,
        level: bool,
    },
}

/// Addresses worth trying: near what must not be shadowed, near windows' ends, and anything.
fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0u32),
        Just(0xe000_0000),
        Just(0xfec0_0000),
        Just(0xfee0_0000),
        Just(0x80),
        Just(0xff),
        Just(0xffff_ffff),
        Just(0xdfff_c000),
        0xc000_0000u32..0xc001_0000,
        any::<u32>(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (slot, size) = (0u8..6, (0u32..3).prop_map(|s| 1u8 << s));
    prop_oneof![
        (slot.clone(), 0u8..8, 0u16..0x1000, size.clone(), any::<u32>()).prop_map(
            |(slot, function, register, size, value)| Op::Config {
                slot,
                function,
                register,
                size,
                value
            }
        ),
        (slot.clone(), 0u8..6, address()).prop_map(|(slot, bar, value)| Op::Bar { slot, bar, value }),
        (slot.clone(), any::<u8>()).prop_map(|(slot, value)| Op::Command { slot, value }),
        (any::<u32>(), 0u16..8, size.clone(), any::<u32>()).prop_map(|(address, offset, size, value)| {
            Op::Legacy {
                address,
                offset,
                size,
                value,
            }
        }),
        (slot.clone(), 0u16..0x2000, any::<bool>(), any::<u64>()).prop_map(|(slot, offset, wide, value)| {
            Op::Table {
                slot,
                offset,
                wide,
                value,
            }
        }),
        (0u16..12, size, any::<u32>()).prop_map(|(offset, size, value)| Op::Hotplug { offset, size, value }),
        slot.clone().prop_map(|slot| Op::Add { slot }),
        slot.prop_map(|slot| Op::Request { slot }),
        (0u16..8, any::<bool>()).prop_map(|(vector, level)| Op::Interrupt { vector, level }),
    ]
}

fn apply(b: &Board, samples: &[Arc<Sample>], op: Op) {
    match op {
        Op::Config {
            slot,
            function,
            register,
            size,
            value,
        } => {
            let at = u64::from(function) << 12 | u64::from(register);
            b.config(slot, at, size);
            b.set_config(slot, at, size, value);
        }
        Op::Bar { slot, bar, value } => b.set_config(slot, 0x10 + 4 * u64::from(bar), 4, value),
        Op::Command { slot, value } => b.set_config(slot, 4, 1, value.into()),
        Op::Legacy {
            address,
            offset,
            size,
            value,
        } => {
            b.io.port_out(0xcf8, 4, address & 0x8000_3fff);
            b.io.port_in(0xcf8 + offset, size);
            b.io.port_out(0xcf8 + offset, size, value);
        }
        Op::Table {
            slot,
            offset,
            wide,
            value,
        } => {
            let at = b.bar(slot, MSIX_BAR.into()).wrapping_add(u64::from(offset));
            b.io.mmio_write(at, if wide { 8 } else { 4 }, value);
            b.io.mmio_read(at, if wide { 8 } else { 4 });
        }
        Op::Hotplug { offset, size, value } => {
            b.io.port_in(HOTPLUG + offset, size);
            b.io.port_out(HOTPLUG + offset, size, value);
        }
        Op::Add { slot } => drop(b.bus.add(Device::at(slot, Sample::new()))),
        Op::Request { slot } => drop(b.bus.request_removal(slot)),
        Op::Interrupt { vector, level } => samples.iter().for_each(|s| {
            s.interrupts().msix(vector);
            s.interrupts().line(level);
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// No panic, nothing fixed is shadowed, nothing appears outside the windows, and what is saved can be restored.
    #[test]
    fn any_sequence_is_harmless(ops in prop::collection::vec(op(), 0..150)) {
        let samples: Vec<_> = (0..4).map(|_| Sample::new()).collect();
        let b = Board::new(vec![
            Device::at(1, samples[0].clone()),
            Device { slot: Some(2), functions: vec![samples[1].clone(), samples[2].clone()] },
            Device::at(4, samples[3].clone()),
        ]);
        for op in ops {
            apply(&b, &samples, op);
            prop_assert_eq!(b.io.mmio_read(FIXED, 1), 0xf1);
            prop_assert_eq!(b.config(0, 0, 4), 0x0008_1b36);
            prop_assert_eq!(b.io.port_in(0xcf9, 1), 0xf1);
        }
        let ram = [0, 0x1000, 0x10_0000, 0xbfff_f000, 0x1_0000_0000, (1 << 39) - 0x1000];
        let other = [0xfee0_0000, 0xf000_0000, 1 << 40, u64::MAX - 0xfff];
        for address in ram.into_iter().chain(other) {
            prop_assert_eq!(b.io.mmio_read(address, 8), u64::MAX, "{:#x}", address);
        }
        let Migrate::State(record) = donjon_devices::Lifecycle::migrate(&*b.bus) else { panic!() };
        prop_assert_eq!(donjon_devices::Lifecycle::restore(&*b.bus, &record), Ok(()));
        prop_assert_eq!(donjon_devices::Lifecycle::migrate(&*b.bus), Migrate::State(record));
    }
}
