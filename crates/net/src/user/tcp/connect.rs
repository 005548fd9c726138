//! Connecting, and what happens to sockets.

use super::answer::failed;
use super::conn::{Conn, Fate, State};
use super::segment::{SYN, Segment};
use super::socket;
use crate::user::core::Core;
use crate::user::sockets;
use crate::user::token::Token;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_error;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Begins to connect.
pub fn connect(core: &Core, token: Token, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = sockets::new(to.ip(), SocketType::STREAM, None)?;
    socket::prepare(&socket)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(e) => return Err(e),
    }
    // What has happened already is told at once.
    core.watch(&socket, token).map_err(|_| Errno::NOMEM)?;
    Ok(socket)
}

/// Something has happened to its socket.
pub fn happened(conn: &mut Conn, core: &mut Core, flags: EventFlags) -> Fate {
    let Some(socket) = &conn.socket else {
        return Fate::Lives;
    };
    let error = match flags.intersects(EventFlags::ERR | EventFlags::HUP) {
        true => socket_error(socket).unwrap_or(Ok(())),
        false => Ok(()),
    };
    if conn.state == State::Connecting {
        return match error {
            Ok(()) if flags.contains(EventFlags::OUT) => {
                conn.state = State::SynReceived;
                conn.since = core.now;
                conn.syn_now = true;
                conn.arm(core);
                Fate::Lives
            }
            Ok(()) => Fate::Lives,
            Err(e) => not_connected(conn, core, e),
        };
    }
    if error.is_err() {
        return Fate::ResetBoth;
    }
    if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
        conn.readable = true;
        conn.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        if conn.snd_wnd == 0 && conn.snd_una == conn.snd_max {
            conn.since = core.now;
        }
        conn.arm(core);
    }
    if flags.contains(EventFlags::OUT) && std::mem::take(&mut conn.narrow) {
        conn.ack_now = true;
    }
    Fate::Lives
}

/// The host could not connect: the next one, or bad news.
fn not_connected(conn: &mut Conn, core: &mut Core, e: Errno) -> Fate {
    while !conn.others.is_empty() {
        let next = conn.others.remove(0);
        if let Ok(socket) = connect(core, conn.token, next) {
            conn.socket = Some(socket);
            return Fate::Lives;
        }
    }
    let segment = Segment {
        mac: conn.ends.to_mac,
        from: conn.ends.to,
        to: conn.ends.from,
        seq: conn.rcv_nxt.wrapping_sub(1),
        ack: 0,
        flags: SYN,
        window: 0,
        mss: None,
        shift: None,
        data: 0..0,
    };
    failed(core, &segment, e);
    Fate::Ends
}
