//! Packets between the rings and the sockets.

use super::connection::{Connection, Fate};
use super::packet::{HEADER, HOST, Header, STREAM, op};
use super::sockets::{MOST, Sockets};
use crate::queue::{Chain, Queue, Violation};
use crate::service::{On, Service, Wait};
use donjon_memory::Scatter;
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

/// Packets in a round, each way.
const PACKETS: usize = 64;
/// Rounds in a run.
const ROUNDS: usize = 4;
/// Resets of connections that are none any more. No more of the guest's packets are looked at until it takes
/// some.
const MOST_RESETS: usize = 256;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The queues' numbers.
pub const RECEIVE: usize = 0;
pub const TRANSMIT: usize = 1;
pub const EVENT: usize = 2;

pub struct Switch {
    cid: u64,
    sockets: Sockets,
    pub queues: [Option<Queue>; 3],
    resets: VecDeque<Header>,
    /// What the guest asked for on a vCPU's thread: that must not look for files.
    requests: VecDeque<Header>,
    /// Who was served last.
    last: u64,
    /// The guest is to hear that all its connections are gone.
    transport_reset: Arc<AtomicBool>,
    until: Option<Instant>,
}

impl Switch {
    pub fn new(cid: u64, sockets: Sockets, transport_reset: Arc<AtomicBool>) -> Self {
        Self {
            cid,
            sockets,
            queues: [None, None, None],
            resets: VecDeque::new(),
            requests: VecDeque::new(),
            last: 0,
            transport_reset,
            until: None,
        }
    }

    /// Tells the guest of a transport reset.
    fn tell_event(&mut self) {
        let Some(queue) = &mut self.queues[EVENT] else {
            return;
        };
        while self.transport_reset.load(SeqCst) {
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                return;
            };
            if chain.writable.len() < TRANSPORT_RESET.len() {
                queue.fail(Violation::Request("a vsock event buffer is too small"));
                return;
            }
            chain.writable.store(0, &TRANSPORT_RESET);
            self.transport_reset.store(false, SeqCst);
            queue.push(chain.head, TRANSPORT_RESET.len() as u32);
            queue.signal();
        }
    }

    /// Takes packets from the guest; whether some are left.
    fn transmit(&mut self) -> bool {
        let Some(mut queue) = self.queues[TRANSMIT].take() else {
            return false;
        };
        queue.hush();
        let (mut served, mut more) = (false, true);
        for _ in 0..PACKETS {
            if self.resets.len() >= MOST_RESETS {
                break;
            }
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                more = false;
                break;
            };
            self.hear(&chain);
            queue.push(chain.head, 0);
            served = true;
        }
        if served {
            queue.signal();
        }
        self.queues[TRANSMIT] = Some(queue);
        more
    }

    fn hear(&mut self, chain: &Chain) {
        let Some(h) = Header::load(&chain.readable) else {
            return;
        };
        if h.src_cid != self.cid || h.dst_cid != HOST {
            return;
        }
        if h.kind != STREAM {
            self.refuse(&h);
            return;
        }
        let ports = (h.src_port, h.dst_port);
        self.requests
            .retain(|r| h.op != op::RST || (r.src_port, r.dst_port) != ports);
        match self.sockets.find(ports) {
            Some((token, connection)) => {
                let fate = connection.hear(&h, &chain.readable);
                if connection.is_lingering() {
                    self.sockets.forget_ports(ports);
                }
                self.settle(token, fate);
            }
            None if h.op == op::REQUEST && self.requests.len() < MOST => self.requests.push_back(h),
            None => self.refuse(&h),
        }
    }

    /// Answers a packet of no connection.
    fn refuse(&mut self, h: &Header) {
        if h.op != op::RST {
            self.resets.push_back(h.refusal());
        }
    }

    fn settle(&mut self, token: u64, fate: Fate) {
        if fate == Fate::Lives {
            return;
        }
        if let Some(mut c) = self.sockets.remove(token)
            && fate == Fate::Reset
        {
            self.resets.push_back(c.header(self.cid, op::RST, 0, 0));
        }
    }

    /// Connects the guest to whom it asked for.
    fn connect(&mut self) {
        while self.resets.len() < MOST_RESETS
            && let Some(h) = self.requests.pop_front()
        {
            let ports = (h.src_port, h.dst_port);
            if self.sockets.find(ports).is_some() || self.sockets.connect(&h).is_none() {
                self.refuse(&h);
            }
        }
    }

    /// Passes on what the host's programs have room for, and ends what is over.
    fn flush(&mut self) {
        let now = Instant::now();
        let fate = |c: &mut Connection| match c.until() {
            Some(until) if until <= now => Fate::Reset,
            _ => c.flush(),
        };
        let connections = self.sockets.connections.iter_mut();
        let over: Vec<_> = connections
            .map(|(token, c)| (*token, fate(c)))
            .filter(|(_, fate)| *fate != Fate::Lives)
            .collect();
        for (token, fate) in over {
            self.settle(token, fate);
        }
        self.sockets.expire_handshakes(now);
    }

    fn has_packet(&self) -> bool {
        !self.resets.is_empty() || self.sockets.connections.values().any(Connection::has_packet)
    }

    /// Gives the guest packets; whether there are more that it has buffers for.
    fn receive(&mut self) -> bool {
        let Some(mut queue) = self.queues[RECEIVE].take() else {
            return false;
        };
        queue.hush();
        let (mut served, mut more) = (false, true);
        for _ in 0..PACKETS {
            if !self.has_packet() {
                more = false;
                break;
            }
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                more = false;
                break;
            };
            if chain.writable.len() < HEADER {
                queue.fail(Violation::Request("a vsock buffer has no room for a header"));
                more = false;
                break;
            }
            let Some(len) = self.fill(&chain.writable) else {
                queue.unpop();
                more = false;
                break;
            };
            queue.push(chain.head, len as u32);
            served = true;
        }
        if served {
            queue.signal();
        }
        self.queues[RECEIVE] = Some(queue);
        more
    }

    /// Fills a buffer with the next packet: each connection in its turn.
    fn fill(&mut self, buffer: &Scatter) -> Option<usize> {
        if let Some(reset) = self.resets.pop_front() {
            buffer.store(0, &reset.bytes());
            return Some(HEADER);
        }
        for part in [
            (Bound::Excluded(self.last), Bound::Unbounded),
            (Bound::Unbounded, Bound::Included(self.last)),
        ] {
            for (token, c) in self.sockets.connections.range_mut(part) {
                if !c.has_packet() {
                    continue;
                }
                let token = *token;
                match c.fill(self.cid, buffer) {
                    Ok(None) => {}
                    Ok(Some(len)) => {
                        self.last = token;
                        return Some(len);
                    }
                    Err(_) => {
                        let mut c = self.sockets.remove(token)?;
                        let reset = c.header(self.cid, op::RST, 0, 0);
                        buffer.store(0, &reset.bytes());
                        return Some(HEADER);
                    }
                }
            }
        }
        None
    }
}

impl Service for Switch {
    fn run(&mut self, on: On) -> bool {
        let until = self.until;
        let mut more = false;
        for _ in 0..if on == On::Vcpu { 1 } else { ROUNDS } {
            self.sockets.look();
            self.sockets.answer_callers();
            self.tell_event();
            let unheard = self.transmit();
            if on == On::Thread {
                self.connect();
            }
            self.flush();
            more = self.receive();
            more |= self.resets.len() < MOST_RESETS && (unheard || !self.requests.is_empty());
            if !more {
                break;
            }
        }
        self.until = self.sockets.until();
        // Its thread sleeps until another time.
        more || self.sockets.has_callers() || on == On::Vcpu && self.until != until
    }

    fn wait(&mut self) -> Wait {
        Wait {
            files: vec![(self.sockets.file().clone() as _, PollFlags::IN)],
            until: self.until,
        }
    }
}
