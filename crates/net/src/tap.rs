//! The host's network, through a tap interface.

use crate::backend::{BUDGET, Backend, DropCounts, Drops, Port, check_queues, count, no_queue};
use crate::header::{HEADER, Header, MAX_PACKET, MIN_PACKET, ROOM};
use crate::name::InterfaceName;
use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use crate::raw;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Pairs of queues at most, as many as Linux has in one interface.
pub const MAX_QUEUES: u16 = 256;

const DEVICE: &str = "/dev/net/tun";

/// A tap interface of the host: what the guest sends comes in there, and what goes out there the guest receives.
///
/// Checksums and segmentation are the kernel's.
pub struct Tap {
    queues: Vec<Arc<Queue>>,
    /// How many of them are in use.
    used: Mutex<u16>,
    offloads: Offloads,
}

struct Queue {
    file: OwnedFd,
    /// For packets that would not fit.
    scratch: Mutex<Vec<u8>>,
    drops: DropCounts,
}

/// A tap interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The host's kernel has no tun driver, or the container does not show it.
    #[error(
        "{DEVICE} does not exist, so there is no tap={0}: load the driver with `sudo modprobe tun`, or give it to \
         the container with `--device {DEVICE}`"
    )]
    NoDevice(InterfaceName),
    /// The device is somebody else's.
    #[error("{DEVICE} cannot be opened, so there is no tap={0}: sudo chmod 666 {DEVICE}")]
    DeviceForbidden(InterfaceName),
    /// It is not there.
    #[error("there is no interface {0}; make it: {make}", make = make(.0, *.1))]
    Missing(InterfaceName, u16),
    /// It belongs to somebody else.
    #[error(
        "interface {0} belongs to another user; make one of your own: {make}",
        make = make(.0, *.1)
    )]
    Forbidden(InterfaceName, u16),
    /// Another process has it.
    #[error("interface {0} is in use by another process; `sudo lsof {DEVICE}` lists those that can be")]
    Busy(InterfaceName),
    /// It is not a tap interface, or does not have several queues.
    #[error(
        "interface {0} is no tap interface{more}; remove it or take another name: {make}",
        more = if *.1 > 1 { " with multi_queue" } else { "" },
        make = make(.0, *.1)
    )]
    Unsuitable(InterfaceName, u16),
    /// Queues there cannot be.
    #[error("an interface has 1 to {MAX_QUEUES} queues, not {0}")]
    Queues(u16),
    /// Anything else.
    #[error("interface {0} cannot be opened: {1}")]
    Io(InterfaceName, io::Error),
}

/// The command that makes an interface.
fn make(name: &InterfaceName, queues: u16) -> String {
    let many = if queues > 1 { " multi_queue" } else { "" };
    format!("sudo ip tuntap add dev {name} mode tap user $USER vnet_hdr{many} && sudo ip link set {name} up")
}

impl Tap {
    /// Opens an interface with so many queues. One that does not exist is not made, even by a process that may:
    /// nobody would have connected it to anything.
    pub fn open(name: &InterfaceName, queues: u16) -> Result<Self, TapError> {
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(TapError::Queues(queues));
        }
        let failed = |e: io::Error| TapError::Io(name.clone(), e);
        let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        let existed = netdevice::name_to_index(&any, name.as_str()).is_ok();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let several = flags | libc::IFF_MULTI_QUEUE;
        let refused = |e: io::Error| refused(name, queues, e);
        let first = file(name)?;
        if !existed {
            return Err(TapError::Missing(name.clone(), queues));
        }
        let mut flags = if queues > 1 { several } else { flags };
        let mut result = raw::set_interface(first.as_fd(), name, flags);
        // One queue of an interface that could have more.
        if queues == 1 && is(&result, Errno::INVAL) {
            flags = several;
            result = raw::set_interface(first.as_fd(), name, flags);
        }
        result.map_err(refused)?;
        let mut files = vec![first];
        for _ in 1..queues {
            let file = file(name)?;
            raw::set_interface(file.as_fd(), name, flags).map_err(refused)?;
            files.push(file);
        }
        for file in &files {
            raw::set_header(file.as_fd(), HEADER).map_err(failed)?;
        }
        let offloads = offloads(files[0].as_fd()).map_err(failed)?;
        if !raw::is_up(&any, name).map_err(failed)? {
            tracing::warn!(
                "interface {name} is down; no packet goes through it until: sudo ip link set {name} up"
            );
        }
        let queue = |file| {
            Arc::new(Queue {
                file,
                scratch: Mutex::default(),
                drops: DropCounts::default(),
            })
        };
        let tap = Self {
            queues: files.into_iter().map(queue).collect(),
            used: Mutex::new(queues),
            offloads,
        };
        tap.set_queues(1).map_err(failed)?;
        Ok(tap)
    }
}

/// The device, not yet connected to an interface.
fn file(name: &InterfaceName) -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open(DEVICE, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => TapError::NoDevice(name.clone()),
        Errno::ACCESS | Errno::PERM => TapError::DeviceForbidden(name.clone()),
        e => TapError::Io(name.clone(), e.into()),
    })
}

fn is(result: &io::Result<()>, errno: Errno) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(errno.raw_os_error()))
}

/// What TUNSETIFF means by an error.
fn refused(name: &InterfaceName, queues: u16, error: io::Error) -> TapError {
    let name = name.clone();
    match Errno::from_io_error(&error) {
        Some(Errno::PERM) => TapError::Forbidden(name, queues),
        Some(Errno::BUSY) => TapError::Busy(name),
        Some(Errno::INVAL) => TapError::Unsuitable(name, queues),
        _ => TapError::Io(name, error),
    }
}

/// What this kernel can leave undone, which is what it can be left; nothing is set at the end.
fn offloads(fd: BorrowedFd<'_>) -> io::Result<Offloads> {
    let uso = Offloads::USO4 | Offloads::USO6;
    let mut result = Offloads::NONE;
    // Those of UDP came with Linux 6.2.
    for offloads in [Offloads::ALL, Offloads::ALL.without(uso)] {
        if raw::set_offloads(fd, offloads).is_ok() {
            result = offloads;
            break;
        }
    }
    raw::set_offloads(fd, Offloads::NONE)?;
    Ok(result)
}

impl Backend for Tap {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_offloads(&self, accepted: Offloads) -> io::Result<()> {
        // The kernel wants nothing but what it knows, and nothing without the checksum.
        let known = Offloads::from_bits(accepted.bits() & self.offloads.bits());
        let known = match known.contains(Offloads::CSUM) {
            true => known,
            false => Offloads::NONE,
        };
        raw::set_offloads(self.queues[0].file.as_fd(), known)
    }

    fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    fn set_queues(&self, count: u16) -> io::Result<()> {
        check_queues(count, self.queues())?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used != count {
            let (queue, flag, then) = match *used < count {
                true => (*used, libc::IFF_ATTACH_QUEUE, *used + 1),
                false => (*used - 1, libc::IFF_DETACH_QUEUE, *used - 1),
            };
            raw::set_queue(self.queues[usize::from(queue)].file.as_fd(), flag)?;
            *used = then;
        }
        Ok(())
    }

    fn queue(&self, index: u16) -> io::Result<Arc<dyn Port>> {
        match self.queues.get(usize::from(index)) {
            Some(queue) => Ok(queue.clone()),
            None => Err(no_queue(index, self.queues())),
        }
    }

    fn link(&self) -> bool {
        true
    }

    fn drops(&self) -> Drops {
        let each = self.queues.iter().map(|q| q.drops.read());
        each.fold(Drops::default(), |sum, d| Drops {
            sent: sum.sent + d.sent,
            received: sum.received + d.received,
            malformed: sum.malformed + d.malformed,
        })
    }
}

impl Queue {
    /// Receives what fits. The kernel cuts off what does not, and does not say so.
    fn receive_small(&self, into: &mut dyn Scatter) -> io::Result<usize> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.resize(ROOM, 0);
        for _ in 0..BUDGET {
            let len = rustix::io::read(&self.file, &mut scratch[..])?;
            if len <= into.len() {
                into.store(0, &scratch[..len]);
                return Ok(len);
            }
            count(&self.drops.received);
        }
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Port for Queue {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn send(&self, packet: &dyn Gather) -> io::Result<()> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
            count(&self.drops.malformed);
            return Ok(());
        }
        let Err(error) = packet.write_to(0..packet.len(), self.fd()) else {
            return Ok(());
        };
        match Errno::from_io_error(&error) {
            // The kernel has looked at the header.
            Some(Errno::INVAL) => count(&self.drops.malformed),
            // The interface is down, or there is no memory now.
            Some(Errno::IO | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                count(&self.drops.sent);
            }
            _ => return Err(error),
        }
        Ok(())
    }

    fn receive(&self, into: &mut dyn Scatter) -> io::Result<usize> {
        let len = if into.len() >= ROOM {
            into.read_from(self.fd())?
        } else {
            self.receive_small(into)?
        };
        if len < HEADER {
            return Err(ErrorKind::InvalidData.into());
        }
        // The kernel knows of ten bytes, and leaves these alone.
        let buffers = Header {
            num_buffers: 1,
            ..Header::default()
        };
        into.store(HEADER - 2, &buffers.to_bytes()[HEADER - 2..]);
        Ok(len)
    }
}
