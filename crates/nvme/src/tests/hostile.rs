use super::*;
use std::thread;

#[test]
fn prp_lists_that_loop_end() {
    let mut rig = Rig::new(SETUP);
    let list = DATA + 0x80000;
    for n in 0..512 {
        rig.ram.store((list + n * 8) as usize, list);
    }
    // 1 MiB into the list itself.
    assert_eq!(rig.run(1, sqe(2, 1).prp(DATA, list).dw(12, 2047)).status, 0);
    // A list of one entry, which leads to itself.
    rig.ram.store((list + 0xff8) as usize, list + 0xff8);
    let c = sqe(2, 1).prp(DATA, list + 0xff8).dw(12, 2047);
    assert_eq!(rig.run(1, c).status, 0x13);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn rings_in_each_other_and_in_buffers() {
    let mut rig = Rig::new(SETUP);
    // A completion queue on top of its submission queue: its commands become whatever they become.
    let mut pair = Rig::place(2, 64);
    pair.cq_at = pair.sq_at;
    assert_eq!(rig.create_cq(&pair), 0);
    assert_eq!(rig.create_sq(&pair), 0);
    for tail in 0..640 {
        rig.put(at::DOORBELLS + 16, tail % 64);
        rig.put(at::DOORBELLS + 20, tail % 64);
    }
    // A read into the submission queue that it came from.
    let c = sqe(2, 1).prp(rig.pairs[1].sq_at, 0).dw(12, 7);
    rig.send(1, c);
    let start = Instant::now();
    while rig.look(1).is_none() {
        assert!(start.elapsed() < PATIENCE);
    }
    rig.put(at::CC, 0);
    rig.enable();
    rig.add_pair(1, 64);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn many_at_once_on_the_same_registers() {
    let mut rig = Rig::new(SETUP);
    rig.add_pair(2, 64);
    let nvme = rig.nvme.clone();
    for n in [1, 2] {
        for _ in 0..63 {
            let c = transfer(&rig.ram, 2, 0, 8, DATA);
            rig.queue(n, c);
        }
    }
    thread::scope(|s| {
        for seed in 1..4 {
            let nvme = nvme.clone();
            s.spawn(move || {
                let numbers = Numbers(AtomicU64::new(seed));
                for _ in 0..3000 {
                    let n = numbers.next();
                    let bell = at::DOORBELLS + n % 8 * 4;
                    match n >> 8 & 63 {
                        0 => nvme.write(0, at::CC, 4, 0),
                        1 | 2 => nvme.write(0, at::CC, 4, 1 | 6 << 16 | 4 << 20),
                        3 => drop(nvme.migrate()),
                        4 => nvme.resized(),
                        5 => nvme.limit_changed(),
                        6 => nvme.write(0, at::INTMS, 4, n >> 16 & 1),
                        7 => drop(nvme.read(0, at::CSTS, 4)),
                        // Bus mastering is switched by one at a time.
                        8 if seed == 1 => nvme.bus_master(false),
                        9 | 10 if seed == 1 => nvme.bus_master(true),
                        _ => nvme.write(0, bell, 4, n >> 32 & 63),
                    }
                }
            });
        }
    });
    nvme.bus_master(true);
    rig.put(at::CC, 0);
    rig.enable();
    rig.add_pair(1, 64);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn accesses_of_any_size_anywhere() {
    let rig = Rig::new(SETUP);
    for offset in (0..0x100).chain(0xff0..0x1040).chain(0x1ff0..0x2000) {
        for size in 1..=8 {
            if offset + size <= 0x2000 {
                let value = rig.nvme.read(0, offset, size as u8);
                assert!(size == 8 || value >> (8 * size) == 0);
                if offset >= 0x38 || !offset.is_multiple_of(4) {
                    rig.nvme.write(0, offset, size as u8, u64::MAX);
                }
            }
        }
    }
    assert_eq!(rig.get(at::CSTS), 1);
}
