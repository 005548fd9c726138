use super::*;
use std::time::Duration;

const INSERTED: u16 = HOTPLUG;
const REMOVAL: u16 = HOTPLUG + 4;
const EJECT: u16 = HOTPLUG + 8;

#[test]
fn a_device_is_added_used_and_removed_again_and_again() {
    let b = Board::new(vec![]);
    let removed = Arc::new(Mutex::new(vec![]));
    let seen = removed.clone();
    b.bus.on_removal(move |slot| seen.lock().unwrap().push(slot));
    for round in 0..3 {
        let sample = Sample::new();
        let weak = Arc::downgrade(&sample);
        assert_eq!(b.bus.add(Device::new(sample.clone())), Ok(1));
        assert_eq!(b.events.load(SeqCst), round * 2 + 1);
        assert_eq!(b.io.port_in(INSERTED, 4), 2);
        b.io.port_out(INSERTED, 4, 2);
        assert_eq!(b.io.port_in(INSERTED, 4), 0);
        assert_eq!(
            (b.config(1, 0, 4), b.config(1, 4, 2)),
            (0x1042_1af4, 0),
            "decoding is off"
        );
        let bar = b.bar(1, 0);
        assert!(LOW.contains(&bar), "assigned");
        b.set_config(1, 4, 2, 6);
        assert_eq!(b.io.mmio_read(bar, 4), 0);

        let removal = b.bus.request_removal(1).unwrap();
        assert_eq!((b.io.port_in(REMOVAL, 4), b.io.port_in(INSERTED, 4)), (2, 0));
        b.io.port_out(REMOVAL, 4, 2);
        assert!(!removal.is_done() && !removal.wait(Duration::ZERO));
        assert_eq!(b.config(1, 0, 4), 0x1042_1af4, "there until the guest lets go");
        sample.interrupts().line(true);
        sample.log();
        b.io.port_out(EJECT, 4, 2);
        assert!(removal.is_done() && removal.wait(Duration::from_secs(100)));
        assert_eq!(sample.log(), ["master false", "reset"]);
        assert_eq!(
            (b.config(1, 0, 4), b.io.mmio_read(bar, 4)),
            (u32::MAX, 0xffff_ffff)
        );
        sample.interrupts().line(true);
        assert!(
            b.lines.iter().all(|l| !l.0.load(SeqCst)),
            "it is not heard any more"
        );
        drop(sample);
        assert!(weak.upgrade().is_none(), "the board lets go of it");
    }
    assert_eq!(*removed.lock().unwrap(), [1, 1, 1]);
}

#[test]
fn slots() {
    let b = Board::new(vec![Device::new(Sample::new()), Device::at(1, Sample::new())]);
    assert_eq!(b.bus.slots(), [1, 2], "who wants a slot gets it");
    let at = |slot| b.bus.add(Device::at(slot, Sample::new()));
    assert_eq!(
        (at(0), at(32), at(255)),
        (
            Err(PlugError::NoSlot(0)),
            Err(PlugError::NoSlot(32)),
            Err(PlugError::NoSlot(255))
        )
    );
    assert_eq!((at(2), at(31)), (Err(PlugError::Taken(2)), Ok(31)));
    assert_eq!(
        b.bus.add(Device {
            slot: None,
            functions: vec![]
        }),
        Err(PlugError::Functions(0))
    );
    for slot in [0, 3, 32, 255] {
        assert_eq!(b.bus.request_removal(slot).err(), Some(NotPlugged(slot)));
        assert_eq!(b.bus.remove_now(slot), Err(NotPlugged(slot)));
    }
    for slot in 3..31 {
        assert_eq!(b.bus.add(Device::new(Sample::with(vec![], 0))), Ok(slot));
    }
    assert_eq!(b.bus.add(Device::new(Sample::new())), Err(PlugError::Full));
    b.bus.remove_now(7).unwrap();
    b.bus.remove_now(9).unwrap();
    b.io.port_out(REMOVAL, 4, 1 << 9);
    assert_eq!(
        b.bus.add(Device::new(Sample::new())),
        Ok(9),
        "first one the guest knows is empty"
    );
    assert_eq!(b.bus.add(Device::new(Sample::new())), Ok(7), "then any");
}

#[test]
fn pulling_a_device_out_tells_the_guest() {
    let b = Board::with(Sample::new());
    let removal = b.bus.request_removal(3).unwrap();
    b.io.port_out(REMOVAL, 4, 8);
    b.bus.remove_now(3).unwrap();
    assert!(removal.is_done());
    assert_eq!((b.io.port_in(REMOVAL, 4), b.events.load(SeqCst)), (8, 2));
    assert_eq!(b.config(3, 0, 4), u32::MAX);
    b.io.port_out(REMOVAL, 4, 8);
    b.io.port_out(EJECT, 4, 8);
    assert_eq!(b.bus.slots(), []);
}

#[test]
fn registers_take_any_width_and_the_host_bridge_stays() {
    let b = Board::with(Sample::new());
    b.bus.add(Device::at(9, Sample::new())).unwrap();
    assert_eq!(
        (b.io.port_in(INSERTED + 1, 1), b.io.port_in(INSERTED, 2)),
        (2, 0x200)
    );
    b.io.port_out(INSERTED, 1, 0xff);
    assert_eq!(b.io.port_in(INSERTED, 4), 0x200);
    b.io.port_out(INSERTED + 1, 1, 2);
    assert_eq!(b.io.port_in(INSERTED, 4), 0);
    b.io.port_out(EJECT, 1, 1);
    assert_eq!(b.config(0, 0, 4), 0x0008_1b36);
    b.io.port_out(EJECT + 1, 1, 2);
    assert_eq!((b.config(9, 0, 4), b.config(3, 0, 4)), (u32::MAX, 0x1042_1af4));
    b.io.port_out(EJECT, 4, u32::MAX);
    assert_eq!((b.bus.slots(), b.config(0, 0, 4)), (vec![], 0x0008_1b36));
    assert_eq!(b.io.port_in(EJECT, 4), 0);
}

#[test]
fn a_multi_function_device_comes_and_goes_as_one() {
    let b = Board::new(vec![]);
    let functions: Vec<Arc<dyn Function>> = (0..8).map(|_| Sample::new() as _).collect();
    let nine = Device {
        slot: None,
        functions: (0..9).map(|_| Sample::new() as _).collect(),
    };
    assert_eq!(b.bus.add(nine), Err(PlugError::Functions(9)));
    assert_eq!(
        b.bus.add(Device {
            slot: Some(4),
            functions
        }),
        Ok(4)
    );
    let vendor = |f: u64| b.config(4, f << 12, 2);
    assert!((0..8).all(|f| vendor(f) == 0x1af4));
    b.io.port_out(EJECT, 4, 1 << 4);
    assert!((0..8).all(|f| vendor(f) == 0xffff));
}

/// vCPUs that use and eject devices while the host plugs them in and out.
#[test]
fn everybody_at_once() {
    let b = Board::new(vec![]);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = Stop(&done);
        for seed in 1..3u64 {
            let (b, done) = (&b, &done);
            s.spawn(move || {
                let mut r = seed;
                while !done.load(SeqCst) {
                    r = r.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (slot, v) = ((r >> 60) as u8 % 4, (r >> 20) as u32);
                    match r >> 40 & 7 {
                        0 => b.io.port_out(EJECT, 4, 1 << slot),
                        1 => b.set_config(slot, 4, 2, v & 7),
                        2 => b.set_config(slot, 0x10, 4, v),
                        3 => b.set_config(slot, u64::from(v & 0xfc), 4, v),
                        4 => drop(b.io.mmio_read(LOW.start + u64::from(v & 0xffff), 4)),
                        5 => b.io.mmio_write(LOW.start + u64::from(v & 0xffff), 8, r),
                        _ => drop(b.config(slot, u64::from(v & 0xfc), 4)),
                    }
                }
            });
        }
        for i in 0..500 {
            let sample = Sample::new();
            let Ok(slot) = b.bus.add(Device::new(sample.clone())) else {
                b.bus.slots().into_iter().for_each(|s| {
                    // A vCPU may have been faster.
                    let _ = b.bus.remove_now(s);
                });
                continue;
            };
            sample.interrupts().line(i % 2 == 0);
            sample.interrupts().msix(i % 4);
            let removal = b.bus.request_removal(slot);
            if i % 3 == 0 {
                let _ = b.bus.remove_now(slot);
                assert!(removal.is_err() || removal.is_ok_and(|r| r.is_done()));
            }
        }
    });
    b.io.port_out(EJECT, 4, u32::MAX);
    assert!(b.lines.iter().all(|l| !l.0.load(SeqCst)));
    assert!(
        (LOW.start..LOW.start + 0x20_0000)
            .step_by(0x1000)
            .all(|a| b.io.mmio_read(a, 4) == 0xffff_ffff)
    );
}
