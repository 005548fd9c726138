//! Entropy device (virtio 1.2 §5.4): random bytes from the host's kernel.

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;

const QUEUE_SIZE: u16 = 64;
/// The most bytes that one buffer gets; a driver asks again. Keeps a vCPU from being away for long.
const MOST: usize = 4096;

/// The device. It answers on the thread of the vCPU that asks: that takes a microsecond.
#[derive(Default)]
pub struct Rng {
    queue: Lock<Option<Queue>>,
}

impl Rng {
    /// A device.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

fn serve(queue: &mut Queue) {
    loop {
        queue.hush();
        let mut served = false;
        while let Some(chain) = queue.pop() {
            let len = chain.writable.len().min(MOST);
            let mut bytes = [0; MOST];
            let filled = fill(&mut bytes[..len]);
            chain.writable.store(0, &bytes[..filled]);
            queue.push(chain.head, filled as u32);
            served = true;
        }
        if served {
            queue.signal();
        }
        if !queue.listen() {
            return;
        }
    }
}

/// Fills as much as the host gives.
fn fill(out: &mut [u8]) -> usize {
    let mut done = 0;
    while done < out.len() {
        match getrandom(&mut out[done..], GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    done
}

impl Device for Rng {
    fn kind(&self) -> u16 {
        kind::RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn connect(&self, _: Arc<dyn Notifier>) {}

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        read_bytes(&[], offset, out);
    }

    fn start(&self, _: u64) {}

    fn start_queue(&self, _: u16, mut queue: Queue) {
        let mut held = self.queue.lock();
        serve(&mut queue);
        *held = Some(queue);
    }

    fn stop_queue(&self, _: u16) -> Option<QueueState> {
        self.queue.lock().take().map(|q| q.state())
    }

    fn notify(&self, _: u16) {
        if let Some(queue) = self.queue.lock().as_mut() {
            serve(queue);
        }
    }

    fn reset(&self) {
        self.queue.lock().take();
    }

    fn migrate(&self) -> Migrate {
        Migrate::Stateless
    }

    fn restore(&self, _: &Record) -> Result<(), RestoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::running;
    use donjon_memory::Ram;

    #[test]
    fn buffers_are_filled_with_something_new_each_time() {
        let ram = Arc::new(Ram::new(4 << 20).unwrap());
        let rng = Rng::new();
        let (mut drivers, told) = running(&*rng, &ram, 0);
        let d = &mut drivers[0];
        let mut seen = vec![];
        for round in 0..100 {
            let head = d.add(&[(0x1000, 16, true), (0x3000, 16, true)]);
            rng.notify(0);
            assert_eq!(d.used(), Some((head, 32)), "round {round}");
            seen.push([d.read(0x1000, 16), d.read(0x3000, 16)].concat());
        }
        assert_eq!(told.used(), 100);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 100);
        // A buffer that nothing can be written to comes back empty.
        let head = d.add(&[(0x1000, 16, false)]);
        rng.notify(0);
        assert_eq!(d.used(), Some((head, 0)));
    }
}
