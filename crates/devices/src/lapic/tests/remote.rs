use super::*;
use donjon_engine::{LocalApics, Msi, RemoteApics};
use donjon_x86::ApicState;
use std::sync::Mutex;

#[derive(Default)]
struct Remote(Mutex<Vec<Msi>>, Mutex<Vec<Option<Msi>>>);

impl RemoteApics for Remote {
    fn deliver(&self, message: Msi) -> bool {
        self.0.lock().unwrap().push(message);
        true
    }
    fn set_levels(&self, pins: &[Option<Msi>]) {
        *self.1.lock().unwrap() = pins.to_vec();
    }
}

#[test]
fn messages_wait_and_then_go_where_the_apics_are() {
    let b = board(&[0]);
    let a = &b.apics[0];
    b.bus.hold();
    assert!(b.bus.deliver(&fixed(0x41, false)) && b.bus.deliver(&fixed(0x41, false)));
    assert_eq!(take(a), None);
    let remote = Arc::new(Remote::default());
    b.bus.release(Some(remote.clone()));
    assert!(b.bus.deliver(&fixed(0x42, true)));
    let sent: Vec<_> = remote.0.lock().unwrap().iter().map(|m| m.data & 0xff).collect();
    assert_eq!((sent, take(a)), (vec![0x41, 0x42], None));
    b.bus.hold();
    b.bus.deliver(&fixed(0x43, false));
    b.bus.release(None);
    assert_eq!(take(a), Some(0x43));
}

#[test]
fn a_remote_apic_hears_which_pins_are_levels() {
    let b = board(&[0]);
    let ioapic = IoApic::new(0, &b.bus);
    let remote = Arc::new(Remote::default());
    let select = |register: u64, value: u64| {
        ioapic.write(0, 4, register);
        ioapic.write(0x10, 4, value);
    };
    select(0x10 + 2 * 9, 0x8051);
    b.bus.release(Some(remote.clone()));
    assert_eq!(remote.1.lock().unwrap()[9].unwrap().data & 0xff, 0x51);
    select(0x10 + 2 * 9, 0x51);
    assert_eq!(remote.1.lock().unwrap()[9], None);
    select(0x10 + 2 * 9, 0x8051);
    ioapic.pin(9).set(true);
    assert_eq!(remote.0.lock().unwrap().len(), 1);
    // Asserted still: the end of the interrupt is the beginning of the next.
    LocalApics::end_of_interrupt(&*b.bus, 0x51);
    assert_eq!(remote.0.lock().unwrap().len(), 2);
}

#[test]
fn state_goes_from_one_to_another() {
    let (a, b) = (board(&[0]), board(&[0]));
    let (from, to) = (&a.apics[0], &b.apics[0]);
    a.bus.deliver(&fixed(0x51, true));
    assert_eq!(take(from), Some(0x51));
    a.bus.deliver(&fixed(0x41, false));
    from.set_cr8(3);
    from.page_write(0x320, 0x2_0060);
    from.page_write(0x3e0, 0xb);
    from.page_write(0x380, u32::MAX);
    let state = LocalApics::save(&*a.bus, 0);
    LocalApics::load(&*b.bus, 0, &state).unwrap();
    let arrived = LocalApics::save(&*b.bus, 0);
    assert!(arrived.current_count <= state.current_count && arrived.current_count > 0);
    assert_eq!(
        ApicState {
            current_count: state.current_count,
            ..arrived
        },
        state
    );
    assert_eq!(take(to), None, "0x51 is in service");
    eoi(to);
    assert_eq!(take(to), Some(0x41));
    let stranger = ApicState { id: 1, ..state };
    assert!(
        LocalApics::load(&*b.bus, 0, &stranger)
            .unwrap_err()
            .contains("local APIC 1")
    );
}

#[test]
fn a_deadline_goes_along_and_fires_where_it_is() {
    let (a, b) = (board(&[0]), board(&[0]));
    a.apics[0].page_write(0x320, 0x4_0060);
    a.apics[0].write_msr(IA32_TSC_DEADLINE, 1).unwrap();
    a.apics[0].write_msr(IA32_TSC_DEADLINE, u64::MAX / 2).unwrap();
    a.bus.hold();
    let mut state = LocalApics::save(&*a.bus, 0);
    assert_eq!(state.tsc_deadline, u64::MAX / 2);
    state.tsc_deadline = 1;
    state.irr = [0; 4];
    LocalApics::load(&*b.bus, 0, &state).unwrap();
    assert_eq!(take(&b.apics[0]), Some(0x60), "it is past");
    assert!(b.apics[0].read_msr(X2APIC_FIRST).is_err(), "still in xAPIC mode");
}
