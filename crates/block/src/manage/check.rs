//! Checking images.

use super::CheckReport;
use crate::chain::{Options, beside, format_of, open_file, read_header};
use crate::error::OpenError;
use crate::image::Format;
use crate::qcow2::Qcow2;
use std::path::Path;

/// Compares an image's tables with each other. A raw image has none, and is whole if it can be read. Backing files
/// are images of their own.
///
/// With `repair`, leaked clusters are given back and refcounts made to agree with the tables.
pub fn check(path: &Path, format: Option<Format>, repair: bool) -> Result<CheckReport, OpenError> {
    let options = Options {
        format,
        read_only: !repair,
        lock: true,
    };
    let store = open_file(path, &options)?;
    match format_of(&store, format)? {
        Format::Raw => return Ok(CheckReport::default()),
        Format::Vmdk => {
            return Err(OpenError::Argument(format!(
                "{0}: vmdk images are not checked; to see whether all of it can be read: \
                 donjon disk convert {0} NEW.qcow2",
                path.display()
            )));
        }
        Format::Qcow2 => {}
    }
    let header = read_header(&store)?;
    let data = match header.data_file_name.as_deref().filter(|_| header.data_file()) {
        Some(name) => Some(open_file(&beside(path, name), &options)?),
        None => None,
    };
    let image = Qcow2::open_as_is(store, data, header, None, !repair, true)?;
    let report = match repair {
        true => image.repair(),
        false => image.check(),
    };
    report.map_err(OpenError::io("check", path))
}
