//! What is told while an image is fetched and unpacked.

use crate::{Digest, Error};
use std::ops::ControlFlow;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The manifest is known: the image's digest, and what its layers have to be fetched.
    Found {
        /// The manifest's digest.
        digest: Digest,
        /// Compressed bytes of all layers, those in the store included.
        bytes: u64,
    },
    /// Another process fetches this; it is waited for.
    Waiting(Digest),
    /// Something was in the store already.
    Cached(Digest),
    /// A part has arrived.
    Fetched {
        /// Of what.
        digest: Digest,
        /// Bytes so far, those of an earlier attempt included.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A connection broke; it is tried again from there.
    Retrying {
        /// What was being fetched.
        digest: Digest,
        /// What went wrong.
        why: &'a str,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Which one, from 1 on.
        layer: usize,
        /// Of how many.
        layers: usize,
        /// Uncompressed bytes of all layers so far.
        bytes: u64,
    },
    /// Nothing happened for a while.
    Idle,
}

/// Is told what happens, several times a second; answers whether to go on.
pub type Progress<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Tells it.
pub(crate) fn tell(progress: &mut Progress<'_>, event: Event<'_>) -> Result<(), Error> {
    match progress(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
