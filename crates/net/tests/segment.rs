//! Finishing checksums and cutting packets up, against what RFCs say.

mod common;

use common::{Make, see};
use donjon_net::{HEADER, Header, MAX_PACKET, MAX_SEGMENTS, Malformed, Offloads, Segments};
use proptest::prelude::*;

fn all(packet: Vec<u8>, accepted: Offloads) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut segments = Segments::new(packet, accepted)?;
    let (mut all, mut out) = (vec![], vec![]);
    while segments.next(&mut out) {
        all.push(out.clone());
    }
    assert!(!segments.next(&mut out), "it has ended");
    Ok(all)
}

fn make() -> impl Strategy<Value = Make> {
    let kind = (any::<bool>(), any::<bool>(), any::<bool>(), 0..5usize);
    let rest = (
        any::<u8>(),
        any::<u32>(),
        any::<u16>(),
        60..9000u16,
        0..60_000usize,
    );
    (kind, rest).prop_map(
        |((v6, tcp, vlan, options), (flags, sequence, id, size, len))| Make {
            v6,
            tcp,
            vlan,
            options,
            flags,
            sequence,
            id,
            size,
            payload: (0..len).map(|n| (n * 7 + n / 256) as u8).collect(),
        },
    )
}

fn example() -> Make {
    Make {
        v6: false,
        tcp: true,
        vlan: false,
        options: 3,
        flags: 0x99,
        sequence: u32::MAX - 1000,
        id: u16::MAX,
        size: 1000,
        payload: vec![0xee; 2500],
    }
}

#[test]
fn tcp_is_cut_into_segments() {
    let segments: Vec<_> = all(example().packet(), Offloads::NONE)
        .unwrap()
        .iter()
        .map(|s| see(s))
        .collect();
    let told: Vec<_> = segments
        .iter()
        .map(|s| (s.sequence, s.id, s.flags, s.payload.len()))
        .collect();
    // CWR in the first only, FIN and PSH in the last only.
    assert_eq!(
        told,
        [
            (u32::MAX - 1000, u16::MAX, 0x90, 1000),
            (u32::MAX, 0, 0x10, 1000),
            (999, 1, 0x19, 500)
        ]
    );
}

#[test]
fn what_is_accepted_stays_whole() {
    let packet = example().packet();
    let tso = Offloads::CSUM | Offloads::TSO4;
    let whole = all(packet.clone(), tso | Offloads::ECN).unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0][HEADER..], packet[HEADER..]);
    let header = Header::from_bytes(*whole[0].first_chunk().unwrap());
    assert_eq!(header.gso_type, Header::GSO_TCPV4 | Header::GSO_ECN);
    assert_eq!((header.gso_size, header.num_buffers), (1000, 1));
    assert_eq!(header.hdr_len, 14 + 32 + 32);
    for accepted in [
        tso,
        Offloads::ALL.without(Offloads::CSUM),
        Offloads::ALL.without(Offloads::TSO4),
    ] {
        assert_eq!(all(packet.clone(), accepted).unwrap().len(), 3, "{accepted:?}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let good = example().packet();
    let header = Header::from_bytes(*good.first_chunk().unwrap());
    let refused = |header: Header, change: &dyn Fn(&mut [u8])| {
        let mut packet = good.clone();
        packet[..HEADER].copy_from_slice(&header.to_bytes());
        change(&mut packet[HEADER..]);
        all(packet, Offloads::NONE).expect_err("refused")
    };
    let same = |_: &mut [u8]| {};
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = header;
        change(&mut header);
        refused(header, &same)
    };
    assert_eq!(with(&|h| h.gso_size = 0), Malformed::Segments(0));
    assert_eq!(with(&|h| h.gso_size = 1), Malformed::Segments(1));
    assert_eq!(with(&|h| h.flags = 0), Malformed::Headers);
    assert_eq!(with(&|h| h.csum_start -= 2), Malformed::Headers);
    assert_eq!(with(&|h| h.csum_start = 0xffff), Malformed::Checksum);
    assert_eq!(with(&|h| h.csum_offset = 6), Malformed::Headers);
    assert_eq!(with(&|h| h.gso_type = Header::GSO_TCPV6), Malformed::Headers);
    assert_eq!(with(&|h| h.gso_type = Header::GSO_UDP_L4), Malformed::Headers);
    for kind in [2, 3, 6, 0x80, 0x85, 0x7f] {
        assert_eq!(with(&|h| h.gso_type = kind), Malformed::Type(kind));
    }
    // The hint is ignored.
    let mut hint = good.clone();
    hint[2..4].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(all(hint, Offloads::NONE).unwrap().len(), 3);
    // And headers of the frame: type, version, header length, fragment, protocol, TCP's length.
    for (at, value) in [
        (12, 0x86),
        (14, 0x65),
        (14, 0x44),
        (14, 0x4f),
        (20, 0x20),
        (21, 1),
        (23, 17),
        (58, 0x40),
    ] {
        assert_eq!(refused(header, &|f| f[at] = value), Malformed::Headers, "{at}");
    }
    // Headers that reach beyond the end.
    for len in HEADER + 14..good.len() - 2500 {
        assert!(all(good[..len].to_vec(), Offloads::NONE).is_err(), "{len}");
    }
}

#[test]
fn the_largest_packet_is_cut_up() {
    let mut make = example();
    make.payload = vec![5; 65535 - 32 - 32];
    make.size = 64;
    let segments = all(make.packet(), Offloads::NONE).unwrap();
    assert_eq!(segments.len(), make.payload.len().div_ceil(64));
    make.size = 63;
    assert_eq!(
        all(make.packet(), Offloads::NONE).unwrap_err(),
        Malformed::Segments(63)
    );
    // IPv4 cannot say more.
    make.payload.push(0);
    make.size = 1000;
    assert_eq!(
        all(make.packet(), Offloads::NONE).unwrap_err(),
        Malformed::Length(MAX_PACKET + 1)
    );
}

proptest! {
    #[test]
    fn segments_put_together_are_the_packet(make in make()) {
        prop_assume!(make.payload.len().div_ceil(make.size.into()) <= MAX_SEGMENTS);
        let segments = all(make.packet(), Offloads::NONE).unwrap();
        prop_assert_eq!(segments.len(), make.payload.len().div_ceil(make.size.into()).max(1));
        let mut together = vec![];
        for (n, segment) in segments.iter().enumerate() {
            let seen = see(segment);
            let (first, last) = (n == 0, n + 1 == segments.len());
            prop_assert_eq!((seen.v6, seen.tcp), (make.v6, make.tcp));
            prop_assert!(seen.payload.len() == usize::from(make.size) || last);
            if !make.v6 {
                prop_assert_eq!(seen.id, make.id.wrapping_add(n as u16));
            }
            if make.tcp {
                prop_assert_eq!(seen.sequence, make.sequence.wrapping_add(together.len() as u32));
                let mut flags = make.flags;
                if !first { flags &= !0x80; }
                if !last { flags &= !0x09; }
                prop_assert_eq!(seen.flags, flags);
            }
            together.extend(seen.payload);
        }
        prop_assert_eq!(together, make.payload);
    }

    #[test]
    fn checksums_are_finished(mut make in make()) {
        make.size = 0;
        let packet = make.packet();
        let done = all(packet.clone(), Offloads::NONE).unwrap();
        prop_assert_eq!(done.len(), 1);
        prop_assert_eq!(see(&done[0]).payload, make.payload);
        // Or left alone.
        prop_assert_eq!(&all(packet.clone(), Offloads::CSUM).unwrap()[0][HEADER..], &packet[HEADER..]);
    }

    /// Nothing in a packet makes anything but packets of it, or an error.
    #[test]
    fn nonsense_is_survived(make in make(), bits: u8, changes in prop::collection::vec((0..140usize, any::<u8>()), 0..6), len in 0..70_000usize) {
        let mut packet = make.packet();
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(len);
        let total = packet.len();
        if let Ok(segments) = all(packet, Offloads::from_bits(bits)) {
            prop_assert!(segments.len() <= MAX_SEGMENTS);
            prop_assert!(segments.iter().all(|s| s.len() <= total && s.len() <= MAX_PACKET));
        }
    }
}
