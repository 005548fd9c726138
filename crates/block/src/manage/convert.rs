//! An image's content into a new image.

use super::create::{Creation, fill};
use super::new_file::NewFile;
use crate::chain::{Options, open};
use crate::error::OpenError;
use crate::image::{Driver, Format, Image};
use crate::qcow2::pack;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::thread;

/// Bytes that are read at once.
const BATCH: u64 = 8 << 20;
/// Zeroes shorter than that are written to a raw image like data.
const BLOCK: usize = 4096;

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    /// The source's format, if it is not to be found out.
    pub source_format: Option<Format>,
    /// The new image.
    pub target: Creation,
    /// Compress its clusters.
    pub compress: bool,
}

/// Makes a new image with what `source` and the images below it have. Zeroes take no room. `progress` is told how
/// much of it is done, 0.0 to 100.0. When something fails nothing is left behind.
pub fn convert(
    source: &Path,
    target: &Path,
    how: &Conversion,
    progress: &dyn Fn(f32),
) -> Result<(), OpenError> {
    if how.compress && how.target.format != Format::Qcow2 {
        return Err(OpenError::Argument(
            "only qcow2 images can be compressed: --format qcow2".into(),
        ));
    }
    let from = open(
        source,
        &Options {
            format: how.source_format,
            read_only: true,
            lock: true,
        },
    )?;
    let new = NewFile::begin(target, how.target.force)?;
    fill(&new, target, from.size(), &how.target)?;
    let options = Options {
        format: Some(how.target.format),
        ..Options::default()
    };
    let to = open(new.path(), &options)?;
    copy(&from, &to, how, target, progress)?;
    to.close().map_err(OpenError::io("write", target))?;
    drop(to);
    new.finish()
}

fn copy(
    from: &Image,
    to: &Image,
    how: &Conversion,
    target: &Path,
    progress: &dyn Fn(f32),
) -> Result<(), OpenError> {
    let size = from.size();
    let unit = match how.target.format {
        Format::Raw | Format::Vmdk => BLOCK,
        Format::Qcow2 => how.target.cluster_size as usize,
    };
    let batch = BATCH.next_multiple_of(unit as u64);
    let mut buffer = vec![];
    let mut at = 0;
    while at < size {
        progress((at as f64 / size as f64 * 100.0) as f32);
        let extent = from
            .extent(at, size - at)
            .map_err(OpenError::io("read", from.path()))?;
        if !extent.data {
            // Whole units only, so that each is written once.
            let end = at + extent.len;
            let end = if end == size { end } else { end - end % unit as u64 };
            if end > at {
                at = end;
                continue;
            }
        }
        buffer.resize((size - at).min(batch) as usize, 0);
        from.read_bytes(at, &mut buffer)
            .map_err(OpenError::io("read", from.path()))?;
        let written = match (&to.driver, how.compress) {
            (Driver::Qcow2(_), true) => compressed(to, at, &buffer, how),
            _ => plain(to, at, &buffer, unit),
        };
        written.map_err(OpenError::io("write", target))?;
        at += buffer.len() as u64;
    }
    progress(100.0);
    Ok(())
}

fn plain(to: &Image, at: u64, data: &[u8], unit: usize) -> io::Result<()> {
    for run in runs(data, unit) {
        to.write_bytes(at + run.start as u64, &data[run])?;
    }
    Ok(())
}

/// Ranges of whole units that are not zeroes.
fn runs(data: &[u8], unit: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = vec![];
    for (i, block) in data.chunks(unit).enumerate() {
        if is_zero(block) {
            continue;
        }
        let range = i * unit..i * unit + block.len();
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(512)
        .all(|b| b.iter().fold(0, |all, byte| all | byte) == 0)
}

fn compressed(to: &Image, at: u64, data: &[u8], how: &Conversion) -> io::Result<()> {
    let Driver::Qcow2(qcow2) = &to.driver else {
        return plain(to, at, data, BLOCK);
    };
    let cluster = how.target.cluster_size as usize;
    let clusters: Vec<&[u8]> = data.chunks(cluster).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(16);
    let share = clusters.len().div_ceil(threads).max(1);
    let packed: Vec<Option<Vec<u8>>> = thread::scope(|scope| {
        let pack_all = |part: &[&[u8]]| -> Vec<_> {
            let one = |c: &&[u8]| {
                if is_zero(c) {
                    None
                } else {
                    pack(how.target.compression, c, cluster)
                }
            };
            part.iter().map(one).collect()
        };
        let workers: Vec<_> = clusters
            .chunks(share)
            .map(|part| scope.spawn(move || pack_all(part)))
            .collect();
        // A cluster that no worker packed is written as it is.
        let packed = workers.into_iter().zip(clusters.chunks(share));
        packed
            .flat_map(|(w, part)| w.join().unwrap_or_else(|_| vec![None; part.len()]))
            .collect()
    });
    for (i, (cluster_data, packed)) in clusters.iter().zip(packed).enumerate() {
        if !is_zero(cluster_data) {
            qcow2.write_compressed(at / cluster as u64 + i as u64, cluster_data, packed.as_deref())?;
        }
    }
    Ok(())
}
