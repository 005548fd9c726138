//! Container images as images of the store: pulled from their registries, and made into disks.

use super::disk::{self, DiskError};
use crate::cache::Cache;
use crate::progress::Progress;
use crate::record::RecordError;
use crate::store::{ImageRecord, Kind, Process, Store, StoreError, Stored, now};
use donjon_oci::{Event, Pull, Reference, Unpack, flatten};
use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;

/// Bytes of an image's disk; what is not used takes no room.
const SIZE: u64 = 16 << 30;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The registry, or what is in it.
    #[error(transparent)]
    Image(#[from] donjon_oci::Error),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<RecordError> for ContainerError {
    fn from(error: RecordError) -> Self {
        Self::Store(error.into())
    }
}

/// Whether this names a container image.
pub fn is_reference(name: &str) -> bool {
    name.starts_with("docker://")
}

/// The name under which a container image is kept: its reference in full.
pub fn full_name(name: &str) -> Result<String, ContainerError> {
    let reference: Reference = name.parse()?;
    Ok(format!("docker://{reference}"))
}

/// Layers and manifests that were fetched, for images that share them.
fn blobs(cache: &Cache) -> Result<donjon_oci::Store, ContainerError> {
    Ok(donjon_oci::Store::at(cache.path("blobs"))?)
}

/// Fetches an image and makes a disk of it. One that is there already in the same version is only named.
pub fn pull(
    store: &Store,
    cache: &Cache,
    name: &str,
    how: &Pull,
    progress: &dyn Progress,
) -> Result<Stored, ContainerError> {
    let reference: Reference = name.parse()?;
    let full = format!("docker://{reference}");
    let blobs = blobs(cache)?;
    progress.step(&format!("looking up {reference}"));
    let mut teller = Teller::new(progress, &reference);
    let image = donjon_oci::pull(&reference, &blobs, how, &mut |event| teller.hear(event))?;
    let id = crate::record::hex(image.digest.bytes());
    // Others that make a disk of the same image wait here, and then find it.
    let waiting = || {
        progress.step(&format!(
            "waiting for another donjon that makes a disk of {reference}"
        ))
    };
    let _making = store.making(&id, waiting)?;
    if store.image(&format!("sha256:{id}")).is_ok() {
        store.name(&full, &id)?;
        return Ok(store.image(&full)?);
    }
    let draft = store.begin()?;
    let raw = draft.scratch("disk.raw");
    let file = disk::create(&raw)?;
    flatten(
        &image,
        &blobs,
        &file,
        &Unpack::default(),
        &image.disk(SIZE),
        &mut |event| teller.hear(event),
    )?;
    drop(file);
    disk::convert(&draft, &raw)?;
    let config = image.config;
    let record = ImageRecord {
        id,
        kind: Kind::Container(Box::new(Process {
            entrypoint: config.entrypoint,
            command: config.cmd,
            environment: config.env,
            user: config.user,
            directory: config.working_dir,
            stop_signal: config.stop_signal.unwrap_or_default(),
            ports: config.exposed_ports,
        })),
        source: full.clone(),
        system: None,
        size: SIZE,
        cloud_init: false,
        created: now(),
    };
    progress.finish();
    Ok(draft.keep(record, &full)?)
}

/// Removes what was fetched of images: it is fetched anew if another image needs it. Returns bytes.
pub fn prune(cache: &Cache) -> Result<u64, ContainerError> {
    match fs::exists(cache.path("blobs")) {
        Ok(true) => Ok(blobs(cache)?.retain(&std::collections::HashSet::new())?),
        _ => Ok(0),
    }
}

/// Tells a person what goes on.
struct Teller<'a> {
    progress: &'a dyn Progress,
    name: String,
    bytes: u64,
    done: HashMap<donjon_oci::Digest, u64>,
    layer: usize,
}

impl<'a> Teller<'a> {
    fn new(progress: &'a dyn Progress, reference: &Reference) -> Self {
        Self {
            progress,
            name: reference.to_string(),
            bytes: 0,
            done: HashMap::new(),
            layer: 0,
        }
    }

    fn hear(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Found { bytes, .. } => {
                self.bytes = bytes;
                self.progress.step(&format!("fetching {}", self.name));
            }
            Event::Fetched { digest, done, .. } if self.bytes > 0 => {
                self.done.insert(digest, done);
                let done: u64 = self.done.values().sum();
                self.progress
                    .percent((done as f64 / self.bytes as f64 * 100.0) as f32);
            }
            Event::Waiting(_) => self
                .progress
                .step("waiting for another donjon that fetches the same"),
            Event::Unpacking { layer, layers, .. } if layer != self.layer => {
                self.layer = layer;
                self.progress
                    .step(&format!("unpacking {}: layer {layer} of {layers}", self.name));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
