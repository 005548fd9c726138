//! Telling others which host code is which guest code.

use std::fmt;

/// Hears of all host code that is made.
pub trait CodeTrace: fmt::Debug + Send + Sync {
    /// The `size` bytes at host address `start` are code of that name from now on. What was there before is
    /// gone.
    fn made(&self, start: u64, size: u64, name: fmt::Arguments<'_>);
}
