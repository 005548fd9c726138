//! Other sizes.

use crate::chain::{Options, open};
use crate::error::OpenError;
use crate::image::{Driver, Format, whole_sectors};
use std::path::Path;

/// Changes a disk's size. One that makes it smaller needs `shrink`.
pub fn resize(path: &Path, format: Option<Format>, size: u64, shrink: bool) -> Result<(), OpenError> {
    whole_sectors(size)?;
    let options = Options {
        format,
        ..Options::default()
    };
    let image = open(path, &options)?;
    let old = image.size();
    if size < old && !shrink {
        let lost = match &image.driver {
            Driver::Qcow2(qcow2) => qcow2.has_data_beyond(size).map_err(OpenError::io("read", path))?,
            Driver::Raw(_) | Driver::Vmdk(_) => true,
        };
        return Err(OpenError::Argument(format!(
            "{} has {old} bytes; making it smaller loses what lies past {size}{}; if the guest does not use that any more: \
             donjon disk resize --shrink",
            path.display(),
            if lost { "" } else { " (which holds no data)" },
        )));
    }
    image.resize(size)?;
    image.close().map_err(OpenError::io("write", path))
}
