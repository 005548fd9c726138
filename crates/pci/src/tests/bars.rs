use super::*;

#[test]
fn power_on_leaves_bars_assigned_and_decoding() {
    let sample = Sample::new();
    let b = Board::with(sample.clone());
    assert_eq!(b.config(3, 4, 2), 3, "I/O and memory, no bus master");
    assert_eq!(b.config(3, 0x3c, 1), 11, "interrupt line");
    let (small, wide) = (b.bar(3, 0), b.bar(3, 4));
    assert!(LOW.contains(&small) && HIGH.contains(&wide));
    assert_eq!(b.io.mmio_read(small + 0x3ffc, 4), 0x3ffc);
    assert_eq!(b.io.mmio_read(wide + 0xf_fff8, 8), 4 << 56 | 0xf_fff8);
    assert_eq!(
        b.io.mmio_read(wide + 0xf_fffc, 8),
        0xffff_ffff_000f_fffc,
        "never beyond the end"
    );
    let port = b.config(3, 0x18, 4);
    assert_eq!(port & 3, 1);
    assert_eq!(b.io.port_in(port as u16 & !3, 4), 0);
    sample.log();
    b.io.port_out((port as u16 & !3) + 0x1e, 2, 0xabcd);
    b.io.mmio_write(wide + 8, 8, 0x1122_3344_5566_7788);
    assert_eq!(sample.log(), ["2+0x1e 2 0xabcd", "4+0x8 8 0x1122334455667788"]);
}

#[test]
fn sizing() {
    let b = Board::with(Sample::new());
    b.set_config(3, 4, 2, 0);
    for (register, ones) in [
        (0x10, 0xffff_c000),
        (0x14, 0xffff_e000),
        (0x18, 0xffff_ffe1),
        (0x1c, 0),
        (0x20, 0xfff0_000c),
        (0x24, 0xffff_ffff),
        (0x30, 0),
    ] {
        b.set_config(3, register, 4, 0xffff_ffff);
        assert_eq!(b.config(3, register, 4), ones, "{register:#x}");
    }
    // An operating system that sizes without turning decoding off does no harm either.
    b.set_config(3, 4, 2, 3);
    assert_eq!(b.io.mmio_read(FIXED, 1), 0xf1);
}

#[test]
fn bars_come_go_and_move() {
    let b = Board::with(Sample::new());
    let (old, new) = (b.bar(3, 0), 0xd000_0000);
    b.set_config(3, 4, 1, 1);
    assert_eq!(b.io.mmio_read(old, 4), 0xffff_ffff);
    b.set_config(3, 0x10, 4, new as u32);
    assert_eq!(b.io.mmio_read(new, 4), 0xffff_ffff);
    b.set_config(3, 4, 1, 2);
    assert_eq!((b.io.mmio_read(old, 4), b.io.mmio_read(new, 4)), (0xffff_ffff, 0));
    // While it decodes, in two steps.
    b.set_config(3, 0x20, 4, 0x0010_0000);
    b.set_config(3, 0x24, 4, 0xff);
    assert_eq!(b.io.mmio_read(0xff_0010_0004, 4), 4);
}

#[test]
fn bars_stay_in_their_windows() {
    let b = Board::with(Sample::new());
    let ecam = b.config(0, 0, 4);
    for at in [
        0,
        0x10_0000,
        0xbfff_c000,
        0xe000_0000,
        0xfec0_0000,
        0xfee0_0000,
        0xffff_c000u32,
    ] {
        b.set_config(3, 0x10, 4, at);
        assert_eq!(
            b.io.mmio_read(u64::from(at), 4),
            match at {
                0xe000_0000 => u64::from(ecam),
                0xfec0_0000 => 0xf1,
                _ => 0xffff_ffff,
            },
            "{at:#x}"
        );
    }
    for (low, high) in [
        (0, 0),
        (0, 1),
        (0xfff0_0000, 0x7f),
        (0, 0x100),
        (0xfff0_0000, 0xffff_ffff),
    ] {
        b.set_config(3, 0x20, 4, low);
        b.set_config(3, 0x24, 4, high);
        assert_eq!(
            b.io.mmio_read(u64::from(high) << 32 | u64::from(low), 1),
            0xff,
            "{high:#x}{low:08x}"
        );
    }
    b.set_config(3, 0x18, 4, 0xcf8);
    b.io.port_out(0xcf8, 4, 0x8000_0000);
    assert_eq!(
        b.io.port_in(0xcfc, 4),
        ecam,
        "the configuration ports are not shadowed"
    );
}

#[test]
fn of_overlapping_bars_the_lowest_function_has_the_addresses() {
    let (low, high) = (Sample::new(), Sample::new());
    let b = Board::new(vec![Device::at(2, low.clone()), Device::at(4, high.clone())]);
    let (mine, other) = (b.bar(2, 0), b.bar(4, 0));
    let writes_reach = |at: u64| {
        low.log();
        high.log();
        b.io.mmio_write(at, 4, 1);
        (low.log().len(), high.log().len())
    };
    b.set_config(4, 0x10, 4, mine as u32);
    assert_eq!((writes_reach(mine), writes_reach(other)), ((1, 0), (0, 0)));
    b.set_config(2, 0x10, 4, other as u32);
    assert_eq!(
        (writes_reach(mine), writes_reach(other)),
        ((0, 1), (1, 0)),
        "swapped, one after the other"
    );
    b.set_config(2, 0x10, 4, mine as u32);
    assert_eq!(writes_reach(mine), (1, 0), "in whatever order");
    b.set_config(2, 4, 2, 0);
    assert_eq!(writes_reach(mine), (0, 1));
}

#[test]
fn everybody_gets_room_and_what_does_not_fit_stays_unmapped() {
    let wide = |size| {
        Sample::with(
            vec![Bar {
                index: 0,
                kind: BarKind::Memory64 { prefetchable: true },
                size,
            }],
            0,
        )
    };
    let b = Board::new(vec![
        Device::new(wide(0x1000)),
        Device::new(wide(1 << 38)),
        Device::new(wide(1 << 39)),
        Device::new(wide(1 << 20)),
    ]);
    assert_eq!(
        [1, 2, 3, 4].map(|s| b.bar(s, 0)),
        [1 << 39, 3 << 38, 0, (1 << 39) + (1 << 20)]
    );
    assert_eq!(b.io.mmio_read(0, 4), 0xffff_ffff);
}
