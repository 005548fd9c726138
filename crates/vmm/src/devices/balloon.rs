//! Memory that the guest gives back to the host.

use super::{Attachment, NotPossible};
use donjon_machine::MIN_MEMORY;
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_virtio::balloon::Balloon;
use donjon_virtio::pci::VirtioPci;
use std::sync::{Arc, Mutex, MutexGuard};

/// The balloon that every domain has. Guests that can report what they do not use, without being asked.
pub struct BalloonDevice {
    memory: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes that the guest is to give up.
    target: u64,
    /// In the machine that runs.
    front: Option<Arc<Balloon>>,
}

impl BalloonDevice {
    /// For a domain of so many bytes of memory.
    pub fn new(memory: u64) -> Arc<Self> {
        Arc::new(Self {
            memory,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Attachment for BalloonDevice {
    fn name(&self) -> &str {
        "balloon"
    }

    fn kind(&self) -> &'static str {
        "balloon"
    }

    fn options(&self) -> String {
        let state = self.lock();
        let given = state.front.as_ref().map_or(0, |b| b.actual());
        let mib = |bytes: u64| bytes >> 20;
        let has = mib(self.memory.saturating_sub(given));
        match self.memory - state.target {
            wanted if mib(wanted) == has => format!("guest has {has}M of {}M", mib(self.memory)),
            wanted => format!(
                "guest has {has}M of {}M, is to have {}M",
                mib(self.memory),
                mib(wanted)
            ),
        }
    }

    fn removable(&self) -> bool {
        false
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        let balloon = Balloon::new();
        let mut state = self.lock();
        balloon.set_target(state.target);
        state.front = Some(balloon.clone());
        VirtioPci::new(balloon, ram)
    }

    fn resize(&self, size: u64) -> Result<(), NotPossible> {
        if !(MIN_MEMORY..=self.memory).contains(&size) {
            let what = format!(
                "the guest can have {}M to {}M, not {}M",
                MIN_MEMORY >> 20,
                self.memory >> 20,
                size >> 20
            );
            return Err(NotPossible::new(self, what));
        }
        let mut state = self.lock();
        state.target = self.memory - size;
        state.front.iter().for_each(|b| b.set_target(self.memory - size));
        Ok(())
    }
}
