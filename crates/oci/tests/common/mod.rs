//! Images made by hand, and registries that have them.
#![allow(dead_code)]

pub mod fake;
pub mod http;
pub mod real;

use donjon_oci::{Digest, Error, Event, Image, Pull, Reference, Store, pull};
use std::ops::ControlFlow;
use std::path::Path;

/// A member of a layer: its path, and what it is.
pub enum Member<'a> {
    Dir,
    File(&'a [u8]),
    Symlink(&'a str),
    Link(&'a str),
}

/// A layer's archive. Paths go into the headers as they are.
pub fn layer(members: &[(&str, Member<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, member) in members {
        let mut header = tar::Header::new_gnu();
        let (kind, data, link): (_, &[u8], _) = match member {
            Member::Dir => (tar::EntryType::Directory, b"", None),
            Member::File(data) => (tar::EntryType::Regular, data, None),
            Member::Symlink(target) => (tar::EntryType::Symlink, b"", Some(target)),
            Member::Link(target) => (tar::EntryType::Link, b"", Some(target)),
        };
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, data).expect("appended");
    }
    builder.into_inner().expect("an archive")
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const PLAIN: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image's documents and blobs.
pub struct Made {
    pub manifest: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl Made {
    /// Of layers as they are sent, their media types and their archives.
    pub fn new(layers: &[(Vec<u8>, &str, &[u8])]) -> Self {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(_, _, tar)| Digest::of(tar).to_string())
            .collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {
                "Entrypoint": ["/bin/web"], "Cmd": ["--port", "80"], "Env": ["PATH=/bin", "A=b"],
                "User": "web:staff", "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
                "Volumes": {"/data": {}}, "StopSignal": "SIGQUIT", "Labels": {"maker": "me"}
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        Self::with_config(layers, config.to_string().into_bytes())
    }

    pub fn with_config(layers: &[(Vec<u8>, &str, &[u8])], config: Vec<u8>) -> Self {
        let describe = |media_type: &str, bytes: &[u8]| {
            serde_json::json!({
                "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()
            })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|(bytes, kind, _)| describe(kind, bytes)).collect::<Vec<_>>()
        });
        let mut blobs = vec![config];
        blobs.extend(layers.iter().map(|(bytes, _, _)| bytes.clone()));
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs,
        }
    }

    /// One layer with gzip.
    pub fn of(tar: &[u8]) -> Self {
        Self::new(&[(gzip(tar), GZIP, tar)])
    }

    pub fn layer_digest(&self, index: usize) -> Digest {
        Digest::of(&self.blobs[1 + index])
    }
}

/// A layer with something that does not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(len).collect()
}

pub fn options() -> Pull {
    Pull {
        credentials: None,
        ..Pull::default()
    }
}

pub fn quiet(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn get(store: &Store, name: &str) -> Result<Image, Error> {
    let reference: Reference = name.parse()?;
    pull(&reference, store, &options(), &mut quiet)
}

/// The files in a store, each below its directory.
pub fn files(store: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["blobs/sha256", "partial"] {
        for entry in std::fs::read_dir(store.join(directory)).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            found.push(format!("{directory}/{}", name.to_string_lossy()));
        }
    }
    found.sort();
    found
}
