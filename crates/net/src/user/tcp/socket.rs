//! The host's end of a connection.

use super::conn::{Conn, SHIFT};
use super::seq::later;
use crate::raw;
use crate::user::core::Core;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_oobinline, set_tcp_nodelay, socket_send_buffer_size,
};
use rustix::net::{RecvFlags, recv};
use std::os::fd::{AsFd, OwnedFd};

/// Sets what every connection's socket has: no delays but the guest's own, everything in order, and questions now
/// and then whether the other end is still there.
pub fn prepare(socket: &OwnedFd) -> Result<(), Errno> {
    set_tcp_nodelay(socket, true)?;
    set_socket_oobinline(socket, true)?;
    set_socket_keepalive(socket, true)
}

/// The buffer for what goes out and how much of it is free, counted carefully: the kernel counts its own overhead.
fn room(socket: &OwnedFd) -> (u32, u32) {
    let size = socket_send_buffer_size(socket).unwrap_or(0).min(1 << 30) as u32;
    let used = raw::unacknowledged(socket.as_fd()).unwrap_or(size);
    (size, (size / 4 * 3).saturating_sub(used))
}

/// Segments that the guest should not exceed, so that a window that is almost closed still takes one.
pub fn mss(core: &Core, conn: &Conn) -> u16 {
    let link = core.mtu - conn.ends.ip() - super::segment::LEN;
    let size = conn.socket.as_ref().map_or(0, |s| room(s).0 as usize);
    link.min((size / 16).max(536)) as u16
}

/// Moves the edge of what the guest may send as far as the socket has room. It never moves back.
pub fn open_window(core: &Core, conn: &mut Conn) {
    let Some(socket) = conn.socket.as_ref().filter(|_| !conn.guest_fin) else {
        return;
    };
    let (size, free) = room(socket);
    let most = if conn.shift.is_some() {
        0xffff << SHIFT
    } else {
        0xffff
    };
    let unit = if conn.shift.is_some() { 1 << SHIFT } else { 1 };
    // What cannot be said is no room.
    let window = free.min(most) / unit * unit;
    conn.rcv_edge = later(conn.rcv_edge, conn.rcv_nxt.wrapping_add(window));
    // But an edge that was said stays, so it is rounded up.
    let said = conn
        .rcv_edge
        .wrapping_sub(conn.rcv_nxt)
        .next_multiple_of(unit)
        .min(most);
    conn.rcv_edge = conn.rcv_nxt.wrapping_add(said);
    if free < size / 16 {
        // The kernel tells when a third of the buffer is free, if it knows that somebody waits. Then there is more than
        // this free here, too, and it is not asked again and again.
        conn.narrow = true;
        core.watch_again(socket, conn.token);
    }
}

/// Throws away what the guest has acknowledged.
pub fn discard(conn: &mut Conn, mut len: u32, scratch: &mut [u8]) -> Result<(), Errno> {
    let Some(socket) = &conn.socket else { return Ok(()) };
    conn.peek = conn.peek.map(|at| at.saturating_sub(len));
    while len > 0 {
        let most = scratch.len().min(len as usize);
        match recv(socket, &mut scratch[..most], RecvFlags::TRUNC) {
            Ok((0, _)) => return Err(Errno::CONNRESET),
            // With TRUNC nothing is copied.
            Ok((_, n)) => len -= n as u32,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
