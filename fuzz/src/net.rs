//! Packets of another domain on any bytes: they are passed on, finished, cut up or refused, and what comes out
//! is fit for the guest.
#![no_main]

use donjon_net::{HEADER, Header, MAX_PACKET, MAX_SEGMENTS, Offloads, Segments};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says what the guest takes undone.
    let Some((&accepted, packet)) = bytes.split_first() else {
        return;
    };
    let accepted = Offloads::from_bits(accepted);
    let mut segments = match Segments::new(packet.to_vec(), accepted) {
        Ok(segments) => segments,
        // The texts must hold for whatever the packet says.
        Err(e) => return drop(e.to_string()),
    };
    let (mut out, mut count, mut frames) = (vec![], 0, 0);
    while segments.next(&mut out) {
        count += 1;
        frames += out.len() - HEADER;
        assert!(out.len() <= packet.len().min(MAX_PACKET));
        let header = Header::from_bytes(*out.first_chunk().expect("a header"));
        assert_eq!(header.num_buffers, 1);
        if !accepted.contains(Offloads::CSUM) {
            assert_eq!((header.flags, header.gso_type), (0, Header::GSO_NONE));
        }
        if header.gso_type != Header::GSO_NONE {
            assert!(header.gso_size > 0 && header.flags == Header::NEEDS_CSUM);
        }
        if header.flags != 0 {
            let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
            assert!(end <= out.len() - HEADER);
        }
    }
    assert!((1..=MAX_SEGMENTS).contains(&count));
    // Nothing is lost.
    assert!(frames >= packet.len() - HEADER);
});
