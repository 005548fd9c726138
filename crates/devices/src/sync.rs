//! A mutex whose poisoning is ignored: registers stay consistent because no access panics half-way.

use std::sync::{Mutex, MutexGuard};

/// A device's registers. See the crate's lock order before taking two.
#[derive(Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits until it is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
