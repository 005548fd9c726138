use super::*;

struct Guest {
    board: Board,
    sample: Arc<Sample>,
    capability: u64,
    table: u64,
}

/// A guest that has given vector n the address 0xfee0_0000 and the data 0x40 + n, all unmasked, MSI-X enabled.
fn guest() -> Guest {
    let sample = Sample::new();
    let board = Board::with(sample.clone());
    let (capability, table) = (board.capability(3, 17, None), board.bar(3, MSIX_BAR.into()));
    board.set_config(3, 4, 2, 6);
    for n in 0..3 {
        let entry = table + n * 16;
        assert_eq!(board.io.mmio_read(entry + 12, 4), 1, "masked after reset");
        board.io.mmio_write(entry, 8, 0xfee0_0000);
        board.io.mmio_write(entry + 8, 8, 0x40 + n);
    }
    board.set_config(3, capability + 2, 2, 0x8000);
    Guest {
        board,
        sample,
        capability,
        table,
    }
}

impl Guest {
    fn fire(&self, vector: u16) -> Vec<(u64, u32)> {
        self.sample.interrupts().msix(vector);
        self.board.messages.take()
    }

    fn pending(&self) -> u64 {
        self.board.io.mmio_read(self.table + 0x1000, 8)
    }
}

#[test]
fn vectors_send_their_messages() {
    let g = guest();
    assert!(g.sample.interrupts().msix_enabled());
    assert_eq!(g.sample.interrupts().vectors(), 3);
    assert_eq!(g.fire(0), [(0xfee0_0000, 0x40)]);
    assert_eq!(g.fire(2), [(0xfee0_0000, 0x42)]);
    assert_eq!(g.fire(3), [], "there is no such vector");
    g.board.io.mmio_write(g.table + 4, 4, 0x12);
    assert_eq!(g.fire(0), [(0x12_fee0_0000, 0x40)]);
    g.board.io.mmio_write(g.table, 4, 0xfee0_1003);
    assert_eq!(g.fire(0), [(0x12_fee0_1000, 0x40)], "messages are aligned");
}

#[test]
fn a_masked_vector_is_pending_and_sent_once() {
    let g = guest();
    g.board.io.mmio_write(g.table + 28, 4, 0xffff_ffff);
    assert_eq!(g.board.io.mmio_read(g.table + 28, 4), 1);
    assert_eq!((g.fire(1), g.fire(1), g.pending()), (vec![], vec![], 2));
    assert_eq!(g.fire(0).len(), 1, "others are not");
    g.board.io.mmio_write(g.table + 0x1000, 8, 0);
    assert_eq!(g.pending(), 2, "read-only");
    g.board.io.mmio_write(g.table + 28, 4, 0);
    assert_eq!(
        (g.board.messages.take(), g.pending()),
        (vec![(0xfee0_0000, 0x41)], 0)
    );
}

#[test]
fn the_function_mask_and_bus_mastering_hold_messages_back() {
    let g = guest();
    for (register, hold, release) in [(g.capability + 2, 0xc000, 0x8000), (4, 2, 6)] {
        g.board.set_config(3, register, 2, hold);
        assert_eq!((g.fire(2), g.fire(0), g.pending()), (vec![], vec![], 5));
        g.board.set_config(3, register, 2, release);
        assert_eq!(
            g.board.messages.take(),
            [(0xfee0_0000, 0x40), (0xfee0_0000, 0x42)]
        );
    }
}

#[test]
fn without_msix_there_are_no_messages() {
    let g = guest();
    g.board.set_config(3, g.capability + 2, 2, 0);
    assert_eq!((g.fire(0), g.pending()), (vec![], 0));
    assert!(!g.sample.interrupts().msix_enabled());
}

#[test]
fn odd_accesses_to_the_table_do_nothing() {
    let g = guest();
    for (offset, size) in [
        (0, 1),
        (0, 2),
        (2, 4),
        (4, 8),
        (3 * 16, 8),
        (0xff8, 8),
        (0x1ff8, 8),
    ] {
        g.board.io.mmio_write(g.table + offset, size, u64::MAX);
        let read = g.board.io.mmio_read(g.table + offset, size);
        assert!(
            size == 4 || offset == 4 || read == 0,
            "{offset:#x} {size}: {read:#x}"
        );
    }
    assert_eq!(g.fire(0), [(0xfee0_0000, 0x40)]);
}

#[test]
fn pins_are_swizzled_and_shared() {
    let (one, two, other) = (Sample::new(), Sample::new(), Sample::new());
    let b = Board::new(vec![
        Device {
            slot: Some(3),
            functions: vec![one.clone(), other.clone()],
        },
        Device::at(11, two.clone()),
    ]);
    let level = |n: usize| b.lines[n].0.load(SeqCst);
    assert_eq!((b.config(3, 0x3d, 1), b.config(11, 0x3d, 1)), (1, 1));
    assert_eq!(
        b.io.mmio_read(ECAM + (3 << 15 | 1 << 12) + 0x3c, 2),
        0x020a,
        "function 1 has INTB"
    );
    assert_eq!(b.config(3, 0x0e, 1), 0x80, "multi-function");
    one.interrupts().line(true);
    two.interrupts().line(true);
    one.interrupts().line(false);
    assert!(level(3) && !level(4), "slot 11 is on the same wire");
    two.interrupts().line(false);
    other.interrupts().line(true);
    assert!(!level(3) && level(4));
}

#[test]
fn the_pin_obeys_the_command_register_and_msix() {
    let g = guest();
    let (b, line) = (&g.board, &g.board.lines[3]);
    let status = || b.config(3, 6, 2) & 8 != 0;
    g.sample.interrupts().line(true);
    assert!(!line.0.load(SeqCst), "MSI-X is enabled");
    b.set_config(3, g.capability + 2, 2, 0);
    assert!(line.0.load(SeqCst) && status());
    assert_eq!(b.config(3, 4, 4) >> 16 & 8, 8);
    assert_eq!(b.config(3, 7, 1) & 8, 0);
    b.set_config(3, 4, 2, 0x406);
    assert!(
        !line.0.load(SeqCst) && status(),
        "the status bit says what the function wants"
    );
    b.set_config(3, 4, 2, 6);
    assert!(line.0.load(SeqCst));
    g.sample.interrupts().line(false);
    assert!(!line.0.load(SeqCst) && !status());
}

/// After a write that masks a vector nothing is sent, whatever other threads do.
#[test]
fn masking_waits_for_messages_under_way() {
    let g = guest();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = Stop(&done);
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(SeqCst) {
                    g.sample.interrupts().msix(1);
                }
            });
        }
        for round in 0..2000 {
            let (register, on, off) = if round % 2 == 0 {
                (true, 0, 1)
            } else {
                (false, 0x8000, 0xc000)
            };
            let set = |v: u32| match register {
                true => g.board.io.mmio_write(g.table + 28, 4, v.into()),
                false => g.board.set_config(3, g.capability + 2, 2, v),
            };
            set(off);
            g.board.messages.take();
            assert_eq!(g.board.messages.take(), []);
            g.sample.interrupts().msix(1);
            assert_eq!(g.board.messages.take(), []);
            set(on);
            assert!(!g.board.messages.take().is_empty(), "nothing is lost");
        }
    });
}
