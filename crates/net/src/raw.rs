//! The one unsafe thing: ioctls of tun devices (linux/if_tun.h), of interfaces (netdevice(7)) and of TCP (tcp(7)), and
//! an option of sockets (socket(7)) that no crate knows.
#![allow(unsafe_code)]

use crate::name::InterfaceName;
use crate::offloads::Offloads;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Connects a file to an interface: TUNSETIFF.
pub fn set_interface(fd: BorrowedFd<'_>, name: &InterfaceName, flags: libc::c_int) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is read and written in the size of an ifreq, which `request` is and which nothing else
    // refers to.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Takes one queue of an interface in (IFF_ATTACH_QUEUE) or out of use (IFF_DETACH_QUEUE): TUNSETQUEUE.
pub fn set_queue(fd: BorrowedFd<'_>, flag: libc::c_int) -> io::Result<()> {
    // SAFETY: all zero bytes are an ifreq: integers, and pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flag as libc::c_short;
    // SAFETY: as in `set_interface`.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) })
}

/// Has a header of so many bytes, in little-endian, before every packet: TUNSETVNETHDRSZ, TUNSETVNETLE.
pub fn set_header(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    for (code, value) in [
        (libc::TUNSETVNETHDRSZ, len as libc::c_int),
        (libc::TUNSETVNETLE, 1),
    ] {
        // SAFETY: both read one int, which `value` is.
        checked(unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw const value) })?;
    }
    Ok(())
}

/// What may be left undone in packets that are read: TUNSETOFFLOAD.
pub fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    // SAFETY: the argument is a number and no address.
    checked(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads.bits()),
        )
    })
}

/// Whether an interface is up: SIOCGIFFLAGS on any socket.
pub fn is_up(socket: impl AsFd, name: &InterfaceName) -> io::Result<bool> {
    let mut request = request(name);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: as in `set_interface`.
    checked(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the kernel has written the flags, and any bits would be a number.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

/// Bytes in a TCP socket's send queue, those included that were sent and not acknowledged: SIOCOUTQ.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: one int is written, which `bytes` is and which nothing else refers to. SIOCOUTQ is TIOCOUTQ.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(bytes.max(0) as u32)
}

/// Has MSG_PEEK begin so many bytes behind the first, and go on from there by itself: SO_PEEK_OFF. For TCP since
/// Linux 6.9.
pub fn set_peek_offset(socket: BorrowedFd<'_>, offset: u32) -> io::Result<()> {
    let offset = offset.min(libc::c_int::MAX as u32) as libc::c_int;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let at = (&raw const offset).cast();
    // SAFETY: one int is read, which `offset` is.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, at, len) })
}

fn request(name: &InterfaceName) -> libc::ifreq {
    // SAFETY: all zero bytes are an ifreq: integers, and pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name is a byte shorter at least, so that it ends with a zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
