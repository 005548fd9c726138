//! How much a device may do: token buckets for bytes and for operations.
//!
//! A [`Limit`] says how much, in the words of the command line (`bps=100M,iops=500`); a [`Limiter`] keeps to it,
//! for any number of threads, and can be given another limit while it is in use.
#![forbid(unsafe_code)]

mod bucket;
mod limit;
mod limiter;

pub use limit::{Bucket, Limit, LimitError};
pub use limiter::Limiter;
