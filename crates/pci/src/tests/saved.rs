use super::*;
use donjon_devices::Lifecycle;
use proptest::prelude::*;

fn record(b: &Board) -> Record {
    match b.bus.migrate() {
        Migrate::State(record) => record,
        other => panic!("{other:?}"),
    }
}

fn devices(samples: &[Arc<Sample>; 2]) -> Vec<Device> {
    vec![
        Device::at(3, samples[0].clone()),
        Device::at(4, samples[1].clone()),
    ]
}

#[test]
fn everything_moves_to_another_board() {
    let (from, to) = ([Sample::new(), Sample::new()], [Sample::new(), Sample::new()]);
    let (a, b) = (Board::new(devices(&from)), Board::new(devices(&to)));
    let (msix, table) = (a.capability(3, 17, None), a.bar(3, 1));
    a.set_config(3, 4, 2, 7);
    a.set_config(3, 0x10, 4, 0xd000_0000);
    a.io.mmio_write(table, 8, 0xfee0_1000);
    a.io.mmio_write(table + 8, 4, 0x33);
    a.set_config(3, msix + 2, 2, 0x8000);
    from[0].interrupts().msix(0);
    a.set_config(4, 4, 2, 3);
    from[1].interrupts().line(true);
    from[0].scratch.store(77, SeqCst);
    a.io.port_out(0xcf8, 4, 0x8000_1800);
    a.bus.request_removal(4).unwrap();
    // The other board is in some state too.
    b.set_config(3, 4, 2, 6);
    b.set_config(4, 0x20, 4, 0);

    b.bus.restore(&record(&a)).unwrap();
    assert_eq!(record(&b), record(&a));
    assert_eq!(
        b.io.mmio_read(0xd000_0004, 4),
        4,
        "the BAR is mapped where it was"
    );
    assert_eq!(
        (to[0].scratch.load(SeqCst), to[0].master.load(SeqCst)),
        (77, true)
    );
    assert_eq!(b.messages.take(), [], "still masked");
    b.io.mmio_write(table + 12, 4, 0);
    assert_eq!(b.messages.take(), [(0xfee0_1000, 0x33)], "the pending message");
    assert!(b.lines[4].0.load(SeqCst));
    assert_eq!(
        (b.io.port_in(0xcfc, 4), b.io.port_in(HOTPLUG + 4, 4)),
        (0x1042_1af4, 1 << 4)
    );
    b.bus.reset();
    let fresh = Board::new(devices(&[Sample::new(), Sample::new()]));
    to[0].scratch.store(0, SeqCst);
    assert_eq!(record(&b), record(&fresh), "a reset is as power-on");
}

#[test]
fn other_devices_are_refused() {
    let a = Board::with(Sample::new());
    let saved = record(&a);
    let small = Sample::with(vec![], 0);
    let vectors = Sample::with(Sample::new().bars.clone(), 4);
    for (devices, why) in [
        (vec![], "it has PCI functions [00, 18], this machine has [00]"),
        (vec![Device::at(4, Sample::new())], "this machine has [00, 20]"),
        (
            vec![Device::at(3, small)],
            "PCI device 03.0: another device was there",
        ),
        (
            vec![Device::at(3, vectors)],
            "PCI device 03.0: another device was there",
        ),
    ] {
        let b = Board::new(devices);
        let before = record(&b);
        let error = b.bus.restore(&saved).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(record(&b), before);
    }
    let wrong = Record { version: 99, ..saved };
    assert!(matches!(a.bus.restore(&wrong), Err(RestoreError::Version { .. })));
}

#[test]
fn a_function_that_cannot_be_moved_says_so() {
    struct Stuck;
    impl Function for Stuck {
        fn description(&self) -> Description {
            Sample::with(vec![], 0).description()
        }
        fn connect(&self, _: Arc<Interrupts>) {}
        fn read(&self, _: u8, _: u64, _: u8) -> u64 {
            0
        }
        fn write(&self, _: u8, _: u64, _: u8, _: u64) {}
        fn bus_master(&self, _: bool) {}
        fn reset(&self) {}
        fn migrate(&self) -> Migrate {
            Migrate::Refuse("it is nailed down".into())
        }
        fn restore(&self, _: &Record) -> Result<(), RestoreError> {
            Ok(())
        }
    }
    let b = Board::new(vec![Device::at(5, Arc::new(Stuck))]);
    assert_eq!(
        b.bus.migrate(),
        Migrate::Refuse("PCI device 05.0: it is nailed down".into())
    );
}

#[test]
fn a_board_that_is_dropped_is_gone() {
    let sample = Sample::new();
    let b = Board::with(sample.clone());
    let (bus, buses, weak) = (
        Arc::downgrade(&b.bus),
        Arc::downgrade(&b.io),
        Arc::downgrade(&sample),
    );
    drop((b, sample));
    assert!(
        bus.upgrade().is_none() && buses.upgrade().is_none() && weak.upgrade().is_none(),
        "a cycle of owners"
    );
}

proptest! {
    #[test]
    fn any_record_is_harmless(position: prop::sample::Index, value: u8, cut in any::<prop::option::Probability>()) {
        let b = Board::with(Sample::new());
        let mut saved = record(&b);
        let at = position.index(saved.bytes.len());
        saved.bytes[at] = value;
        if f64::from(cut) > 0.9 {
            saved.bytes.truncate(at);
        }
        if b.bus.restore(&saved).is_ok() {
            prop_assert_eq!(b.config(3, 0, 4), 0x1042_1af4);
            prop_assert_eq!(b.config(0, 0, 4), 0x0008_1b36);
            let again = record(&b);
            prop_assert_eq!(b.bus.restore(&again), Ok(()));
            prop_assert_eq!(record(&b), again);
        }
        prop_assert_eq!(b.io.mmio_read(FIXED, 1), 0xf1);
    }
}
