//! Saved state, and accesses without any sense.

use super::*;

#[test]
fn state_survives_and_damage_is_found() {
    let (b, a) = one();
    b.bus.deliver(&fixed(0x31, true));
    b.bus.deliver(&fixed(0x61, false));
    assert_eq!(take(&a), Some(0x61));
    a.attention.raise(Attention::NMI);
    a.attention.raise_sipi(0x9f);
    let Migrate::State(record) = a.migrate() else {
        panic!()
    };
    let (_c, other) = one();
    other.restore(&record).unwrap();
    assert_eq!(other.page_read(offset::PPR), 0x60);
    assert_eq!(other.attention.take(Attention::NMI), Attention::NMI);
    assert_eq!(other.attention.take_sipi(), Some(0x9f));
    other.end_of_interrupt();
    assert_eq!(take(&other), Some(0x31));
    assert_eq!(other.page_read(offset::TMR + 0x10), 1 << 17);
    for cut in 0..record.bytes.len() {
        let bad = Record {
            bytes: record.bytes[..cut].to_vec(),
            ..record.clone()
        };
        assert!(matches!(other.restore(&bad), Err(RestoreError::Damaged { .. })));
    }
    let newer = Record {
        version: 2,
        ..record.clone()
    };
    assert!(matches!(
        other.restore(&newer),
        Err(RestoreError::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
    let foreign = Record {
        kind: "pit".into(),
        ..record
    };
    assert!(matches!(other.restore(&foreign), Err(RestoreError::Kind { .. })));
}

proptest! {
    /// Whatever a guest writes, in either mode: no panic, priorities hold, state survives.
    #[test]
    fn any_register_access_is_harmless(
        x2apic: bool,
        ops in prop::collection::vec((0u8..8, any::<u16>(), any::<u64>()), 1..150),
    ) {
        let b = board(&[0, 1]);
        let io = IoApic::new(0, &b.bus);
        let a = &b.apics[0];
        if x2apic {
            enter_x2apic(a);
        }
        for (op, at, value) in ops {
            match op {
                0 => drop(a.page_read(at & 0xffc)),
                1 => a.page_write(at & 0xff0, value as u32),
                2 => drop(a.read_msr(X2APIC_FIRST + at as u32 % 0x100)),
                3 => drop(a.write_msr(X2APIC_FIRST + at as u32 % 0x40, value & 0xf_ffff)),
                4 => drop(a.write_msr(IA32_APIC_BASE, value & 0xffff_fd00)),
                5 => drop(a.write_msr(IA32_TSC_DEADLINE, value)),
                6 => b.bus.send(0xfee0_0000 | value & 0xf_ffff, at as u32),
                _ => {
                    let (pending, before) = (a.pending(), a.page_read(offset::PPR));
                    let got = a.acknowledge();
                    // The timer may have come between the two.
                    prop_assert!(!pending || got.is_some());
                    if let Some(v) = got {
                        prop_assert!(v >= 16 && v >> 4 > before as u8 >> 4);
                        prop_assert_eq!(a.page_read(offset::PPR) & 0xf0, v as u32 & 0xf0);
                    }
                }
            }
            let waiting = a.pending();
            prop_assert!(!waiting || wait_for(a, Attention::INTERRUPT));
        }
        drop(io);
        let Migrate::State(record) = a.migrate() else { panic!() };
        let (_c, other) = one();
        prop_assert_eq!(other.restore(&record), Ok(()));
    }

    /// Whatever a file says: an error or a state, no panic then or later.
    #[test]
    fn any_record_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_b, a) = one();
        if a.restore(&Record { kind: "lapic".into(), version: 1, bytes }).is_ok() {
            a.acknowledge();
            a.end_of_interrupt();
            a.page_read(offset::CURRENT_COUNT);
        }
    }
}
