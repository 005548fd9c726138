//! What is done with the queue.

use crate::queue::{Chain, Queue, Violation};
use crate::service::{On, Service, Wait};
use donjon_memory::{RamRange, RangeKind};
use std::fs::File;
use std::sync::Arc;

/// VIRTIO_PMEM_REQ_TYPE_FLUSH, the one request.
const FLUSH: u32 = 0;
/// VIRTIO_PMEM_RESP_TYPE_OK.
const OK: u32 = 0;
/// VIRTIO_PMEM_RESP_TYPE_EIO.
const EIO: u32 = 1;
/// Bytes of a request, and of a response.
const WORD: usize = 4;
/// Buffers that one flush serves at most.
const MOST_BUFFERS: usize = 64;

pub(super) struct Flusher {
    pub queue: Option<Queue>,
    file: Arc<File>,
    range: RamRange,
}

impl Flusher {
    pub fn new(file: Arc<File>, range: RamRange) -> Self {
        Self {
            queue: None,
            file,
            range,
        }
    }

    fn is_read_only(&self) -> bool {
        self.range.kind == RangeKind::ReadOnlyFile
    }
}

impl Service for Flusher {
    fn run(&mut self, on: On) -> bool {
        let read_only = self.is_read_only();
        if on == On::Vcpu && !read_only {
            // Storage takes its time.
            return true;
        }
        let Some(queue) = &mut self.queue else {
            return false;
        };
        queue.hush();
        let mut chains = vec![];
        while chains.len() < MOST_BUFFERS {
            match queue.pop() {
                Some(chain) => match request(&chain) {
                    Ok(kind) => chains.push((chain, kind)),
                    Err(why) => {
                        queue.fail(why);
                        break;
                    }
                },
                None if queue.listen() => {}
                None => break,
            }
        }
        if chains.is_empty() {
            return false;
        }
        // One for all: what they are to make last was stored before they came.
        let flushed = match read_only {
            // What was ignored is lost, and the guest is to know.
            true if queue.ram().ignored_stores(self.range.address) => EIO,
            true => OK,
            false => match self.file.sync_data() {
                Ok(()) => OK,
                Err(e) => {
                    tracing::error!("a guest's persistent memory was not written to its file: {e}");
                    EIO
                }
            },
        };
        let more = chains.len() == MOST_BUFFERS;
        for (chain, kind) in chains {
            let answer = if kind == FLUSH { flushed } else { EIO };
            chain.writable.store(0, &answer.to_le_bytes());
            queue.push(chain.head, WORD as u32);
        }
        queue.signal();
        more
    }

    fn wait(&mut self) -> Wait {
        Wait::default()
    }
}

/// The type of a request that can be answered.
fn request(chain: &Chain) -> Result<u32, Violation> {
    if chain.readable.len() < WORD || chain.writable.len() < WORD {
        return Err(Violation::Request(
            "a persistent memory request has no type, or no room for a response",
        ));
    }
    let mut kind = [0; WORD];
    chain.readable.load(0, &mut kind);
    Ok(u32::from_le_bytes(kind))
}
