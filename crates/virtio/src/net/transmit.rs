//! Packets from the guest.

use super::Shared;
use super::packet::Packet;
use crate::queue::{Queue, QueueState};
use crate::service::{On, Service, Wait};
use donjon_net::Port;
use std::sync::Arc;
use std::time::Instant;

/// Packets in one run.
const BUDGET: usize = 256;

pub struct Transmit {
    shared: Arc<Shared>,
    port: Arc<dyn Port>,
    queue: Queue,
    /// Beyond the limit until then.
    until: Option<Instant>,
}

impl Transmit {
    pub fn new(shared: &Arc<Shared>, port: Arc<dyn Port>, queue: Queue) -> Self {
        Self {
            shared: shared.clone(),
            port,
            queue,
            until: None,
        }
    }

    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Sends what there is, up to a limit; whether there may be more.
    fn send(&mut self) -> bool {
        let link = self.shared.link();
        for _ in 0..BUDGET {
            let Some(chain) = self.queue.pop() else {
                return false;
            };
            let limiter = &self.shared.sent;
            if !limiter.is_unlimited()
                && let Err(wait) = limiter.take(Instant::now(), chain.readable.len() as u64)
            {
                self.queue.unpop();
                self.until = Some(Instant::now() + wait);
                return false;
            }
            // Without a cable, what is sent goes nowhere.
            if link && let Err(e) = self.port.send(&Packet(&chain.readable)) {
                tracing::debug!("a packet could not be sent: {e}");
            }
            self.queue.push(chain.head, 0);
        }
        true
    }
}

impl Service for Transmit {
    fn run(&mut self, on: On) -> bool {
        if on == On::Vcpu {
            // The vCPU has better things to do: it goes on preparing packets meanwhile.
            return true;
        }
        self.until = None;
        self.queue.hush();
        let more = self.send();
        self.queue.signal();
        more || self.until.is_none() && self.queue.listen()
    }

    fn wait(&mut self) -> Wait {
        Wait {
            files: vec![],
            until: self.until,
        }
    }
}
