//! What comes from the guest. Nothing in it is believed (RFC 9293 §3.10.7, RFC 5961).

use super::conn::{Conn, Fate, State};
use super::segment::{ACK, FIN, RST, SYN, Segment};
use super::seq::{before, later, until};
use super::{segment, socket};
use crate::packet::Gather;
use crate::user::core::Core;
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::io::ErrorKind;
use std::os::fd::AsFd;

/// Smallest segments that are made, whatever the guest says.
const MIN_MSS: u16 = 88;
/// Acknowledgements of the same after which what follows is taken for lost (RFC 5681 §3.2).
const DUPLICATES: u8 = 3;

/// Takes a segment of a connection, which is in `packet`. `scratch` is for what is thrown away.
pub fn input(
    conn: &mut Conn,
    core: &mut Core,
    segment: &Segment,
    packet: &dyn Gather,
    scratch: &mut [u8],
) -> Fate {
    conn.ends.to_mac = segment.mac;
    let fate = match conn.state {
        State::Connecting => connecting(conn, core, segment),
        State::SynSent => syn_sent(conn, core, segment),
        State::SynReceived => match syn_received(conn, core, segment) {
            None => open(conn, core, segment, packet, scratch),
            Some(fate) => fate,
        },
        State::Open | State::TimeWait => open(conn, core, segment, packet, scratch),
    };
    if fate == Fate::Lives {
        conn.get_ready(core);
        conn.arm(core);
    }
    fate
}

/// The guest's first segment: what it says of itself.
pub fn first(conn: &mut Conn, core: &Core, segment: &Segment) {
    conn.rcv_nxt = segment.seq.wrapping_add(1);
    conn.rcv_edge = conn.rcv_nxt;
    conn.shift = segment.shift;
    conn.snd_wnd = segment.window.into();
    let link = core.mtu - conn.ends.ip() - segment::LEN;
    conn.mss = segment.mss.unwrap_or(536).max(MIN_MSS).min(link as u16);
}

fn connecting(conn: &mut Conn, core: &Core, segment: &Segment) -> Fate {
    if segment.has(RST) && segment.seq == conn.rcv_nxt {
        return Fate::ResetHost;
    }
    if segment.has(SYN) && !segment.has(ACK) {
        // The same once more, or another one that has taken its place.
        first(conn, core, segment);
    }
    Fate::Lives
}

fn syn_sent(conn: &mut Conn, core: &Core, segment: &Segment) -> Fate {
    if !segment.has(ACK) || segment.ack != conn.snd_una.wrapping_add(1) {
        return Fate::Lives;
    }
    if segment.has(RST) {
        return Fate::ResetHost;
    }
    if !segment.has(SYN) {
        return Fate::Lives;
    }
    first(conn, core, segment);
    established(conn, core, segment.ack);
    conn.ack_now = true;
    Fate::Lives
}

fn syn_received(conn: &mut Conn, core: &Core, segment: &Segment) -> Option<Fate> {
    if segment.has(RST) {
        let exact = segment.seq == conn.rcv_nxt;
        return Some(if exact { Fate::ResetHost } else { Fate::Lives });
    }
    if segment.has(SYN) {
        conn.syn_now |= segment.seq.wrapping_add(1) == conn.rcv_nxt;
        return Some(Fate::Lives);
    }
    if !segment.has(ACK) || segment.ack != conn.snd_una.wrapping_add(1) {
        return Some(Fate::Lives);
    }
    // Of this one the window is shifted.
    established(conn, core, segment.ack);
    None
}

fn established(conn: &mut Conn, core: &Core, ack: u32) {
    conn.state = State::Open;
    (conn.snd_una, conn.snd_nxt, conn.snd_max, conn.recover) = (ack, ack, ack, ack);
    (conn.retries, conn.since, conn.heard) = (0, core.now, core.now);
    // The socket may have had something all the time.
    conn.readable = true;
    conn.syn_now = false;
}

fn open(
    conn: &mut Conn,
    core: &mut Core,
    segment: &Segment,
    packet: &dyn Gather,
    scratch: &mut [u8],
) -> Fate {
    let (first, end) = (segment.seq, segment.seq.wrapping_add(segment.len()));
    // What has no data may also be right behind the window: some before it may not have been taken.
    let ours = until(conn.rcv_nxt, first) && until(first, conn.rcv_edge);
    if segment.has(RST) {
        // One that is guessed is asked about (RFC 5961 §3.2).
        conn.ack_now |= ours && first != conn.rcv_nxt;
        return match first == conn.rcv_nxt {
            true => Fate::ResetHost,
            false => Fate::Lives,
        };
    }
    if segment.has(SYN) {
        conn.ack_now = true;
        return Fate::Lives;
    }
    // All of it is old, or too far ahead.
    let old = before(first, conn.rcv_nxt) && until(end, conn.rcv_nxt);
    if old || (!ours && !before(first, conn.rcv_nxt)) {
        conn.ack_now = true;
        // But what it acknowledges may be new: it may be a probe.
        if !old {
            return Fate::Lives;
        }
    }
    if !segment.has(ACK) {
        return Fate::Lives;
    }
    (conn.heard, conn.probes) = (core.now, 0);
    if !acknowledge(conn, core, segment, scratch) {
        return Fate::ResetBoth;
    }
    if !old && let Some(fate) = receive(conn, core, segment, packet) {
        return fate;
    }
    finish(conn, core)
}

/// Takes what a segment acknowledges, and its window. False if the socket is broken.
fn acknowledge(conn: &mut Conn, core: &Core, segment: &Segment, scratch: &mut [u8]) -> bool {
    let ack = segment.ack;
    // Of what was never sent, or of what was acknowledged long ago (RFC 5961 §5.2).
    if before(conn.snd_max, ack) {
        conn.ack_now = true;
        return true;
    }
    if before(ack, conn.snd_una) {
        return true;
    }
    let window = u32::from(segment.window) << conn.shift.unwrap_or(0);
    let same = window == conn.snd_wnd;
    if window == 0 && conn.snd_wnd > 0 {
        conn.since = core.now;
    }
    if window == 0 || conn.snd_wnd == 0 {
        // It is there, and has no room.
        conn.retries = 0;
    }
    conn.snd_wnd = window;
    if ack == conn.snd_una {
        let duplicate = same && segment.data.is_empty() && !segment.has(FIN) && conn.snd_max != conn.snd_una;
        if !duplicate {
            return true;
        }
        conn.duplicates = conn.duplicates.saturating_add(1);
        if conn.duplicates == DUPLICATES && until(conn.recover, conn.snd_una) {
            conn.recover = conn.snd_max;
            conn.since = core.now;
            conn.rewind();
        }
        return true;
    }
    let mut len = ack.wrapping_sub(conn.snd_una);
    if conn.fin.is_some_and(|fin| ack == fin.wrapping_add(1)) {
        len -= 1;
    }
    conn.snd_una = ack;
    conn.snd_nxt = later(conn.snd_nxt, ack);
    conn.recover = later(conn.recover, ack);
    (conn.duplicates, conn.retries, conn.since) = (0, 0, core.now);
    // Where what was sent hides it, the end is seen only now.
    conn.readable |= conn.hung_up;
    socket::discard(conn, len, scratch).is_ok()
}

/// Takes data and FIN.
fn receive(conn: &mut Conn, core: &Core, segment: &Segment, packet: &dyn Gather) -> Option<Fate> {
    if segment.len() == 0 {
        return None;
    }
    conn.ack_now = true;
    // What is missing comes again, and this after it.
    if before(conn.rcv_nxt, segment.seq) || conn.guest_fin {
        return None;
    }
    let skipped = conn.rcv_nxt.wrapping_sub(segment.seq) as usize;
    let mut data = segment.data.start + skipped.min(segment.data.len())..segment.data.end;
    let allowed = conn.rcv_edge.wrapping_sub(conn.rcv_nxt) as usize;
    data.end = data.end.min(data.start + allowed);
    let socket = conn.socket.as_ref()?;
    while !data.is_empty() {
        match packet.write_to(data.clone(), socket.as_fd()) {
            Ok(n) => {
                conn.rcv_nxt = conn.rcv_nxt.wrapping_add(n as u32);
                data.start += n;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // The rest is not acknowledged, and comes again when there is room.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                conn.narrow = true;
                core.watch_again(socket, conn.token);
                return None;
            }
            Err(_) => return Some(Fate::ResetBoth),
        }
    }
    let fin = segment.seq.wrapping_add(segment.data.len() as u32);
    if segment.has(FIN) && fin == conn.rcv_nxt {
        conn.rcv_nxt = conn.rcv_nxt.wrapping_add(1);
        conn.rcv_edge = later(conn.rcv_edge, conn.rcv_nxt);
        conn.guest_fin = true;
        conn.closed_first = conn.fin.is_some_and(|fin| before(fin, conn.snd_max));
        match rustix::net::shutdown(socket, Shutdown::Write) {
            // The other end may have reset it already, which is seen soon.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(_) => return Some(Fate::ResetBoth),
        }
    }
    None
}

/// Whether both ways are shut down now.
fn finish(conn: &mut Conn, core: &Core) -> Fate {
    let acknowledged = conn.fin.is_some_and(|fin| conn.snd_una == fin.wrapping_add(1));
    if conn.state != State::Open || !conn.guest_fin || !acknowledged {
        return Fate::Lives;
    }
    if !conn.closed_first {
        return Fate::Ends;
    }
    // The kernel sees to what is left of its end.
    conn.socket = None;
    conn.state = State::TimeWait;
    conn.since = core.now;
    Fate::Lives
}
