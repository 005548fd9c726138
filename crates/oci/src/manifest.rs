//! Manifests, indexes and configurations: JSON that others wrote.

use crate::error::quote;
use crate::image::Config;
use crate::{Digest, Error};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use std::str::FromStr;

/// Bytes of a manifest, an index or a configuration.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers of an image. Docker's storage has 127 at most.
const MAX_LAYERS: usize = 500;

/// What a registry is asked for, and may send.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Content, by digest and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

/// What a manifest's name leads to.
pub(crate) enum Found {
    Image(Manifest),
    /// The manifest for this platform.
    Index(Blob),
}

/// Whether something is a manifest, an index for this platform, or a configuration, as far as that shows without a
/// registry.
pub fn check_document(document: &[u8]) -> Result<(), Error> {
    let manifest = find(document).map(drop);
    let config = config(document).map(drop);
    manifest.or(config)
}

/// Reads what a registry sent for a manifest.
pub(crate) fn find(document: &[u8]) -> Result<Found, Error> {
    // The two differ in what they must have; media types are optional in OCI's.
    let value: serde_json::Value = serde_json::from_slice(document).map_err(bad("manifest"))?;
    match value {
        _ if value.get("manifests").is_some() => index(document).map(Found::Index),
        _ if value.get("schemaVersion") == Some(&1.into()) => Err(Error::Document {
            what: "manifest",
            why: "it is in Docker's old schema 1; push the image again with a current program".into(),
        }),
        _ => image(document).map(Found::Image),
    }
}

/// Reads an image's manifest.
pub(crate) fn image(document: &[u8]) -> Result<Manifest, Error> {
    let manifest: ImageManifest = serde_json::from_slice(document).map_err(bad("manifest"))?;
    if manifest.layers().len() > MAX_LAYERS {
        return Err(Error::Limit {
            what: format!("{} layers", manifest.layers().len()),
            limit: MAX_LAYERS as u64,
        });
    }
    if let Some(layer) = manifest.layers().iter().find(|l| !is_layer(l.media_type())) {
        return Err(Error::Document {
            what: "manifest",
            why: format!(
                "it has a layer of the type {}; layers are tar archives, plain or with gzip or zstd",
                quote(layer.media_type().as_ref())
            ),
        });
    }
    let config = blob(manifest.config(), "manifest")?;
    if config.size > MAX_DOCUMENT {
        return Err(Error::Limit {
            what: format!("a configuration of {} bytes", config.size),
            limit: MAX_DOCUMENT,
        });
    }
    let layers = manifest.layers().iter().map(|l| blob(l, "manifest"));
    Ok(Manifest {
        config,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// Chooses the manifest for linux/amd64: of several, the one for the oldest processors.
fn index(document: &[u8]) -> Result<Blob, Error> {
    let index: ImageIndex = serde_json::from_slice(document).map_err(bad("index"))?;
    let entries = || index.manifests().iter();
    let fitting = entries().filter(|entry| {
        let platform = entry.platform().as_ref();
        platform.is_some_and(|p| *p.os() == Os::Linux && *p.architecture() == Arch::Amd64)
    });
    // Without a variant is v1.
    let chosen = fitting.min_by_key(|e| e.platform().as_ref().and_then(|p| p.variant().clone()));
    if let Some(entry) = chosen {
        return blob(entry, "index");
    }
    let mut others: Vec<String> = entries()
        .filter_map(|e| e.platform().as_ref())
        // Attestations are for no platform.
        .filter(|p| p.os().to_string() != "unknown")
        .map(|p| {
            let variant = p.variant().as_ref().map(|v| format!("/{v}"));
            quote(&format!(
                "{}/{}{}",
                p.os(),
                p.architecture(),
                variant.unwrap_or_default()
            ))
        })
        .take(20)
        .collect();
    others.dedup();
    if others.is_empty() {
        others.push("no platform at all".into());
    }
    Err(Error::Platform(others))
}

/// Reads a configuration: how the image is run, and the digests of its layers' archives.
pub(crate) fn config(document: &[u8]) -> Result<(Config, Vec<Digest>), Error> {
    let whole: ImageConfiguration = serde_json::from_slice(document).map_err(bad("configuration"))?;
    if *whole.os() != Os::Linux || *whole.architecture() != Arch::Amd64 {
        let platform = quote(&format!("{}/{}", whole.os(), whole.architecture()));
        return Err(Error::Platform(vec![platform]));
    }
    let diff_ids = whole
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| digest(id, "configuration"));
    let diff_ids = diff_ids.collect::<Result<_, _>>()?;
    let config = whole.config().clone().unwrap_or_default();
    let sorted = |names: &Option<Vec<String>>| {
        let mut names = names.clone().unwrap_or_default();
        names.sort();
        names
    };
    let config = Config {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        exposed_ports: sorted(config.exposed_ports()),
        volumes: sorted(config.volumes()),
        stop_signal: config.stop_signal().clone(),
        labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        created: whole.created().clone(),
    };
    Ok((config, diff_ids))
}

/// How they are compressed shows at their beginning.
fn is_layer(media_type: &MediaType) -> bool {
    const DOCKER: [&str; 4] = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        other => DOCKER.contains(&other.as_ref()),
    }
}

fn blob(descriptor: &Descriptor, document: &'static str) -> Result<Blob, Error> {
    Ok(Blob {
        digest: digest(descriptor.digest().as_ref(), document)?,
        size: descriptor.size(),
    })
}

fn digest(text: &str, document: &'static str) -> Result<Digest, Error> {
    Digest::from_str(text).map_err(|e| Error::Document {
        what: document,
        why: format!("it has {:?}: {e}", quote(text)),
    })
}

fn bad(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |e| Error::Document {
        what,
        why: quote(&e.to_string()),
    }
}
