//! Answers to segments that belong to no connection.

use super::segment::{self, ACK, Ends, RST, Say, Segment};
use crate::header::MIN_PACKET;
use crate::user::core::Core;
use crate::user::sockets::Failure;
use crate::user::{icmp, ip};
use rustix::io::Errno;

/// Answers a SYN to where no connection was made.
pub fn failed(core: &mut Core, segment: &Segment, e: Errno) {
    match Failure::from_errno(e) {
        Some(icmp::Error::Port) | None => refuse(core, segment),
        Some(why) => unreachable(core, segment, why),
    }
}

/// Answers a segment that belongs to no connection (RFC 9293 §3.10.7.1).
pub fn refuse(core: &mut Core, segment: &Segment) {
    let ends = Ends {
        to_mac: segment.mac,
        from_mac: core.addresses.mac,
        from: segment.to,
        to: segment.from,
    };
    let say = match segment.has(ACK) {
        true => Say {
            seq: segment.ack,
            flags: RST,
            ..Say::default()
        },
        false => Say {
            ack: segment.seq.wrapping_add(segment.len()),
            flags: RST | ACK,
            ..Say::default()
        },
    };
    core.send(ends.bare(say));
}

/// Answers a SYN to where there is no way.
pub fn unreachable(core: &mut Core, segment: &Segment, why: icmp::Error) {
    let addresses = (segment.from.ip(), segment.to.ip());
    let packet = ip::begin([0; 6], segment.mac, addresses, ip::TCP, segment::LEN);
    let mut original = packet[MIN_PACKET..].to_vec();
    original.extend(segment.from.port().to_be_bytes());
    original.extend(segment.to.port().to_be_bytes());
    original.extend(segment.seq.to_be_bytes());
    original.extend(segment.ack.to_be_bytes());
    original.extend([0x50, segment.flags, 0, 0, 0, 0, 0, 0]);
    core.unreachable(segment.mac, addresses, why, &original);
}
