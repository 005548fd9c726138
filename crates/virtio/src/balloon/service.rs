//! What is done with the queues.

use super::statistics;
use super::{Memory, PAGE};
use crate::queue::{Chain, Queue, Violation};
use crate::service::{On, Service, Wait};
use donjon_memory::Ram;
use std::sync::Arc;
use std::time::Instant;

/// The most pages that one buffer of the inflate queue names: 256 MiB. Linux's name 256.
const MOST_PAGES: usize = 1 << 16;
/// Buffers of one queue in a run.
const MOST_BUFFERS: usize = 16;

/// What the driver uses a queue for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It gives pages up.
    Inflate,
    /// It takes them back.
    Deflate,
    /// It tells of its memory.
    Statistics,
    /// It tells of pages that are free for the moment.
    Reporting,
}

pub(super) struct Queues {
    memory: Arc<Memory>,
    queues: Vec<(Role, Queue)>,
    /// A buffer of the statistics queue that is kept until somebody asks.
    held: Option<u16>,
}

impl Queues {
    pub fn new(memory: &Arc<Memory>) -> Self {
        Self {
            memory: memory.clone(),
            queues: vec![],
            held: None,
        }
    }

    pub fn add(&mut self, role: Role, queue: Queue) {
        self.queues.push((role, queue));
    }

    pub fn remove(&mut self, index: u16) -> Option<Queue> {
        let at = self.queues.iter().position(|(_, q)| q.index() == index)?;
        let (role, mut queue) = self.queues.remove(at);
        if role == Role::Statistics && self.held.take().is_some() {
            // It comes again, with nothing new in it.
            queue.unpop();
            self.memory.lock().known = true;
        }
        Some(queue)
    }
}

impl Service for Queues {
    fn run(&mut self, _: On) -> bool {
        let mut more = false;
        for (role, queue) in &mut self.queues {
            more |= match role {
                Role::Inflate => serve(queue, give_up),
                Role::Deflate => serve(queue, |_, _| Ok(())),
                Role::Reporting => serve(queue, report),
                Role::Statistics => {
                    answer(queue, &mut self.held, &self.memory);
                    false
                }
            };
        }
        more
    }

    fn wait(&mut self) -> Wait {
        Wait::default()
    }
}

/// Serves some buffers of a queue; whether there are more.
fn serve(queue: &mut Queue, mut act: impl FnMut(&Arc<Ram>, &Chain) -> Result<(), Violation>) -> bool {
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
        if let Err(why) = act(queue.ram(), &chain) {
            queue.fail(why);
            more = false;
            break;
        }
        queue.push(chain.head, 0);
        served = true;
    }
    if served {
        queue.signal();
    }
    more
}

/// The pages that a buffer names are of no use to the guest.
fn give_up(ram: &Arc<Ram>, chain: &Chain) -> Result<(), Violation> {
    let list = &chain.readable;
    let count = list.len() / 4;
    if count > MOST_PAGES {
        return Err(Violation::Request("a balloon buffer names too many pages"));
    }
    let mut numbers = vec![0; count * 4];
    list.load(0, &mut numbers);
    let mut pages: Vec<usize> = numbers
        .chunks_exact(4)
        .map(|n| u64::from(u32::from_le_bytes([n[0], n[1], n[2], n[3]])) * PAGE)
        .filter_map(|address| ram.offset_of(address, PAGE as usize).ok())
        .collect();
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|a, b| a + PAGE as usize == *b) {
        release(ram, run[0], run.len() * PAGE as usize);
    }
    Ok(())
}

/// The bytes of a buffer are free for the moment.
fn report(ram: &Arc<Ram>, chain: &Chain) -> Result<(), Violation> {
    let page = PAGE as usize;
    for part in chain.writable.parts() {
        let start = part.offset.next_multiple_of(page);
        let end = (part.offset + part.len) / page * page;
        if start < end {
            release(ram, start, end - start);
        }
    }
    Ok(())
}

fn release(ram: &Ram, offset: usize, len: usize) {
    if let Err(e) = ram.release(offset, len) {
        // The guest does not use it all the same.
        tracing::debug!("{len} bytes of guest memory cannot be given back to the host: {e}");
    }
}

/// Reads statistics, and gives the buffer back when somebody has asked for new ones.
fn answer(queue: &mut Queue, held: &mut Option<u16>, memory: &Memory) {
    let mut m = memory.lock();
    loop {
        while held.is_none() {
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                // The driver is about to tell.
                m.asked = false;
                return;
            };
            *held = Some(chain.head);
            if !std::mem::take(&mut m.known) {
                m.statistics = Some((Instant::now(), statistics::parse(&chain.readable)));
                m.asked = false;
            }
        }
        if !std::mem::take(&mut m.asked) {
            return;
        }
        if let Some(head) = held.take() {
            queue.push(head, 0);
            queue.signal();
        }
    }
}
