//! Pulling: manifest, configuration and layers into the store.

use crate::manifest::{self, Blob, Found, Manifest};
use crate::progress::{Event, Progress, tell};
use crate::registry::Registry;
use crate::{Digest, Error, Image, Reference, Store, credentials};
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

/// Blobs that are fetched at the same time, as Docker does.
const AT_ONCE: usize = 3;
/// How often the callback is asked whether to go on.
const TICK: Duration = Duration::from_millis(200);

/// How an image is pulled.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Plain HTTP also to other machines. To this one it is always plain.
    pub insecure: bool,
    /// Docker's configuration file, for credentials; `None` is none.
    pub credentials: Option<PathBuf>,
    /// Compressed bytes of all layers, at most.
    pub limit: u64,
}

impl Default for Pull {
    /// Encrypted, the user's credentials for Docker, 64 GiB.
    fn default() -> Self {
        Self {
            insecure: false,
            credentials: credentials::default_path(),
            limit: 64 << 30,
        }
    }
}

/// Pulls an image for linux/amd64: what of it is not in the store is fetched. Several processes may pull the same
/// image; each part is fetched once.
pub fn pull(
    reference: &Reference,
    store: &Store,
    options: &Pull,
    progress: &mut Progress<'_>,
) -> Result<Image, Error> {
    let credentials = match &options.credentials {
        Some(path) => credentials::find(path, reference.registry())?,
        None => None,
    };
    let registry = Registry::new(reference, options.insecure, credentials)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::io("start a runtime for", store.root()))?;
    let progress = RefCell::new(progress);
    let pulling = async {
        let work = pin!(work(reference, &registry, store, options, &progress));
        let ticks = pin!(async {
            loop {
                tokio::time::sleep(TICK).await;
                if let Err(cancelled) = tell(&mut **progress.borrow_mut(), Event::Idle) {
                    return cancelled;
                }
            }
        });
        match select(work, ticks).await {
            Either::Left((done, _)) => done,
            Either::Right((cancelled, _)) => Err(cancelled),
        }
    };
    runtime.block_on(pulling)
}

async fn work(
    reference: &Reference,
    registry: &Registry<'_>,
    store: &Store,
    options: &Pull,
    progress: &RefCell<&mut Progress<'_>>,
) -> Result<Image, Error> {
    let (digest, document, manifest) = find(reference, registry, store).await?;
    let bytes = manifest
        .layers
        .iter()
        .fold(0u64, |sum, l| sum.saturating_add(l.size));
    if bytes > options.limit {
        return Err(Error::Limit {
            what: format!("{bytes} bytes of layers"),
            limit: options.limit,
        });
    }
    tell(&mut **progress.borrow_mut(), Event::Found { digest, bytes })?;
    // The configuration says whether the layers are worth it.
    registry.fetch(store, manifest.config, progress).await?;
    let config = store.read(manifest.config.digest, manifest::MAX_DOCUMENT)?;
    let image = Image::of(digest, &manifest, &config)?;
    let mut blobs: Vec<Blob> = Vec::new();
    for layer in &manifest.layers {
        if !blobs.contains(layer) {
            blobs.push(*layer);
        }
    }
    stream::iter(blobs)
        .map(|blob| registry.fetch(store, blob, progress))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    // Last, so that a manifest in the store has all its parts there.
    keep(store, digest, &document).await?;
    Ok(image)
}

/// The manifest that a reference leads to: from the store if its digest is known, else from the registry.
async fn find(
    reference: &Reference,
    registry: &Registry<'_>,
    store: &Store,
) -> Result<(Digest, Vec<u8>, Manifest), Error> {
    let mut name = reference.manifest();
    let mut wanted = reference.digest();
    // An index may lead to another one, but not for ever.
    for _ in 0..3 {
        let (document, digest) = match wanted {
            Some(digest) if store.has(digest) => (store.read(digest, manifest::MAX_DOCUMENT)?, digest),
            _ => registry.manifest(&name, wanted).await?,
        };
        match manifest::find(&document)? {
            Found::Image(manifest) => return Ok((digest, document, manifest)),
            Found::Index(next) => {
                name = next.digest.to_string();
                wanted = Some(next.digest);
            }
        }
    }
    Err(Error::Document {
        what: "index",
        why: "it leads to an index that leads to an index".into(),
    })
}

/// Puts a document into the store.
async fn keep(store: &Store, digest: Digest, document: &[u8]) -> Result<(), Error> {
    use crate::store::Claim;
    loop {
        match store.claim(digest)? {
            Claim::Present => return Ok(()),
            Claim::Busy => tokio::time::sleep(TICK).await,
            Claim::Mine(mut partial) => {
                partial.restart()?;
                partial.write(document)?;
                partial.finish()?;
                return Ok(());
            }
        }
    }
}
