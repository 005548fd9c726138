//! Packets to the guest.

use super::packet::Packet;
use super::{Shared, feature};
use crate::queue::{Chain, Queue, QueueState};
use crate::service::{On, Service, Wait};
use donjon_memory::Scatter;
use donjon_net::{HEADER, Port, ROOM};
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

/// Packets in one run.
const BUDGET: usize = 256;
/// Where the header has the number of buffers.
const NUM_BUFFERS: usize = 10;

pub struct Receive {
    shared: Arc<Shared>,
    port: Arc<dyn Port>,
    file: Arc<OwnedFd>,
    /// Which pair of queues.
    number: u16,
    queue: Queue,
    /// Buffers taken from the ring and not used yet, in order.
    buffers: VecDeque<Chain>,
    room: usize,
    /// Packets come when there is room again.
    starving: bool,
    /// Beyond the limit until then.
    until: Option<Instant>,
}

/// How a run ended.
enum End {
    /// There may be more.
    More,
    /// Nothing to receive.
    Empty,
    /// No room to receive it to.
    Starved,
    /// Beyond the limit.
    Limited,
}

impl Receive {
    pub fn new(shared: &Arc<Shared>, port: Arc<dyn Port>, number: u16, queue: Queue) -> io::Result<Self> {
        let file = Arc::new(port.fd().try_clone_to_owned()?);
        Ok(Self {
            shared: shared.clone(),
            port,
            file,
            number,
            queue,
            buffers: VecDeque::new(),
            room: 0,
            starving: false,
            until: None,
        })
    }

    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    fn active(&self) -> bool {
        self.number < self.shared.active.load(SeqCst)
    }

    /// Takes buffers until the largest packet has room, or one if a packet may not be spread.
    fn gather(&mut self, mergeable: bool) {
        while self.room < ROOM && (mergeable || self.buffers.is_empty()) {
            let Some(chain) = self.queue.pop() else { break };
            self.room += chain.writable.len();
            self.buffers.push_back(chain);
        }
    }

    /// Everything gathered, as one list.
    fn list(&self) -> Scatter {
        let mut all = Scatter::new(self.queue.ram());
        self.buffers.iter().for_each(|b| all.append(&b.writable));
        all
    }

    fn receive(&mut self) -> End {
        let mergeable = self.shared.accepted(feature::MERGEABLE);
        let limiter = &self.shared.received;
        let limited = !limiter.is_unlimited();
        for _ in 0..BUDGET {
            if limited && let Err(wait) = self.shared.received.take(Instant::now(), 0) {
                self.until = Some(Instant::now() + wait);
                return End::Limited;
            }
            self.gather(mergeable);
            if self.room <= HEADER {
                return End::Starved;
            }
            let list = self.list();
            let len = match self.port.receive(&mut Packet(&list)) {
                Ok(len) => len,
                Err(e) => {
                    if limited {
                        self.shared.received.refund(0);
                    }
                    if e.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!("nothing can be received: {e}");
                    }
                    return End::Empty;
                }
            };
            self.shared.received.charge(len as u64);
            if self.shared.link() && len >= HEADER {
                self.give(&list, len);
            }
        }
        End::More
    }

    /// Gives the buffers that hold a packet back to the driver.
    fn give(&mut self, list: &Scatter, len: usize) {
        let (mut left, mut count) = (len, 0);
        while left > 0 {
            let Some(chain) = self.buffers.pop_front() else {
                break;
            };
            let size = chain.writable.len();
            self.room -= size;
            let used = left.min(size);
            left -= used;
            count += 1;
            if left == 0 {
                // Before the driver can see any of them.
                list.store(NUM_BUFFERS, &u16::to_le_bytes(count));
            }
            self.queue.push_later(chain.head, used as u32);
        }
        self.queue.push_now();
    }
}

impl Service for Receive {
    fn run(&mut self, on: On) -> bool {
        if on == On::Vcpu {
            // There is room again.
            return self.starving;
        }
        self.until = None;
        self.starving = false;
        if !self.active() {
            return false;
        }
        self.queue.hush();
        let end = self.receive();
        self.queue.signal();
        match end {
            End::More => true,
            End::Empty | End::Limited => false,
            End::Starved => {
                // A buffer that came meanwhile has been taken: packets are waited for again.
                self.starving = !self.queue.listen();
                !self.starving
            }
        }
    }

    fn wait(&mut self) -> Wait {
        let listens = self.active() && !self.starving && self.until.is_none();
        Wait {
            files: if listens {
                vec![(self.file.clone() as _, PollFlags::IN)]
            } else {
                vec![]
            },
            until: self.until,
        }
    }

    fn finish(&mut self) {
        // They were taken in order and not used: they come again.
        while self.buffers.pop_back().is_some() {
            self.queue.unpop();
        }
        self.room = 0;
    }
}
