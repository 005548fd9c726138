//! Who gets a message.

use super::*;

/// Sends an IPI from `from`; who got it, in order.
fn ipi(b: &Board, from: usize, icr: u32, destination: u32) -> Vec<usize> {
    let a = &b.apics[from];
    if a.page().is_some() {
        a.page_write(offset::ICR_HIGH, destination << 24);
        a.page_write(offset::ICR, icr);
        assert_eq!(a.page_read(offset::ICR_HIGH), destination << 24);
        assert_eq!(a.page_read(offset::ICR), icr & 0xcefff);
    } else {
        a.write_msr(x2(offset::ICR), (destination as u64) << 32 | icr as u64)
            .unwrap();
    }
    received(b)
}

fn received(b: &Board) -> Vec<usize> {
    let got = |a: &&Arc<LocalApic>| {
        let bits = a
            .attention
            .take(Attention::INTERRUPT | Attention::NMI | Attention::INIT);
        let sipi = a.attention.take_sipi().is_some();
        if bits & Attention::INTERRUPT != 0 {
            a.acknowledge();
            a.end_of_interrupt();
        }
        bits != 0 || sipi
    };
    (0..b.apics.len()).filter(|&i| got(&&b.apics[i])).collect()
}

const LOGICAL: u32 = 1 << 11;
const LOWEST: u32 = 1 << 8;

#[test]
fn physical_and_shorthand_ipis() {
    let b = board(&[0, 1, 2, 5]);
    for (icr, destination, got) in [
        (0x40, 1, vec![1]),
        (0x40, 5, vec![3]),
        (0x40, 3, vec![]),
        (0x40, 0xff, vec![0, 1, 2, 3]),
        (0x40 | 1 << 18, 1, vec![0]),
        (0x40 | 2 << 18, 1, vec![0, 1, 2, 3]),
        (0x40 | 3 << 18, 1, vec![1, 2, 3]),
        (0x400 | 3 << 18, 0, vec![1, 2, 3]),
        (0x500 | 1 << 14, 2, vec![2]),
        (0x500 | 1 << 15, 2, vec![]),
        (0x699, 5, vec![3]),
        (0x200 | 0x40, 1, vec![]),
        (0x05, 1, vec![]),
    ] {
        assert_eq!(ipi(&b, 0, icr, destination), got, "{icr:#x} to {destination:#x}");
    }
    b.apics[0].page_write(offset::ICR_HIGH, 1 << 24);
    b.apics[0].page_write(offset::ICR, 0x69a);
    assert_eq!(b.apics[1].attention.take_sipi(), Some(0x9a));
}

#[test]
fn logical_flat_and_cluster_ipis() {
    let b = board(&[0, 1, 2, 3]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::LDR, 1 << (24 + i));
    }
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x5), [0, 2]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xff), [0, 1, 2, 3]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xf0), [0usize; 0]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::DFR, 0);
        a.page_write(offset::LDR, [0x01, 0x02, 0x11, 0x12][i] << 24);
    }
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x03), [0, 1]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x12), [3]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x23), [0usize; 0]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0xff), [0, 1, 2, 3]);
}

#[test]
fn x2apic_ipis_and_clusters() {
    let b = board(&[0, 1, 17, 255, 300]);
    b.apics.iter().for_each(|a| enter_x2apic(a));
    assert_eq!(b.apics[4].read_msr(x2(offset::LDR)), Ok(18 << 16 | 1 << 12));
    assert_eq!(ipi(&b, 0, 0x40, 300), [4]);
    assert_eq!(ipi(&b, 0, 0x40, 0xff), [3], "no broadcast in x2APIC mode");
    assert_eq!(ipi(&b, 0, 0x40, u32::MAX), [0, 1, 2, 3, 4]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x3), [0, 1]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x1_0002), [2]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, 0x2_0002), [0usize; 0]);
    assert_eq!(ipi(&b, 0, 0x40 | LOGICAL, u32::MAX), [0, 1, 2, 3, 4]);
    b.apics[1].write_msr(x2(offset::SELF_IPI), 0x77).unwrap();
    assert_eq!(take(&b.apics[1]), Some(0x77));
}

#[test]
fn lowest_priority_goes_to_the_idlest_and_takes_turns() {
    let b = board(&[0, 1, 2, 3]);
    for (i, a) in b.apics.iter().enumerate() {
        a.page_write(offset::LDR, 1 << (24 + i));
    }
    b.apics[0].set_cr8(4);
    b.apics[3].page_write(offset::SVR, 0xff);
    let mut got = [0; 4];
    for _ in 0..30 {
        let [to] = ipi(&b, 0, 0x80 | LOGICAL | LOWEST, 0xff)[..] else {
            panic!("not exactly one")
        };
        got[to] += 1;
    }
    assert_eq!((got[0], got[3]), (0, 0));
    assert!(got[1] >= 5 && got[2] >= 5, "{got:?}");
}

#[test]
fn msis_are_decoded() {
    let b = board(&[0, 1, 2, 300]);
    let to = |address: u64, data| {
        b.bus.send(address, data);
        received(&b)
    };
    b.apics
        .iter()
        .enumerate()
        .for_each(|(i, a)| a.page_write(offset::LDR, 1 << (24 + i)));
    assert_eq!(to(0xfee0_1000, 0x41), [1]);
    assert_eq!(to(0xfeef_f000, 0x41), [0, 1, 2, 3]);
    assert_eq!(to(0xfee0_6004, 0x41), [1, 2]);
    assert_eq!(to(0xfee0_600c, 0x41).len(), 1, "redirection hint");
    assert_eq!(to(0xfee0_2000, 0x400), [2]);
    assert_eq!(to(0xfee2_c020, 0x41), [3], "extended destination");
    assert_eq!(to(0xfee0_1000, 0xc041), [1], "a level");
    assert_eq!(to(0xfee0_1000, 0x8041), [0usize; 0], "its end");
    assert_eq!(to(0xfed0_1000, 0x41), [0usize; 0]);
    assert_eq!(to(0x1_fee0_1000, 0x41), [0usize; 0]);
    b.apics.iter().for_each(|a| enter_x2apic(a));
    assert_eq!(
        to(0xfeef_f000, 0x41),
        [0, 1, 2, 3],
        "a device's 0xff is a broadcast in any mode"
    );
}

#[test]
fn processors_interrupt_each_other_without_deadlock_or_loss() {
    const ROUNDS: u32 = 20_000;
    let b = board(&[0, 1]);
    let io = IoApic::new(0, &b.bus);
    let pin = io.pin(3);
    io.write(0, 4, 0x16);
    io.write(0x10, 4, 0x8070);
    let run = |me: usize| {
        let (a, other) = (&b.apics[me], 1 - me as u32);
        // Ping-pong: each round waits for the other's interrupt, so a lost one hangs (and is reported).
        for round in 0..ROUNDS {
            if round & 1 == me as u32 {
                a.page_write(offset::ICR_HIGH, other << 24);
                a.page_write(offset::ICR, 0x50 + round % 8);
            } else {
                loop {
                    assert!(wait_for(a, Attention::INTERRUPT), "interrupt {round} was lost");
                    let vector = take(a);
                    if vector.is_some() {
                        eoi(a);
                    }
                    if vector.is_some_and(|v| v < 0x70) {
                        break;
                    }
                }
            }
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| run(0));
        s.spawn(|| run(1));
        s.spawn(|| (0..ROUNDS).for_each(|i| pin.set(i % 2 == 0)));
    });
}
