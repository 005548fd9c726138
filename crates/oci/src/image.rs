//! An image in the store.

use crate::manifest::{self, MAX_DOCUMENT, Manifest};
use crate::{Digest, Error, Store};
use std::collections::BTreeMap;

/// How a container of the image is run (OCI image specification, "Image Configuration").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments; without an entrypoint, the program and its arguments.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root. See [`crate::user()`].
    pub user: String,
    /// Where the program starts; empty is `/`.
    pub working_dir: String,
    /// `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// Directories that are meant to be volumes, sorted.
    pub volumes: Vec<String>,
    /// What asks the program to end: `SIGTERM` if it is not given.
    pub stop_signal: Option<String>,
    /// What its maker says about it.
    pub labels: BTreeMap<String, String>,
    /// When it was made (RFC 3339), if it says so.
    pub created: Option<String>,
}

/// A layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of its file in the store, compressed or not.
    pub digest: Digest,
    /// That file's bytes.
    pub size: u64,
    /// Of the tar archive in it.
    pub diff_id: Digest,
}

/// An image whose parts are in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its manifest's digest, which names the image for good.
    pub digest: Digest,
    /// Its configuration's digest, which Docker calls the image's ID.
    pub id: Digest,
    /// How it is run.
    pub config: Config,
    /// From the lowest to the highest.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Finds an image that was pulled, by its manifest's digest.
    pub fn open(store: &Store, digest: Digest) -> Result<Self, Error> {
        let manifest = manifest::image(&store.read(digest, MAX_DOCUMENT)?)?;
        let config = store.read(manifest.config.digest, MAX_DOCUMENT)?;
        let image = Self::of(digest, &manifest, &config)?;
        match image.layers.iter().find(|l| !store.has(l.digest)) {
            Some(layer) => Err(Error::Missing { digest: layer.digest }),
            None => Ok(image),
        }
    }

    pub(crate) fn of(digest: Digest, manifest: &Manifest, config: &[u8]) -> Result<Self, Error> {
        let (config, diff_ids) = manifest::config(config)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::Document {
                what: "configuration",
                why: format!(
                    "it has {} layers, the manifest {}",
                    diff_ids.len(),
                    manifest.layers.len()
                ),
            });
        }
        let layers = manifest.layers.iter().zip(diff_ids);
        Ok(Self {
            digest,
            id: manifest.config.digest,
            config,
            layers: layers
                .map(|(blob, diff_id)| Layer {
                    digest: blob.digest,
                    size: blob.size,
                    diff_id,
                })
                .collect(),
        })
    }

    /// Everything in the store that the image needs.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        [self.digest, self.id]
            .into_iter()
            .chain(self.layers.iter().map(|l| l.digest))
    }
}
