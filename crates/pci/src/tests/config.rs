use super::*;
use proptest::prelude::*;

#[test]
fn identification_is_read_only() {
    let b = Board::with(Sample::new());
    let before: Vec<_> = [0, 8, 0x2c, 0x34].map(|r| b.config(3, r, 4)).to_vec();
    assert_eq!(before, [0x1042_1af4, 0x0180_0001, 0x0040_1af4, 0x40]);
    for register in [0, 8, 0x2c, 0x34] {
        b.set_config(3, register, 4, 0xffff_ffff);
    }
    assert_eq!([0, 8, 0x2c, 0x34].map(|r| b.config(3, r, 4)).to_vec(), before);
    assert_eq!(b.config(3, 0x0e, 1), 0, "one function");
    assert_eq!(b.config(0, 0, 4), 0x0008_1b36);
    assert_eq!(b.config(0, 0x0a, 2), 0x0600, "host bridge");
    assert_eq!(b.config(3, 0x100, 4), 0, "no extended capabilities");
}

#[test]
fn what_is_absent_reads_as_ones() {
    let b = Board::with(Sample::new());
    assert_eq!(b.config(4, 0, 4), u32::MAX);
    b.set_config(4, 4, 4, 7);
    assert_eq!(
        b.io.mmio_read(ECAM + (3 << 15) + (1 << 12), 4),
        0xffff_ffff,
        "function 1"
    );
    assert_eq!(b.io.mmio_read(ECAM + (1 << 20), 4), 0xffff_ffff, "bus 1");
}

#[test]
fn both_ways_lead_to_the_same_registers() {
    let b = Board::with(Sample::new());
    let io = &b.io;
    io.port_out(0xcf8, 4, 0x8000_0000 | 3 << 11 | 0x3c);
    assert_eq!(io.port_in(0xcf8, 4), 0x8000_183c);
    io.port_out(0xcfc, 1, 0x55);
    assert_eq!(b.config(3, 0x3c, 1), 0x55);
    assert_eq!(
        (io.port_in(0xcfd, 1), io.port_in(0xcfc, 2)),
        (b.config(3, 0x3d, 1), 0x0155)
    );
    assert_eq!(io.port_in(0xcfc, 4), b.config(3, 0x3c, 4));
    io.port_out(0xcf8, 4, 0xffff_ffff);
    assert_eq!(io.port_in(0xcf8, 4), 0x80ff_fffc, "reserved bits");
    for nothing in [3 << 11, 0x8000_0000 | 4 << 11, 0x8001_0000 | 3 << 11] {
        io.port_out(0xcf8, 4, nothing);
        assert_eq!(io.port_in(0xcfc, 4), 0xffff_ffff, "{nothing:#x}");
        io.port_out(0xcfc, 4, 0);
    }
}

#[test]
fn the_address_is_a_dword_and_between_its_bytes_is_the_reset_register() {
    let b = Board::with(Sample::new());
    b.io.port_out(0xcf8, 4, 0x8000_1800);
    for (port, size) in [(0xcf8, 1), (0xcf8, 2), (0xcf9, 1), (0xcfa, 2), (0xcfb, 1)] {
        b.io.port_out(port, size, 0);
    }
    assert_eq!(b.io.port_in(0xcf8, 4), 0x8000_1800);
    assert_eq!(b.io.port_in(0xcf9, 1), 0xf1);
    assert_eq!(b.io.port_in(0xcf8, 2), 0xf1ff);
    assert_eq!(b.io.port_in(0xcfa, 4), 0x1af4_ffff, "half of each register");
}

#[test]
fn accesses_may_run_from_one_function_into_the_next() {
    let b = Board::with(Sample::new());
    assert_eq!(b.io.mmio_read(ECAM + (3 << 15) - 2, 4), 0x1af4_ffff);
    b.io.mmio_write(ECAM + (3 << 15) + 0xffe, 4, 0);
}

#[test]
fn capabilities_are_linked_and_complete() {
    let b = Board::with(Sample::new());
    assert_eq!(b.config(3, 6, 2) & 0x10, 0x10);
    assert_eq!(b.config(0, 6, 2) & 0x10, 0);
    let (pm, express, msix) = (
        b.capability(3, 1, None),
        b.capability(3, 16, None),
        b.capability(3, 17, None),
    );
    assert_eq!(b.config(3, pm + 2, 2), 3);
    assert_eq!(
        b.config(3, express + 2, 2),
        0x92,
        "version 2, integrated endpoint"
    );
    assert_eq!(b.config(3, express + 4, 4), 1 << 28 | 1 << 15);
    assert_eq!(b.config(3, msix + 2, 2), 2, "three vectors");
    assert_eq!(
        (b.config(3, msix + 4, 4), b.config(3, msix + 8, 4)),
        (1, 0x1001),
        "both in BAR 1"
    );
}

#[test]
fn capabilities_of_the_function_are_its_own() {
    let sample = Sample::new();
    let b = Board::with(sample.clone());
    let first = b.capability(3, 9, None);
    let second = b.capability(3, 9, Some(first));
    assert_eq!(
        (b.config(3, first + 2, 2), b.config(3, first + 4, 4)),
        (0x0108, 0x0504_0302)
    );
    sample.log();
    b.set_config(3, first + 4, 4, 0);
    assert_eq!(b.config(3, first + 4, 4), 0x0504_0302);
    b.set_config(3, second + 4, 1, 0xab);
    b.set_config(3, second + 2, 4, 0xffff_ffff);
    let log = sample.log();
    assert_eq!(log[0], "capability 0 4..8 [02, 03, 04, 05]");
    assert_eq!(log[1], "capability 1 4..5 [a0]");
    assert_eq!(log[2], "capability 1 2..6 [08, 05, f0, 00]");
    assert_eq!(
        (b.config(3, second + 6, 2), b.config(3, second + 6, 2)),
        (0, 1),
        "computed"
    );
    assert_eq!(
        b.config(3, second, 1),
        9,
        "the ID is not writable, whatever the function says"
    );
}

#[test]
fn function_level_reset() {
    let sample = Sample::new();
    let b = Board::with(sample.clone());
    let control = b.capability(3, 16, None) + 8;
    b.set_config(3, 4, 2, 0x0406);
    b.set_config(3, control, 2, 0x7fff);
    assert_eq!(b.config(3, control, 2), 0x781f, "the reset bit reads as zero");
    sample.log();
    sample.interrupts().line(true);
    let bar = b.bar(3, 0);
    b.set_config(3, control, 2, 0x8000);
    assert_eq!(sample.log(), ["master false", "reset"]);
    assert_eq!(
        (b.config(3, 4, 2), b.config(3, control, 2), b.bar(3, 0)),
        (0, 0x2810, 0)
    );
    assert_eq!(b.io.mmio_read(bar, 4), 0xffff_ffff);
    assert!(!sample.interrupts().asserted());
    assert_eq!(b.config(3, 0x3d, 1), 1, "the pin stays what it is");
}

#[test]
fn d3hot_turns_everything_off_and_d0_on_again() {
    let sample = Sample::new();
    let b = Board::with(sample.clone());
    let control = b.capability(3, 1, None) + 4;
    b.set_config(3, 4, 2, 7);
    sample.interrupts().line(true);
    let bar = b.bar(3, 0);
    b.set_config(3, control, 2, 3);
    assert_eq!(b.io.mmio_read(bar, 4), 0xffff_ffff);
    assert!(!sample.master.load(SeqCst) && b.lines.iter().all(|l| !l.0.load(SeqCst)));
    assert_eq!(b.config(3, control, 2), 0xb);
    for unsupported in [1, 2] {
        b.set_config(3, control, 1, unsupported);
        assert_eq!(b.config(3, control, 2), 0xb, "stays in D3hot");
    }
    b.set_config(3, control, 2, 0);
    assert_eq!(b.io.mmio_read(bar, 4), 0, "the BAR is back");
    assert!(sample.master.load(SeqCst) && b.lines.iter().any(|l| l.0.load(SeqCst)));
    b.set_config(3, control, 1, 2);
    assert_eq!(b.config(3, control, 2), 8, "stays in D0");
}

#[test]
fn impossible_descriptions_are_refused() {
    let bar = |index, kind, size| Sample::with(vec![Bar { index, kind, size }], 0);
    let wide = BarKind::Memory64 { prefetchable: true };
    let narrow = BarKind::Memory32 { prefetchable: false };
    let index = |n| DescriptionError::BarIndex(n);
    let size = |index, size| DescriptionError::BarSize { index, size };
    for (sample, error) in [
        (bar(6, narrow, 0x1000), index(6)),
        (bar(255, narrow, 0x1000), index(255)),
        (bar(5, wide, 0x1000), index(5)),
        (bar(0, narrow, 0x1800), size(0, 0x1800)),
        (bar(0, narrow, 0), size(0, 0)),
        (bar(0, narrow, 1 << 32), size(0, 1 << 32)),
        (bar(0, wide, 1 << 63), size(0, 1 << 63)),
        (bar(0, BarKind::Io, 512), size(0, 512)),
        (
            Sample::with(
                vec![Bar {
                    index: 0,
                    kind: wide,
                    size: 0x1000,
                }],
                1,
            ),
            index(1),
        ),
        (Sample::with(vec![], 2049), DescriptionError::Vectors(2049)),
    ] {
        let refused = Board::try_new(vec![Device::new(sample)]).err();
        assert_eq!(refused, Some(PlugError::Description { function: 0, error }));
    }
}

proptest! {
    /// Bit for bit: what all ones and all zeros leave behind is what any value leaves.
    #[test]
    fn any_write_changes_only_writable_bits(register in 0u64..256, value: u32, size in 0u8..3) {
        let size = 1 << size;
        let b = Board::with(Sample::with(vec![], 0));
        let register = register / u64::from(size) * u64::from(size);
        // Not the self-changing bytes of the second capability, nor a reset, nor unsupported power states.
        let special = [b.capability(3, 16, None) + 8, b.capability(3, 1, None) + 4];
        let own = b.capability(3, 9, None)..0x100;
        prop_assume!(!own.contains(&register) && special.iter().all(|s| register + u64::from(size) <= *s || register > s + 1));
        let mask = u32::MAX >> (32 - 8 * u32::from(size));
        b.set_config(3, register, size, 0);
        let zeros = b.config(3, register, size);
        b.set_config(3, register, size, u32::MAX);
        let ones = b.config(3, register, size);
        b.set_config(3, register, size, value);
        prop_assert_eq!(b.config(3, register, size), zeros | value & ones & mask);
        prop_assert_eq!(zeros & !ones, 0);
    }
}
