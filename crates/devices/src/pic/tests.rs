use super::*;
use crate::line::probe::Probe;
use proptest::prelude::*;

struct Board {
    pic: Arc<Pic>,
    intr: Arc<Probe>,
    ports: [Arc<dyn PortDevice>; 2],
}

impl Board {
    /// Initialized as every PC operating system does: vectors 0x30 and 0x38, nothing masked.
    fn new() -> Self {
        let b = Self::raw();
        for chip in 0..2 {
            b.init(chip, 1);
        }
        b
    }

    fn raw() -> Self {
        let intr = Arc::new(Probe::default());
        let pic = Pic::new(intr.clone());
        let ports = [pic.first(), pic.second()];
        Self { pic, intr, ports }
    }

    fn init(&self, chip: usize, icw4: u8) {
        self.out(chip, 0, 0x11);
        self.out(chip, 1, 0x30 + chip as u8 * 8);
        self.out(chip, 1, [4, 2][chip]);
        self.out(chip, 1, icw4);
    }

    fn out(&self, chip: usize, offset: u16, value: u8) {
        self.ports[chip].write(offset, 1, value as u32);
    }

    fn input(&self, chip: usize, offset: u16) -> u8 {
        self.ports[chip].read(offset, 1) as u8
    }

    fn set(&self, irq: u8, level: bool) {
        self.pic.irq(irq).set(level);
    }

    fn pulse(&self, irq: u8) {
        self.set(irq, false);
        self.set(irq, true);
    }

    /// The processor's acknowledge, if INTR asks for it.
    fn take(&self) -> Option<u8> {
        self.intr.level().then(|| self.pic.acknowledge())
    }

    fn in_service(&self, chip: usize) -> u8 {
        self.out(chip, 0, 0x0b);
        self.input(chip, 0)
    }
}

const EOI: u8 = 0x20;

#[test]
fn priorities_nest() {
    let b = Board::new();
    b.pulse(4);
    assert_eq!(b.take(), Some(0x34));
    b.pulse(5);
    assert_eq!(b.take(), None, "lower waits");
    b.pulse(1);
    assert_eq!(b.take(), Some(0x31), "higher nests");
    assert_eq!(b.in_service(0), 0x12);
    b.out(0, 0, EOI);
    assert_eq!(b.in_service(0), 0x10);
    b.out(0, 0, EOI);
    assert_eq!(b.take(), Some(0x35));
}

#[test]
fn the_cascade_needs_two_acknowledges_and_two_ends() {
    let b = Board::new();
    b.pulse(12);
    assert_eq!(b.take(), Some(0x3c));
    assert_eq!((b.in_service(0), b.in_service(1)), (4, 0x10));
    b.pulse(8);
    b.out(0, 0, EOI);
    assert_eq!(
        b.take(),
        Some(0x38),
        "higher on the second chip, once the first is free"
    );
    b.pulse(14);
    b.out(1, 0, EOI);
    b.out(0, 0, EOI);
    assert_eq!(b.take(), None, "12 is still in service");
    b.out(1, 0, EOI);
    assert_eq!(b.take(), Some(0x3e));
    b.pulse(0);
    assert_eq!(
        b.take(),
        Some(0x30),
        "the first chip's 0 and 1 are above the cascade"
    );
}

#[test]
fn special_fully_nested_mode_lets_the_second_chip_nest() {
    let b = Board::new();
    b.init(0, 0x11);
    b.pulse(12);
    assert_eq!(b.take(), Some(0x3c));
    b.pulse(8);
    assert_eq!(b.take(), Some(0x38));
    b.pulse(3);
    assert_eq!(b.take(), None);
}

#[test]
fn a_request_that_has_gone_is_spurious() {
    let b = Board::new();
    b.pic.elcr().write(1, 1, 0xff);
    assert_eq!(
        b.pic.elcr().read(1, 1),
        0xde,
        "8 and 13 cannot be level-triggered"
    );
    b.set(9, true);
    assert!(b.intr.level());
    b.set(9, false);
    assert!(!b.intr.level());
    assert_eq!(b.pic.acknowledge(), 0x37);
    assert_eq!(b.in_service(0), 0);
}

#[test]
fn levels_stay_and_edges_do_not() {
    let b = Board::new();
    b.pic.elcr().write(0, 1, 0x20);
    b.set(5, true);
    assert_eq!(b.take(), Some(0x35));
    b.out(0, 0, EOI);
    assert_eq!(b.take(), Some(0x35), "still asserted");
    b.set(5, false);
    b.out(0, 0, EOI);
    assert_eq!(b.take(), None);
    b.set(6, true);
    assert_eq!(b.take(), Some(0x36));
    b.out(0, 0, EOI);
    assert_eq!(b.take(), None, "an edge counts once");
    b.set(6, true);
    assert_eq!(b.take(), None);
}

#[test]
fn masks_hold_requests_back() {
    let b = Board::new();
    b.out(0, 1, 0x08);
    b.pulse(3);
    assert_eq!(b.take(), None);
    assert_eq!(b.input(0, 1), 8);
    b.out(0, 0, 0x0a);
    assert_eq!(b.input(0, 0), 8, "requested all the same");
    b.out(0, 1, 0);
    assert_eq!(b.take(), Some(0x33));
}

#[test]
fn rotation() {
    let b = Board::new();
    b.pulse(4);
    assert_eq!(b.take(), Some(0x34));
    b.out(0, 0, 0xa0);
    b.pulse(4);
    b.pulse(6);
    assert_eq!(b.take(), Some(0x36), "4 is the lowest now");
    b.out(0, 0, 0x66);
    assert_eq!(b.take(), Some(0x34));
    b.out(0, 0, 0xe4);
    b.out(0, 0, 0xc2);
    b.pulse(0);
    b.pulse(3);
    assert_eq!(b.take(), Some(0x33), "priority set: 3 is the highest");
}

#[test]
fn automatic_end_of_interrupt() {
    let b = Board::new();
    b.init(0, 3);
    b.out(0, 0, 0x80);
    b.pulse(1);
    b.pulse(3);
    assert_eq!(b.take(), Some(0x31));
    assert_eq!(b.in_service(0), 0);
    b.pulse(1);
    assert_eq!(b.take(), Some(0x33), "rotated");
    assert_eq!(b.take(), Some(0x31));
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let b = Board::new();
    b.pulse(3);
    assert_eq!(b.take(), Some(0x33));
    b.out(0, 1, 0x08);
    b.pulse(5);
    assert_eq!(b.take(), None);
    b.out(0, 0, 0x68);
    assert_eq!(b.take(), Some(0x35));
    b.out(0, 0, EOI);
    assert_eq!(
        b.in_service(0),
        8,
        "a masked one is not ended by a non-specific EOI"
    );
    b.out(0, 0, 0x63);
    assert_eq!(b.in_service(0), 0);
}

#[test]
fn polling_is_an_acknowledge() {
    let b = Board::new();
    b.pulse(6);
    b.out(0, 0, 0x0c);
    assert_eq!(b.input(0, 0), 0x86);
    assert!(!b.intr.level());
    assert_eq!(b.in_service(0), 0x40);
    b.out(0, 0, 0x0c);
    assert_eq!(b.input(0, 0), 0);
}

#[test]
fn initialization_without_icw3_and_icw4() {
    let b = Board::raw();
    b.out(0, 0, 0x12);
    b.out(0, 1, 0x57);
    b.out(0, 1, 0xf0);
    assert_eq!(b.input(0, 1), 0xf0);
    b.pulse(0);
    assert_eq!(b.take(), Some(0x50));
}

#[test]
fn linux_finds_the_chip() {
    // probe_8259A: masks read back, and the second chip's are apart.
    let b = Board::raw();
    b.out(1, 1, 0xff);
    b.out(0, 1, 0xfb);
    assert_eq!(b.input(0, 1), 0xfb);
}

proptest! {
    #[test]
    fn any_access_is_harmless(ops in prop::collection::vec((0u8..6, any::<u8>(), any::<u8>()), 0..300)) {
        let b = Board::raw();
        for (op, at, value) in ops {
            let (chip, port) = (at as usize & 1, at as u16 >> 1 & 1);
            match op {
                0 | 1 => b.out(chip, port, value),
                2 => drop(b.input(chip, port)),
                3 => b.set(value % 20, at & 1 != 0),
                4 => b.pic.elcr().write(port, 1, value as u32),
                _ => {
                    if let Some(v) = b.take() {
                        prop_assert!(b.pic.pair.lock().chips.iter().any(|c| c.vector(Some(0)) == v & 0xf8));
                    }
                }
            }
            let level = b.intr.level();
            prop_assert_eq!(b.pic.pair.lock().settle(), level);
        }
        let Migrate::State(record) = b.pic.migrate() else { panic!() };
        let other = Board::raw();
        prop_assert_eq!(other.pic.restore(&record), Ok(()));
        prop_assert_eq!(other.intr.level(), b.intr.level());
    }
}
