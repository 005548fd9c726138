//! Container images: pulled from registries into a store, and made into root disks.
//!
//! [`pull()`] fetches an image by its [`Reference`] into a [`Store`]; [`Image::open`] finds it there again without a
//! network. [`unpack`] applies its layers to a tree of files, [`flatten()`] makes an ext4 disk of them. The standards are
//! the OCI's image specification v1.1 and distribution specification v1.1; images of Docker's (schema 2) differ in
//! their media types alone.
//!
//! Registries and images are hostile: what they send is bounded, checked against digests, and stays inside the store
//! and the tree. Calls block; a callback is told what goes on and can end them.
#![forbid(unsafe_code)]

mod credentials;
mod digest;
mod error;
mod flatten;
mod image;
mod layer;
mod manifest;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod user;

pub use digest::Digest;
pub use error::Error;
pub use flatten::{Unpack, flatten, unpack};
pub use image::{Config, Image, Layer};
pub use manifest::check_document;
pub use progress::{Event, Progress};
pub use pull::{Pull, pull};
pub use reference::Reference;
pub use store::Store;
pub use user::{User, UserError, user};
