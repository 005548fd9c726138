//! Waiting for a device to go.

use donjon_devices::sync::Lock;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Whether a device has gone.
#[derive(Default)]
pub(crate) struct Gone {
    gone: Lock<bool>,
    changed: Condvar,
}

impl Gone {
    pub fn happened(&self) {
        *self.gone.lock() = true;
        self.changed.notify_all();
    }
}

/// A removal the guest has been asked for.
pub struct Removal(Arc<Gone>);

impl Removal {
    pub(crate) fn of(device: Arc<Gone>) -> Self {
        Self(device)
    }

    /// Whether the device has gone.
    pub fn is_done(&self) -> bool {
        *self.0.gone.lock()
    }

    /// Waits until it has; `false` if it has not by then. A guest may take any time, or never answer.
    pub fn wait(&self, timeout: Duration) -> bool {
        // None: so far away that it does not matter.
        let deadline = Instant::now().checked_add(timeout);
        let mut gone = self.0.gone.lock();
        while !*gone {
            let left = deadline.map_or(timeout, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            gone = match self.0.changed.wait_timeout(gone, left) {
                Ok((guard, _)) => guard,
                Err(e) => e.into_inner().0,
            };
        }
        true
    }
}
