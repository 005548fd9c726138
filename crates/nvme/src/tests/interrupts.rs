use super::*;

/// Where BAR `n` is.
fn bar(rig: &Rig, n: u64) -> u64 {
    u64::from(rig.config(0x10 + 4 * n) & !15)
}

/// Enables MSI-X with message data `n` for vector `n`.
fn enable_msix(rig: &Rig) -> u64 {
    let table = bar(rig, 4);
    for n in 0..5 {
        for (at, value) in [(0, 0xfee0_0000u64), (4, 0), (8, n), (12, 0)] {
            rig.io.mmio_write(table + n * 16 + at, 4, value);
        }
    }
    let mut at = u64::from(rig.config(0x34) & 0xff);
    while rig.config(at) & 0xff != 0x11 {
        at = u64::from(rig.config(at) >> 8 & 0xff);
        assert_ne!(at, 0, "no MSI-X");
    }
    rig.set_config(at, 1 << 31);
    table
}

fn count(rig: &Rig, vector: usize) -> usize {
    rig.messages.0.lock().unwrap()[vector]
}

#[test]
fn each_queue_has_its_vector() {
    let mut rig = Rig::cold(SETUP);
    enable_msix(&rig);
    rig.enable();
    rig.add_pair(1, 64);
    let admin = count(&rig, 0);
    assert_eq!(admin, 2);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    // It follows the entry.
    let start = Instant::now();
    while count(&rig, 1) == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!((count(&rig, 0), count(&rig, 1)), (admin, 1));
    // Doorbells without anything new do not interrupt.
    for _ in 0..10 {
        rig.ring(1);
        rig.ring_head(1);
    }
    rig.set_command(2);
    assert_eq!(count(&rig, 1), 1);
    assert!(!rig.level.0.load(SeqCst), "the pin is not for this");
}

#[test]
fn a_queue_without_interrupts_is_silent() {
    let mut rig = Rig::cold(SETUP);
    enable_msix(&rig);
    rig.enable();
    let pair = Rig::place(1, 64);
    let c = sqe(5, 0).prp(pair.cq_at, 0).dw(10, 1 | 63 << 16);
    assert_eq!(rig.admin(c.dw(11, 1 | 1 << 16)).status, 0);
    assert_eq!(rig.create_sq(&pair), 0);
    rig.pairs.push(pair);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    rig.set_command(2);
    assert_eq!(count(&rig, 1), 0);
}

#[test]
fn the_pin_is_asserted_until_everything_was_seen() {
    let mut rig = Rig::new(SETUP);
    let asserted = |rig: &Rig| rig.level.0.load(SeqCst);
    assert!(!asserted(&rig));
    for _ in 0..2 {
        rig.send(0, sqe(0x0a, 0).dw(10, 7));
        assert!(rig.look(0).is_some());
    }
    assert!(asserted(&rig));
    rig.put(at::INTMS, 1);
    assert!(!asserted(&rig));
    assert_eq!((rig.get(at::INTMS), rig.get(at::INTMC)), (1, 1));
    rig.put(at::INTMC, 1);
    assert!(asserted(&rig));
    // One of two.
    rig.put(at::DOORBELLS + 4, (u32::from(rig.pairs[0].head) + 31) % 32);
    assert!(asserted(&rig));
    rig.ring_head(0);
    assert!(!asserted(&rig));
    // I/O queues are on the same pin, and a reset releases it.
    let c = transfer(&rig.ram, 2, 0, 8, DATA);
    rig.send(1, c);
    let start = Instant::now();
    while rig.look(1).is_none() {
        assert!(start.elapsed() < PATIENCE);
    }
    rig.set_command(2);
    assert!(asserted(&rig));
    rig.put(at::CC, 0);
    assert!(!asserted(&rig));
}

/// Where shadow doorbells and EventIdx are.
const SHADOW: u64 = 0x8000;
const EVENT: u64 = 0x9000;

#[test]
fn shadow_doorbells_are_followed() {
    let mut rig = Rig::new(SETUP);
    assert_eq!(rig.admin(sqe(0x7c, 0).prp(SHADOW, RAM)).status, 2);
    assert_eq!(rig.admin(sqe(0x7c, 0).prp(SHADOW + 8, EVENT)).status, 2);
    assert_eq!(rig.admin(sqe(0x7c, 0).prp(SHADOW, EVENT)).status, 0);
    let (mut done, mut rung, mut tail, mut head) = (0, 0, 0u32, 0u32);
    let start = Instant::now();
    while done < 500 {
        // As Linux does: write the shadow, then ring if the event index was passed.
        let c = transfer(&rig.ram, 2, 0, 1, DATA);
        rig.queue(1, c);
        let new = u32::from(rig.pairs[1].tail);
        rig.ram.store((SHADOW + 8) as usize, new);
        std::sync::atomic::fence(SeqCst);
        if passed(&rig, 8, tail, new) {
            rung += 1;
            rig.ring(1);
        }
        tail = new;
        while rig.look(1).is_none() {
            assert!(start.elapsed() < PATIENCE, "after {done}");
            std::thread::yield_now();
        }
        done += 1;
        let new = u32::from(rig.pairs[1].head);
        rig.ram.store((SHADOW + 12) as usize, new);
        std::sync::atomic::fence(SeqCst);
        if passed(&rig, 12, head, new) {
            rig.ring_head(1);
        }
        head = new;
    }
    assert!(rung > 0);
    // Nonsense in them does no harm.
    for nonsense in [64, u32::MAX] {
        rig.ram.store((SHADOW + 8) as usize, nonsense);
        rig.ram.store((SHADOW + 12) as usize, nonsense);
        rig.ring(1);
        rig.ring_head(1);
    }
    rig.set_command(2);
    assert!(!rig.level.0.load(SeqCst));
    assert_eq!(rig.look(1), None);
}

/// Whether the controller wants to know.
fn passed(rig: &Rig, bell: u64, old: u32, new: u32) -> bool {
    let event = rig.ram.load::<u32>((EVENT + bell) as usize) as u16;
    (new as u16).wrapping_sub(event).wrapping_sub(1) < (new as u16).wrapping_sub(old as u16)
}
