//! What is known of images without reading the disk.

use super::{Compression, Snapshot};
use crate::chain::{Options, open};
use crate::error::OpenError;
use crate::image::{Driver, Format, Image};
use crate::qcow2::header;
use crate::vmdk;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An image, as a file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Info {
    /// The file.
    pub file: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes it takes on its file system.
    pub allocated: u64,
    /// Who is using it, other than for reading.
    pub in_use_by: Option<String>,
    /// What qcow2 has besides.
    #[serde(flatten)]
    pub qcow2: Option<Qcow2Info>,
    /// What vmdk has besides.
    #[serde(flatten)]
    pub vmdk: Option<VmdkInfo>,
}

/// What a qcow2 image has besides.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// How clusters are compressed, if they are.
    pub compression: Compression,
    /// The backing file, as it is named in the image.
    pub backing: Option<String>,
    /// Its format, as it is named there.
    pub backing_format: Option<String>,
    /// The external data file, as it is named there.
    pub data_file: Option<String>,
    /// It was not closed properly, or is being written to.
    pub dirty: bool,
    /// It was found damaged.
    pub corrupt: bool,
    /// The features it uses.
    pub features: Vec<&'static str>,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// What a vmdk image has besides.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VmdkInfo {
    /// What kind of image its descriptor says it is.
    pub create_type: String,
    /// What the disk consists of, in its order.
    pub extents: Vec<ExtentInfo>,
}

/// An extent of a vmdk image.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ExtentInfo {
    /// Its type, as in a descriptor.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// Where it is, unless it is zeroes.
    pub file: Option<PathBuf>,
    /// Bytes of a grain of a sparse one.
    pub grain_size: Option<u64>,
    /// Its grains are compressed.
    pub compressed: bool,
}

/// An image and what lies below it, the image first. One that is in use is looked at all the same.
pub fn info(path: &Path, format: Option<Format>) -> Result<Vec<Info>, OpenError> {
    let options = |lock| Options {
        format,
        read_only: true,
        lock,
    };
    let mut holder = None;
    let image = match open(path, &options(true)) {
        Err(OpenError::Busy { holder: h, .. }) => {
            holder = Some(h.map_or("another process".to_owned(), |h| h.to_string()));
            open(path, &options(false))?
        }
        other => other?,
    };
    let mut chain = vec![];
    let mut next = Some(&image);
    while let Some(image) = next {
        chain.push(one(image)?);
        next = image.backing();
    }
    if let Some(first) = chain.first_mut() {
        first.in_use_by = holder;
    }
    Ok(chain)
}

fn one(image: &Image) -> Result<Info, OpenError> {
    let path = image.path();
    let found = std::fs::metadata(path).map_err(OpenError::io("examine", path))?;
    let qcow2 = match &image.driver {
        Driver::Raw(_) | Driver::Vmdk(_) => None,
        Driver::Qcow2(qcow2) => {
            let header = qcow2.header();
            let (snapshots, _) = qcow2.snapshots().map_err(OpenError::io("read", path))?;
            Some(Qcow2Info {
                version: header.version,
                cluster_size: 1 << header.cluster_bits,
                refcount_bits: 1 << header.refcount_order,
                compression: header.compression,
                dirty: header.incompatible & header::DIRTY != 0,
                corrupt: header.incompatible & header::CORRUPT != 0,
                features: features(&header),
                backing: header.backing,
                backing_format: header.backing_format,
                data_file: header.data_file_name,
                snapshots,
            })
        }
    };
    let vmdk = match &image.driver {
        Driver::Vmdk(vmdk) => Some(VmdkInfo {
            create_type: vmdk.create_type().to_owned(),
            extents: vmdk.extents().iter().map(extent).collect(),
        }),
        _ => None,
    };
    let mut files = BTreeMap::from([((found.dev(), found.ino()), found.blocks())]);
    for file in vmdk
        .iter()
        .flat_map(|v| &v.extents)
        .filter_map(|e| e.file.as_ref())
    {
        let found = std::fs::metadata(file).map_err(OpenError::io("examine", file))?;
        files.insert((found.dev(), found.ino()), found.blocks());
    }
    Ok(Info {
        file: path.to_owned(),
        format: image.format(),
        virtual_size: image.size(),
        allocated: files.values().sum::<u64>() * 512,
        in_use_by: None,
        qcow2,
        vmdk,
    })
}

fn extent(extent: &vmdk::Extent) -> ExtentInfo {
    let grain = extent.grain();
    ExtentInfo {
        kind: extent.kind(),
        size: extent.size(),
        file: extent.file().map(Path::to_owned),
        grain_size: grain.map(|(size, _)| size),
        compressed: grain.is_some_and(|(_, compressed)| compressed),
    }
}

fn features(header: &header::Header) -> Vec<&'static str> {
    let all = [
        (header.incompatible & header::DATA_FILE, "external data file"),
        (header.incompatible & header::COMPRESSION_TYPE, "compression type"),
        (header.compatible & header::LAZY_REFCOUNTS, "lazy refcounts"),
        (header.autoclear & header::BITMAPS, "bitmaps"),
        (header.autoclear & header::RAW_DATA_FILE, "raw external data"),
    ];
    all.iter()
        .filter(|(bit, _)| *bit != 0)
        .map(|(_, name)| *name)
        .collect()
}
