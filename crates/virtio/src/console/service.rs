//! What is done with the queues.

use super::control::{self, FromDriver};
use super::port::{ConsolePort, Taken};
use crate::queue::{Queue, Violation};
use crate::service::{On, Service, Wait};
use std::sync::Arc;
use std::time::Instant;

/// Buffers of one queue in a round.
const MOST_BUFFERS: usize = 64;
/// Bytes of output of one port in a round.
const MOST_BYTES: usize = 256 << 10;
/// Rounds before the thread's lock is let go.
const ROUNDS: usize = 4;

/// Queues of the control messages.
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;

/// The queues that go with port `n`, towards the guest and from it.
fn queues_of(n: usize) -> (usize, usize) {
    if n == 0 { (0, 1) } else { (2 * n + 2, 2 * n + 3) }
}

pub(super) struct Queues {
    ports: Vec<Arc<ConsolePort>>,
    queues: Vec<Option<Queue>>,
    /// When a console that nobody reads begins to lose output.
    until: Option<Instant>,
}

impl Queues {
    pub fn new(ports: &[Arc<ConsolePort>]) -> Self {
        Self {
            ports: ports.to_vec(),
            queues: (0..2 * ports.len() + 2).map(|_| None).collect(),
            until: None,
        }
    }

    pub fn queue(&mut self, index: u16) -> Option<&mut Option<Queue>> {
        self.queues.get_mut(usize::from(index))
    }

    /// Control messages from the driver; whether some are left.
    fn listen_to_driver(&mut self) -> bool {
        let Some(queue) = &mut self.queues[CONTROL_OUT] else {
            return false;
        };
        let ports = &self.ports;
        let port = |id: u32| usize::try_from(id).ok().and_then(|n| ports.get(n));
        serve(queue, |chain| {
            match control::parse(&chain.readable) {
                Some(FromDriver::DeviceReady) => ports.iter().for_each(|p| p.announce()),
                Some(FromDriver::PortReady(id, ready)) => {
                    if let Some(p) = port(id) {
                        p.set_ready(ready);
                    }
                }
                Some(FromDriver::PortOpen(id, open)) => {
                    if let Some(p) = port(id) {
                        p.set_guest_open(open);
                    }
                }
                // Of no meaning to this device.
                None => {}
            }
            Step::Done(0)
        })
    }

    /// Control messages to the driver.
    fn tell_driver(&mut self) -> bool {
        let Some(queue) = &mut self.queues[CONTROL_IN] else {
            return false;
        };
        let ports = &self.ports;
        if !ports.iter().any(|p| p.has_message()) {
            return false;
        }
        serve(queue, |chain| {
            let Some(message) = ports.iter().find_map(|p| p.take_message()) else {
                return Step::Keep;
            };
            if chain.writable.len() < message.len() {
                return Step::Fail("a buffer has no room for a control message");
            }
            chain.writable.store(0, &message);
            Step::Done(message.len() as u32)
        })
    }

    fn receive(&mut self, n: usize) -> bool {
        let (port, queue) = (&self.ports[n], &mut self.queues[queues_of(n).0]);
        let Some(queue) = queue.as_mut().filter(|_| port.has_input()) else {
            return false;
        };
        serve(queue, |chain| {
            if port.has_input() {
                Step::Done(port.give_input(&chain.writable))
            } else {
                Step::Keep
            }
        })
    }

    fn transmit(&mut self, n: usize) -> bool {
        let (port, queue) = (&self.ports[n], &mut self.queues[queues_of(n).1]);
        let Some(queue) = queue else {
            return false;
        };
        let (mut left, mut until) = (MOST_BYTES, None);
        let mut more = serve(queue, |chain| match port.take_output(&chain.readable, left) {
            Taken::All => {
                left = left.saturating_sub(chain.readable.len());
                if left == 0 { Step::Pause(0) } else { Step::Done(0) }
            }
            Taken::Some => {
                left = 0;
                Step::Keep
            }
            Taken::Full(at) => {
                until = at;
                Step::Keep
            }
        });
        more |= left == 0;
        self.until = match (self.until, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        more
    }
}

impl Service for Queues {
    fn run(&mut self, on: On) -> bool {
        let until = self.until;
        for _ in 0..ROUNDS {
            self.until = None;
            let mut more = self.listen_to_driver() | self.tell_driver();
            for n in 0..self.ports.len() {
                more |= self.receive(n) | self.transmit(n);
            }
            if !more {
                // Its thread sleeps until another time.
                return on == On::Vcpu && self.until != until;
            }
        }
        true
    }

    fn wait(&mut self) -> Wait {
        Wait {
            files: vec![],
            until: self.until,
        }
    }
}

/// What becomes of a buffer.
enum Step {
    /// It goes back with so many bytes written.
    Done(u32),
    /// As before, and the rest of the queue is for later.
    Pause(u32),
    /// It stays in the queue, and so does what comes after it.
    Keep,
    /// The driver broke a rule.
    Fail(&'static str),
}

/// Serves some buffers of a queue; whether there are more that could be served at once.
fn serve(queue: &mut Queue, mut step: impl FnMut(crate::queue::Chain) -> Step) -> bool {
    queue.hush();
    let mut served = false;
    let mut more = true;
    for _ in 0..MOST_BUFFERS {
        let Some(chain) = queue.pop() else {
            if queue.listen() {
                continue;
            }
            more = false;
            break;
        };
        let head = chain.head;
        match step(chain) {
            Step::Done(written) => queue.push(head, written),
            Step::Pause(written) => {
                queue.push(head, written);
                served = true;
                break;
            }
            Step::Keep => {
                queue.unpop();
                more = false;
                break;
            }
            Step::Fail(why) => {
                queue.fail(Violation::Request(why));
                more = false;
                break;
            }
        }
        served = true;
    }
    if served {
        queue.signal();
    }
    more
}
