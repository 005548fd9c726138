use super::*;

#[test]
fn what_is_written_is_read_again() {
    for io_uring in [true, false] {
        let mut rig = Rig::new(Setup { io_uring, ..SETUP });
        for (lba, count) in [(0, 1), (7, 8), (100, 16), (1000, 17), (2000, 2048)] {
            let bytes = pattern(lba, count as usize * 512);
            rig.ram.write(DATA, &bytes).unwrap();
            assert_eq!(rig.transfer(1, 1, lba, count), 0, "{lba}+{count}");
            rig.ram.write(DATA, &vec![0xee; bytes.len()]).unwrap();
            assert_eq!(rig.transfer(1, 2, lba, count), 0);
            assert!(rig.bytes(DATA, bytes.len()) == bytes, "{lba}+{count}");
        }
        assert_eq!(rig.run(1, sqe(0, 1)).status, 0);
        assert_eq!(rig.run(1, sqe(0, u32::MAX)).status, 0);
        let file = std::fs::read(rig.directory.path().join("disk.raw")).unwrap();
        assert!(file[2000 * 512..][..1 << 20] == pattern(2000, 1 << 20));
        // An offset in the first page.
        assert_eq!(
            rig.run(1, sqe(2, 1).prp(DATA + 0xe00, DATA + 0x1000).lba(100).dw(12, 1))
                .status,
            0
        );
        assert_eq!(rig.bytes(DATA + 0xe00, 1024), pattern(100, 16 * 512)[..1024]);
    }
}

#[test]
fn forced_writes_and_a_disabled_cache() {
    for io_uring in [true, false] {
        let mut rig = Rig::new(Setup { io_uring, ..SETUP });
        rig.ram.write(DATA, &pattern(1, 512)).unwrap();
        let write = transfer(&rig.ram, 1, 3, 1, DATA);
        assert_eq!(rig.run(1, write.dw(12, 1 << 30)).status, 0);
        assert_eq!(rig.admin(sqe(9, 0).dw(10, 6)).status, 0);
        assert_eq!(rig.run(1, write.lba(4)).status, 0);
        assert_eq!(rig.run(1, sqe(8, 1).lba(5).dw(12, 3)).status, 0);
        let read = transfer(&rig.ram, 2, 3, 4, DATA + 0x10000);
        assert_eq!(rig.run(1, read.dw(12, 3 | 1 << 30)).status, 0);
        let expected = [pattern(1, 512), pattern(1, 512), vec![0; 1024]].concat();
        assert_eq!(rig.bytes(DATA + 0x10000, 2048), expected);
    }
}

#[test]
fn zeroes_and_deallocation() {
    let mut rig = Rig::new(SETUP);
    rig.ram.write(DATA, &[0xaa; 1 << 16]).unwrap();
    assert_eq!(rig.transfer(1, 1, 0, 128), 0);
    assert_eq!(rig.run(1, sqe(8, 1).lba(1).dw(12, 1)).status, 0);
    assert_eq!(rig.run(1, sqe(8, 1).lba(8).dw(12, 7 | 1 << 25)).status, 0);
    assert_eq!(rig.transfer(1, 2, 0, 32), 0);
    let seen = rig.bytes(DATA, 32 * 512);
    for (n, sector) in seen.chunks(512).enumerate() {
        let zero = (1..3).contains(&n) || (8..16).contains(&n);
        assert_eq!(sector[0], if zero { 0 } else { 0xaa }, "sector {n}");
    }
    let mut ranges = vec![];
    for (lba, count) in [(64u64, 8u32), (72, 0), (80, 16)] {
        ranges.extend([0; 4]);
        ranges.extend(count.to_le_bytes());
        ranges.extend(lba.to_le_bytes());
    }
    let list = DATA + 0x20000;
    rig.ram.write(list, &ranges).unwrap();
    let c = sqe(9, 1).prp(list, 0).dw(10, 2);
    assert_eq!(rig.run(1, c).status, 0, "hints");
    assert_eq!(rig.transfer(1, 2, 64, 32), 0);
    assert_eq!(rig.bytes(DATA, 32 * 512), [0xaa; 32 * 512]);
    assert_eq!(rig.run(1, c.dw(11, 4)).status, 0);
    assert_eq!(rig.transfer(1, 2, 64, 32), 0);
    let seen = rig.bytes(DATA, 32 * 512);
    assert_eq!(
        seen[8 * 512..16 * 512],
        [0xaa; 8 * 512],
        "what lies between stays"
    );
    // What lies off the disk fails as a whole.
    rig.ram.write(list + 8, &(SECTORS - 7).to_le_bytes()).unwrap();
    assert_eq!(rig.run(1, c.dw(11, 4)).status, 0x80);
    // All of the disk, 256 times: the list takes a page.
    for n in 0..256 {
        rig.ram
            .write(list + n * 16 + 4, &(SECTORS as u32).to_le_bytes())
            .unwrap();
        rig.ram.write(list + n * 16 + 8, &[0; 8]).unwrap();
    }
    assert_eq!(rig.run(1, c.dw(10, 255).dw(11, 4)).status, 0);
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let mut rig = Rig::new(SETUP);
    let read = |lba: u64, count: u32| sqe(2, 1).prp(DATA, DATA + 4096).lba(lba).dw(12, count - 1);
    for (c, status) in [
        (read(SECTORS - 1, 2), 0x80),
        (read(u64::MAX, 1), 0x80),
        (read(u64::MAX / 512, 8), 0x80),
        (read(0, 2049), 2),
        (read(0, 65536), 0x80),
        (sqe(2, 2).prp(DATA, 0), 0x0b),
        (sqe(2, 0).prp(DATA, 0), 0x0b),
        (sqe(0, 2), 0x0b),
        (sqe(5, 1), 1),
        (sqe(0x7f, 1), 1),
        (sqe(8, 1).lba(SECTORS), 0x80),
        (read(0, 1).prp(DATA + 2, 0), 0x13),
        (read(0, 1).prp(RAM, 0), 4),
        (read(0, 1).prp(RAM - 256, RAM), 4),
        (read(0, 9).prp(DATA, RAM), 4),
        (read(0, 64).prp(DATA, RAM), 4),
        (read(0, 64).prp(DATA, DATA + 4), 0x13),
        (read(0, 1).dw(0, 2 | 1 << 14), 2),
    ] {
        assert_eq!(rig.run(1, c).status, status, "{:x?}", c.0);
    }
    assert_eq!(rig.transfer(1, 2, 0, 8), 0, "still alive");
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut rig = Rig::cold(SETUP);
    let path = rig.directory.path().join("disk.raw");
    let directory = rig.directory.clone();
    drop(rig);
    let before = std::fs::read(&path).unwrap();
    let ram = Arc::new(Ram::new(RAM).unwrap());
    let setup = Setup {
        read_only: true,
        ..SETUP
    };
    rig = Rig::plug(disk(directory.path(), setup), ram, setup, directory);
    rig.enable();
    rig.add_pair(1, 64);
    assert_eq!(rig.identify(0, 1).unwrap()[99], 1);
    rig.ram.write(DATA, &[1; 4096]).unwrap();
    assert_eq!(rig.transfer(1, 1, 0, 8), 0x20);
    assert_eq!(rig.run(1, sqe(8, 1)).status, 0x20);
    assert_eq!(rig.run(1, sqe(9, 1).prp(DATA, 0).dw(11, 4)).status, 0x20);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    assert_eq!(rig.run(1, sqe(0, 1)).status, 0);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn rings_wrap_and_queues_work_side_by_side() {
    let mut rig = Rig::new(SETUP);
    for id in 2..=4 {
        rig.add_pair(id, 5);
    }
    for round in 0..40u64 {
        let mut sent = vec![];
        for n in 1..=4 {
            let at = DATA + n as u64 * 0x10000;
            rig.ram.write(at, &[round as u8 + n as u8; 4096]).unwrap();
            let c = transfer(&rig.ram, 1, (round * 4 + n as u64) * 8, 8, at);
            sent.push(rig.send(n, c));
        }
        for n in 1..=4 {
            let c = rig.wait(n);
            assert_eq!((c.cid, c.status), (sent[n - 1], 0));
            assert_eq!(c.head, rig.pairs[n].tail);
        }
    }
    for n in 1..=4 {
        assert_eq!(rig.transfer(n, 2, (39 * 4 + n as u64) * 8, 8), 0);
        assert_eq!(rig.bytes(DATA, 4096), [39 + n as u8; 4096]);
    }
}

#[test]
fn a_full_completion_queue_holds_its_submission_queues_back() {
    let mut rig = Rig::new(SETUP);
    // Queues 2 and 3 share a completion queue of 4 entries.
    let mut small = Rig::place(2, 4);
    small.sq_at = Rig::place(4, 64).sq_at;
    assert_eq!(rig.create_cq(&small), 0);
    for id in [2, 3] {
        let mut pair = Rig::place(id, 64);
        pair.cq = 2;
        assert_eq!(rig.create_sq(&pair), 0);
        rig.pairs.push(pair);
    }
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 2)).status, 0x10c, "in use");
    let mut expected = std::collections::HashSet::new();
    for _ in 0..60 {
        for n in [2, 3] {
            let c = transfer(&rig.ram, 2, 0, 1, DATA);
            expected.insert((n as u16, rig.queue(n, c)));
        }
    }
    rig.ring(2);
    rig.ring(3);
    // The driver's view of the shared queue.
    rig.pairs.push(small);
    while !expected.is_empty() {
        let c = rig.wait(4);
        assert_eq!(c.status, 0);
        assert!(expected.remove(&(c.sq, c.cid)), "{c:?}");
    }
    // Full when they are deleted.
    for n in [2, 3] {
        for _ in 0..20 {
            let c = transfer(&rig.ram, 2, 0, 1, DATA);
            rig.queue(n, c);
        }
        rig.ring(n);
    }
    assert_eq!(rig.admin(sqe(0, 0).dw(10, 2)).status, 0);
    assert_eq!(rig.admin(sqe(0, 0).dw(10, 3)).status, 0);
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 2)).status, 0);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn a_limit_holds_requests_back_and_lets_go_when_it_is_lifted() {
    let mut rig = Rig::new(SETUP);
    let now = Instant::now();
    rig.nvme
        .disk()
        .limiter()
        .set(now, "iops=1,iops-burst=1".parse().unwrap());
    for n in 0..20 {
        let c = transfer(&rig.ram, 2, n, 1, DATA);
        rig.send(1, c);
    }
    // At one a second the rest would take until after the patience is over.
    let first = rig.wait(1);
    assert_eq!(first.status, 0);
    rig.nvme.disk().limiter().set(now, Limit::default());
    rig.nvme.limit_changed();
    for _ in 1..20 {
        assert_eq!(rig.wait(1).status, 0);
    }
}
