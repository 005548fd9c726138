use super::*;
use donjon_devices::{Migrate, Record, RestoreError};

/// Many commands under way: their identifiers.
fn burst(rig: &mut Rig, count: u64) -> Vec<u16> {
    let cids = (0..count)
        .map(|n| {
            let at = DATA + n * 4096;
            rig.ram.write(at, &[n as u8 + 1; 4096]).unwrap();
            let c = transfer(&rig.ram, 1, n * 8, 8, at);
            rig.queue(1, c)
        })
        .collect();
    rig.ring(1);
    cids
}

fn check_burst(rig: &mut Rig, count: u64) {
    for n in 0..count {
        assert_eq!(rig.transfer(1, 2, n * 8, 8), 0);
        assert_eq!(rig.bytes(DATA, 4096), [n as u8 + 1; 4096], "{n}");
    }
}

/// A checksum of all of RAM.
fn ram_sum(rig: &Rig) -> u64 {
    rig.bytes(0, RAM as usize).chunks(8).fold(0, |sum, c| {
        sum.rotate_left(5) ^ u64::from_le_bytes(c.try_into().unwrap())
    })
}

fn quiet(rig: &Rig) {
    let before = ram_sum(rig);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(ram_sum(rig), before, "memory changes");
}

#[test]
fn settings_that_are_not_supported_are_fatal() {
    let configure = |asq: u64, acq: u64, aqa: u32, cc: u32| {
        let rig = Rig::cold(SETUP);
        rig.put(at::AQA, aqa);
        rig.nvme.write(0, at::ASQ, 8, asq);
        rig.nvme.write(0, at::ACQ, 8, acq);
        rig.put(at::CC, cc);
        let status = rig.get(at::CSTS);
        // Commands are not taken, and a reset brings it back.
        rig.put(at::DOORBELLS, 1);
        quiet(&rig);
        rig.put(at::CC, 0);
        assert_eq!(rig.get(at::CSTS), 0);
        status
    };
    let good = 31 | 31 << 16;
    assert_eq!(configure(0x1000, 0x2000, good, 1), 1);
    assert_eq!(configure(0x1000, 0x2000, 0, 1), 2, "queues of one entry");
    assert_eq!(configure(RAM, 0x2000, good, 1), 2);
    assert_eq!(configure(0x1000, !0xfff, good, 1), 2);
    assert_eq!(
        configure(RAM - 4096, 0x2000, 0xfff | 31 << 16, 1),
        2,
        "it ends outside RAM"
    );
    assert_eq!(configure(0x1000, 0x2000, good, 1 | 1 << 7), 2, "pages of 8 KiB");
    assert_eq!(
        configure(0x1000, 0x2000, good, 1 | 1 << 4),
        2,
        "another command set"
    );
    assert_eq!(
        configure(0x1000, 0x2000, good, 1 | 1 << 11),
        2,
        "weighted arbitration"
    );
}

#[test]
fn a_reset_ends_everything() {
    for io_uring in [true, false] {
        let mut rig = Rig::new(Setup { io_uring, ..SETUP });
        rig.send(0, sqe(0x0c, 0));
        rig.admin(sqe(9, 0).dw(10, 6));
        for function_level in [false, true] {
            burst(&mut rig, 60);
            if function_level {
                rig.set_command(2);
                rig.nvme.reset();
                assert_eq!((rig.get(at::AQA), rig.get(at::CC)), (0, 0));
                rig.set_command(6);
            } else {
                rig.put(at::CC, 0);
                assert_eq!(
                    (rig.get(at::AQA), rig.nvme.read(0, at::ASQ, 8)),
                    (31 | 31 << 16, 0x1000)
                );
            }
            assert_eq!(rig.get(at::CSTS), 0);
            rig.ring(1);
            quiet(&rig);
            rig.enable();
            assert_eq!(rig.admin(sqe(0x0a, 0).dw(10, 6)).result, 1, "features are as new");
            rig.add_pair(1, 64);
        }
        check_burst(&mut rig, 60);
    }
}

#[test]
fn a_shutdown_finishes_what_was_begun() {
    let mut rig = Rig::new(SETUP);
    let cids = burst(&mut rig, 40);
    rig.put(at::CC, 1 | 6 << 16 | 4 << 20 | 1 << 14);
    assert_eq!(rig.get(at::CSTS), 1 | 2 << 2);
    let mut seen = vec![];
    while let Some(c) = rig.look(1) {
        assert_eq!(c.status, 0);
        seen.push(c.cid);
    }
    // In any order; those that were not taken stay undone.
    assert!(seen.iter().all(|c| cids.contains(c)));
    rig.ring(0);
    rig.ring(1);
    quiet(&rig);
    rig.put(at::CC, 0);
    rig.enable();
    rig.add_pair(1, 64);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn without_bus_mastering_memory_is_left_alone() {
    let mut rig = Rig::new(SETUP);
    burst(&mut rig, 60);
    rig.set_command(2);
    let c = transfer(&rig.ram, 2, 0, 8, DATA);
    rig.queue(1, c);
    rig.queue(0, sqe(6, 1).prp(DATA, 0).dw(10, 1));
    let before = ram_sum(&rig);
    rig.ring(1);
    rig.ring(0);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(ram_sum(&rig), before);
    // Doorbells were heard all the same.
    rig.set_command(6);
    for _ in 0..61 {
        assert_eq!(rig.wait(1).status, 0);
    }
    assert_eq!(rig.wait(0).status, 0);
    check_burst(&mut rig, 60);
}

fn saved(rig: &Rig) -> Record {
    match rig.nvme.migrate() {
        Migrate::State(record) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_goes_on_elsewhere() {
    let mut rig = Rig::new(SETUP);
    rig.admin(sqe(9, 0).dw(10, 0x0b).dw(11, 1 << 8));
    rig.admin(sqe(9, 0).dw(10, 1).dw(11, 7));
    let event = rig.send(0, sqe(0x0c, 0));
    let cids = burst(&mut rig, 63);
    rig.set_command(2);
    let record = saved(&rig);
    let Rig {
        nvme,
        ram,
        io,
        _bus,
        pairs,
        next_cid,
        directory,
        ..
    } = rig;
    // The image is locked while it is in use.
    drop((io, _bus, nvme));
    let mut rig = Rig::plug(disk(directory.path(), SETUP), ram, SETUP, directory);
    rig.set_command(2);
    rig.nvme.restore(&record).unwrap();
    (rig.pairs, rig.next_cid) = (pairs, next_cid);
    rig.set_command(6);
    let mut seen: Vec<_> = cids.iter().map(|_| rig.wait(1).cid).collect();
    seen.sort();
    assert_eq!(seen, cids);
    assert_eq!(rig.admin(sqe(0x0a, 0).dw(10, 1)).result, 7);
    rig.nvme.resized();
    let c = rig.wait(0);
    assert_eq!((c.cid, c.result), (event, 2 | 4 << 16));
    check_burst(&mut rig, 63);
    assert_eq!(rig.get(at::CC), 1 | 6 << 16 | 4 << 20);
}

#[test]
fn saving_disturbs_nothing_and_keeps_answers_that_have_no_room() {
    let mut rig = Rig::cold(SETUP);
    rig.enable();
    let mut pair = Rig::place(1, 64);
    let cq = Pair {
        size: 4,
        ..pair.clone()
    };
    assert_eq!(rig.create_cq(&cq), 0);
    assert_eq!(rig.create_sq(&pair), 0);
    pair.cq = 1;
    rig.pairs.push(pair);
    let cids = burst(&mut rig, 50);
    rig.pairs.push(cq);
    let mut seen = vec![];
    for n in 0..50 {
        if n % 10 == 5 {
            // Read, not acknowledged; then saved and put back into the same device.
            let record = saved(&rig);
            rig.nvme.restore(&record).unwrap();
        }
        let c = rig.wait(2);
        assert_eq!(c.status, 0);
        seen.push(c.cid);
    }
    seen.sort();
    assert_eq!(seen, cids);
}

#[test]
fn damaged_records_change_nothing() {
    let mut rig = Rig::new(SETUP);
    let record = saved(&rig);
    let numbers = Numbers(AtomicU64::new(88172645463325252));
    let mut refused = 0;
    for _ in 0..2000 {
        let mut bad = record.clone();
        let at = numbers.next() as usize % bad.bytes.len();
        bad.bytes[at] ^= 1 << (numbers.next() % 8);
        refused += usize::from(rig.nvme.restore(&bad).is_err());
    }
    assert!(refused > 200, "{refused}");
    for len in 0..record.bytes.len() {
        let mut bad = record.clone();
        bad.bytes.truncate(len);
        assert!(matches!(
            rig.nvme.restore(&bad),
            Err(RestoreError::Damaged { .. })
        ));
    }
    let mut bad = record.clone();
    bad.version += 1;
    assert!(matches!(
        rig.nvme.restore(&bad),
        Err(RestoreError::Version { .. })
    ));
    rig.nvme.restore(&record).unwrap();
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    // Another number of queues is another device.
    let other = Rig::cold(Setup { queues: 2, ..SETUP });
    assert!(other.nvme.restore(&record).is_err());
}
