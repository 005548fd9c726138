//! Disk images: raw, qcow2, and vmdk for reading; chains of overlays, locks, and what is done to them as files.
//!
//! [`open`] gives an [`Image`], which any number of threads read and write at once. [`manage`] makes images,
//! converts and checks them.
//!
//! A transfer's memory is a [`Buffer`]. Where a range lies in one piece in a file and nothing has to be allocated,
//! [`Image::direct`] tells where, for transfers that go on without the image.
#![forbid(unsafe_code)]

mod buffer;
mod chain;
mod error;
mod holder;
mod image;
mod lock;
pub mod manage;
mod pin;
mod probe;
mod qcow2;
mod ranges;
mod raw;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod vmdk;

pub use buffer::{Buffer, HostBuffer};
pub use chain::{Options, open, open_content};
pub use error::{Corrupt, OpenError};
pub use holder::Holder;
pub use image::{Direct, Extent, Format, Image};
pub use pin::Pin;
