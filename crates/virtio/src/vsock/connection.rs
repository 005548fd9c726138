//! One stream between a port of the guest and a Unix socket.

mod tell;

use super::packet::{HEADER, Header, op, shutdown};
use donjon_memory::Scatter;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes from the guest that wait for the host's program, which is what the guest is told there is room for.
pub const BUFFER: u32 = 64 << 10;
/// The most payload of one packet.
const PACKET: usize = 64 << 10;
/// How long the guest has to answer a request, or to let go of what both ends have closed.
const ANSWER: Duration = Duration::from_secs(10);

/// The guest's port and the host's.
pub type Ports = (u32, u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The guest has to answer.
    Requested,
    Established,
    /// Both ends are closed; the guest is to reset it.
    Closing,
    /// The guest is done with it, but what it sent has not all reached the host's program.
    Lingering,
}

/// Packets to be sent that carry no data.
#[derive(Default)]
struct Say {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    /// Flags of a shutdown.
    shutdown: u32,
}

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Fate {
    Lives,
    /// It is over; the guest knows.
    Over,
    /// It is over; the guest is to be told.
    Reset,
}

/// The connection.
pub struct Connection {
    pub ports: Ports,
    pub stream: UnixStream,
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The host's program has closed it altogether.
    pub hung_up: bool,
    phase: Phase,
    say: Say,
    until: Option<Instant>,
    /// From the guest.
    buffer: VecDeque<u8>,
    /// Bytes passed on to the host's program.
    forwarded: u32,
    /// The same as the guest knows it.
    told: u32,
    /// Bytes sent to the guest.
    sent: u32,
    /// What the guest can hold, and has passed on.
    peer_alloc: u32,
    peer_forwarded: u32,
    asked_for_credit: bool,
    /// What the guest does no more: flags of a shutdown.
    guest_done: u32,
    /// What the host does no more.
    host_done: u32,
    /// The host's program has been told that nothing more comes.
    ended: bool,
}

impl Connection {
    /// One that the guest asked for with `request`.
    pub fn from_guest(stream: UnixStream, request: &Header) -> Self {
        let mut c = Self::new(stream, (request.src_port, request.dst_port), Phase::Established);
        c.say.response = true;
        c.peer_alloc = request.buf_alloc;
        c.peer_forwarded = request.fwd_cnt;
        c
    }

    /// One that a program of the host asked for.
    pub fn from_host(stream: UnixStream, ports: Ports) -> Self {
        let mut c = Self::new(stream, ports, Phase::Requested);
        c.say.request = true;
        c.until = Some(Instant::now() + ANSWER);
        c
    }

    fn new(stream: UnixStream, ports: Ports, phase: Phase) -> Self {
        Self {
            ports,
            stream,
            readable: true,
            writable: true,
            hung_up: false,
            phase,
            say: Say::default(),
            until: None,
            buffer: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
            asked_for_credit: false,
            guest_done: 0,
            host_done: 0,
            ended: false,
        }
    }

    /// When it is over if nothing happens.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether the guest has forgotten it.
    pub fn is_lingering(&self) -> bool {
        self.phase == Phase::Lingering
    }

    /// A packet from the guest, with its payload behind the header.
    pub fn hear(&mut self, h: &Header, packet: &Scatter) -> Fate {
        (self.peer_alloc, self.peer_forwarded) = (h.buf_alloc, h.fwd_cnt);
        self.asked_for_credit = false;
        match (h.op, self.phase) {
            (op::RST, _) => {
                if self.guest_done & shutdown::SEND == 0 || self.buffer.is_empty() {
                    return Fate::Over;
                }
                self.phase = Phase::Lingering;
                (self.until, self.say) = (None, Say::default());
                Fate::Lives
            }
            (op::RESPONSE, Phase::Requested) => {
                self.phase = Phase::Established;
                self.until = None;
                // Not part of the stream. A socket that nothing was written to has room.
                let ok = format!("OK {}\n", self.ports.1);
                match send(&self.stream, ok.as_bytes(), SendFlags::NOSIGNAL) {
                    Ok(n) if n == ok.len() => Fate::Lives,
                    _ => Fate::Reset,
                }
            }
            (op::CREDIT_UPDATE, _) => Fate::Lives,
            (op::CREDIT_REQUEST, _) => {
                self.say.credit_update = true;
                Fate::Lives
            }
            (op::SHUTDOWN, Phase::Established | Phase::Closing) => {
                self.guest_done |= h.flags & shutdown::BOTH;
                if h.flags & shutdown::RECEIVE != 0 {
                    let _ = self.stream.shutdown(Shutdown::Read);
                }
                self.flush()
            }
            (op::RW, Phase::Established | Phase::Closing) => self.accept(h.len as usize, packet),
            _ => Fate::Reset,
        }
    }

    fn accept(&mut self, len: usize, packet: &Scatter) -> Fate {
        let room = BUFFER as usize - self.buffer.len();
        if self.guest_done & shutdown::SEND != 0 || len > room || len > packet.len() - HEADER {
            return Fate::Reset;
        }
        if self.host_done & shutdown::RECEIVE != 0 {
            self.forward(len);
            return Fate::Lives;
        }
        let at = self.buffer.len();
        self.buffer.resize(at + len, 0);
        let (a, b) = self.buffer.as_mut_slices();
        // The new bytes may lie in both halves.
        let first = a.len().saturating_sub(at);
        if first > 0 {
            packet.load(HEADER, &mut a[at..]);
        }
        let skip = at.saturating_sub(a.len());
        packet.load(HEADER + first, &mut b[skip..]);
        self.flush()
    }

    fn forward(&mut self, len: usize) {
        self.forwarded = self.forwarded.wrapping_add(len as u32);
        if self.forwarded.wrapping_sub(self.told) >= BUFFER / 2 {
            self.say.credit_update = true;
        }
    }

    /// Passes on what the guest sent, as far as there is room.
    pub fn flush(&mut self) -> Fate {
        while self.writable && !self.buffer.is_empty() {
            match send(&self.stream, self.buffer.as_slices().0, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.buffer.drain(..n);
                    self.forward(n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(_) => {
                    // The program reads no more.
                    let lost = self.buffer.len();
                    self.buffer.clear();
                    self.forward(lost);
                    self.end(shutdown::RECEIVE);
                }
            }
        }
        if !self.buffer.is_empty() {
            return Fate::Lives;
        }
        if self.phase == Phase::Lingering {
            return Fate::Over;
        }
        // Once: every time is an event for whoever watches the socket, which is this device.
        if self.guest_done & shutdown::SEND != 0 && !self.ended {
            self.ended = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        if self.guest_done == shutdown::BOTH {
            Fate::Reset
        } else {
            Fate::Lives
        }
    }

    /// The host does something no more.
    fn end(&mut self, what: u32) {
        let new = what & !self.host_done;
        self.host_done |= new;
        self.say.shutdown |= new;
        if self.host_done == shutdown::BOTH && self.phase == Phase::Established {
            self.phase = Phase::Closing;
            self.until = Some(Instant::now() + ANSWER);
        }
    }

    /// The host's program has closed it altogether, and nothing it sent is left.
    pub fn notice_hang_up(&mut self) {
        if self.hung_up && self.host_done & shutdown::SEND != 0 {
            self.end(shutdown::BOTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::buffer::spare_capacity;
    use rustix::event::{Timespec, epoll};

    #[test]
    fn a_guest_that_sends_no_more_is_no_work() {
        let (near, _far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&watch, &near, epoll::EventData::new_u64(1), flags).unwrap();
        let mut c = Connection::from_guest(near, &Header::default());
        c.guest_done = shutdown::SEND;
        let mut events = Vec::with_capacity(4);
        for round in 0..5 {
            assert_eq!(c.flush(), Fate::Lives);
            let now = Timespec::default();
            let n = epoll::wait(&watch, spare_capacity(&mut events), Some(&now)).unwrap();
            assert!(round == 0 || n == 0, "round {round}");
        }
    }
}
