//! What goes to the guest, made when it has room for it.

use super::conn::{Conn, Fate, State};
use super::segment::{ACK, FIN, PSH, SYN};
use super::seq::later;
use super::{SHIFT, socket};
use crate::header::{HEADER, MAX_PACKET};
use crate::offloads::Offloads;
use crate::packet::Scatter;
use crate::raw;
use crate::segment::MAX_SEGMENTS;
use crate::user::core::Core;
use crate::user::link;
use rustix::net::{RecvFlags, recv};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;

/// Longest IP packet.
const LONGEST: usize = 65535;
/// Bytes that were sent and not acknowledged, at most, if peeking has to begin with them.
const IN_FLIGHT: u32 = 256 << 10;

/// What came of it.
pub enum Made {
    /// A packet of so many bytes.
    Packet(usize),
    /// Nothing now.
    Nothing,
    /// The connection cannot go on.
    Broken(Fate),
}

/// Makes the next packet, straight into the guest's buffers if possible. `scratch` has room for any.
pub fn make(conn: &mut Conn, core: &mut Core, into: &mut dyn Scatter, scratch: &mut Vec<u8>) -> Made {
    match conn.state {
        State::Connecting => Made::Nothing,
        State::SynReceived | State::SynSent if conn.syn_now => syn(conn, core, into),
        State::SynReceived | State::SynSent => Made::Nothing,
        State::Open | State::TimeWait => {
            match data(conn, core, into, scratch) {
                Made::Nothing => {}
                made => return made,
            }
            if conn.owes_fin() {
                fin(conn, core, into)
            } else if conn.ack_now || conn.probe_now {
                bare(conn, core, into)
            } else {
                Made::Nothing
            }
        }
    }
}

fn syn(conn: &mut Conn, core: &mut Core, into: &mut dyn Scatter) -> Made {
    conn.syn_now = false;
    conn.snd_nxt = conn.snd_una;
    let flags = match conn.state {
        State::SynSent => {
            let IpAddr::V4(guest) = conn.ends.to.ip() else {
                return Made::Nothing;
            };
            match core.neighbours.find(guest.into()) {
                Some(mac) => conn.ends.to_mac = mac,
                None => {
                    link::ask(core, guest);
                    return Made::Nothing;
                }
            }
            SYN
        }
        _ => {
            socket::open_window(core, conn);
            // The window in a SYN is not shifted (RFC 7323 §2.2).
            conn.rcv_edge = conn
                .rcv_nxt
                .wrapping_add(conn.rcv_edge.wrapping_sub(conn.rcv_nxt).min(0xffff));
            SYN | ACK
        }
    };
    let mut say = conn.say(flags);
    say.window = match conn.state {
        State::SynSent => 0xffff,
        _ => conn.rcv_edge.wrapping_sub(conn.rcv_nxt) as u16,
    };
    say.ack = if flags & ACK != 0 { conn.rcv_nxt } else { 0 };
    say.mss = Some(socket::mss(core, conn));
    say.shift = (conn.state == State::SynSent || conn.shift.is_some()).then_some(SHIFT);
    sent(conn, core, 1);
    store(&conn.ends.bare(say), into)
}

/// Counts what has just been sent.
fn sent(conn: &mut Conn, core: &mut Core, len: u32) {
    if conn.snd_max == conn.snd_una {
        conn.since = core.now;
    }
    conn.snd_nxt = conn.snd_nxt.wrapping_add(len);
    conn.snd_max = later(conn.snd_max, conn.snd_nxt);
    conn.ack_now = false;
}

fn fin(conn: &mut Conn, core: &mut Core, into: &mut dyn Scatter) -> Made {
    socket::open_window(core, conn);
    let packet = conn.ends.bare(conn.say(FIN | ACK));
    sent(conn, core, 1);
    store(&packet, into)
}

fn bare(conn: &mut Conn, core: &mut Core, into: &mut dyn Scatter) -> Made {
    socket::open_window(core, conn);
    let mut say = conn.say(ACK);
    if std::mem::take(&mut conn.probe_now) {
        // What the guest has had already it must acknowledge again.
        say.seq = conn.snd_una.wrapping_sub(1);
    }
    conn.ack_now = false;
    store(&conn.ends.bare(say), into)
}

fn data(conn: &mut Conn, core: &mut Core, into: &mut dyn Scatter, scratch: &mut Vec<u8>) -> Made {
    if !conn.sends_data() {
        return Made::Nothing;
    }
    let headers = conn.ends.headers();
    let Some(room) = into
        .len()
        .min(MAX_PACKET)
        .checked_sub(headers)
        .filter(|room| *room > 0)
    else {
        return Made::Nothing;
    };
    let flight = conn.in_flight();
    let mss = usize::from(conn.mss);
    let (tso, longest) = match conn.ends.from.is_ipv4() {
        true => (Offloads::TSO4, LONGEST - 40),
        false => (Offloads::TSO6, LONGEST - 20),
    };
    let most = match core.accepted.contains(Offloads::CSUM | tso) {
        true => (longest / mss).min(MAX_SEGMENTS) * mss,
        false => mss,
    };
    let mut window = conn.snd_wnd - flight;
    if !core.peeks_on {
        window = window.min(IN_FLIGHT.saturating_sub(flight));
    }
    let len = most.max(mss).min(room).min(window as usize);
    if len == 0 {
        return Made::Nothing;
    }
    let direct = core.peeks_on && core.accepted.contains(Offloads::CSUM);
    let peeked = match direct {
        true => peek(conn, into, headers..headers + len),
        false => peek_scratch(conn, core.peeks_on, scratch, len),
    };
    let n = match peeked {
        Ok(0) => {
            conn.fin = Some(conn.snd_nxt);
            return Made::Nothing;
        }
        Ok(n) => n,
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            conn.readable = false;
            return Made::Nothing;
        }
        Err(e) if e.kind() == ErrorKind::Interrupted => return Made::Nothing,
        Err(_) => return Made::Broken(Fate::ResetBoth),
    };
    socket::open_window(core, conn);
    // The guest is to acknowledge it without delay: until then it fills the socket, and the other end may wait.
    let say = conn.say(ACK | PSH);
    sent(conn, core, n as u32);
    if direct {
        into.store(0, &conn.ends.offloaded(say, n, mss));
    } else {
        let at = scratch.len() - n;
        let packet = match core.accepted.contains(Offloads::CSUM) {
            true => {
                let mut packet = conn.ends.offloaded(say, n, mss);
                packet.extend_from_slice(&scratch[at..]);
                packet
            }
            false => conn.ends.whole(say, &scratch[at..]),
        };
        into.store(0, &packet);
    }
    Made::Packet(headers + n)
}

/// Copies what follows what was sent into the guest's buffers.
fn peek(conn: &mut Conn, into: &mut dyn Scatter, range: std::ops::Range<usize>) -> io::Result<usize> {
    let Some(socket) = &conn.socket else {
        return Err(ErrorKind::WouldBlock.into());
    };
    let offset = conn.snd_nxt.wrapping_sub(conn.snd_una);
    if conn.peek != Some(offset) {
        raw::set_peek_offset(socket.as_fd(), offset)?;
    }
    let n = into.peek_from(range, socket.as_fd());
    conn.peek = n.as_ref().ok().map(|n| offset + *n as u32);
    let n = n?;
    Ok(n)
}

/// Leaves what follows what was sent at the end of `scratch`.
fn peek_scratch(conn: &mut Conn, peeks_on: bool, scratch: &mut Vec<u8>, len: usize) -> io::Result<usize> {
    if peeks_on {
        scratch.resize(len, 0);
        let n = peek(conn, &mut &mut scratch[..], 0..len)?;
        scratch.truncate(n);
        return Ok(n);
    }
    let Some(socket) = &conn.socket else {
        return Err(ErrorKind::WouldBlock.into());
    };
    // All of it again.
    let before = conn.snd_nxt.wrapping_sub(conn.snd_una) as usize;
    scratch.resize(before + len, 0);
    let (n, _) = recv(socket, &mut scratch[..], RecvFlags::PEEK)?;
    scratch.truncate(n);
    match n.checked_sub(before) {
        // Whether that is the end cannot be seen while there is anything: it is asked for again.
        Some(0) if before > 0 => Err(ErrorKind::WouldBlock.into()),
        Some(n) => Ok(n),
        None => Err(ErrorKind::WouldBlock.into()),
    }
}

fn store(packet: &[u8], into: &mut dyn Scatter) -> Made {
    if packet.len() > into.len() {
        return Made::Nothing;
    }
    into.store(0, packet);
    debug_assert!(packet.len() > HEADER);
    Made::Packet(packet.len())
}
