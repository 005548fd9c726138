//! Files of a file system on a disk.

use super::partitions::Place;
use donjon_block::Image;
use ext4_view::{Ext4, Ext4Read};
use std::error::Error;
use std::io;
use std::sync::Arc;

/// Names in a directory that are looked at.
const MAX_NAMES: usize = 10_000;
/// Bytes of an os-release that are read.
const OS_RELEASE_LIMIT: u64 = 64 << 10;

/// A file system, read-only.
pub struct Files(Ext4);

struct Part {
    image: Arc<Image>,
    place: Place,
}

impl Ext4Read for Part {
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let end = at.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.place.len) {
            return Err(Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(self.image.read_bytes(self.place.start + at, out)?)
    }
}

impl Files {
    /// The one at a place; in words why there is none.
    pub fn open(image: &Arc<Image>, place: &Place) -> Result<Self, String> {
        let part = Part {
            image: image.clone(),
            place: place.clone(),
        };
        Ext4::load(Box::new(part)).map(Self).map_err(|e| e.to_string())
    }

    /// Whether it looks like a root file system.
    pub fn is_root(&self) -> bool {
        ["/etc", "/usr"]
            .iter()
            .all(|d| self.0.metadata(*d).is_ok_and(|m| m.is_dir()))
    }

    /// Whether there is something of that name.
    pub fn has(&self, path: &str) -> bool {
        self.0.exists(path).unwrap_or(false)
    }

    /// A whole file of at most `limit` bytes; links are followed.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, String> {
        let failed = |e: ext4_view::Ext4Error| format!("{path} cannot be read: {e}");
        let found = self.0.metadata(path).map_err(failed)?;
        match found.len() {
            _ if !found.file_type().is_regular_file() => Err(format!("{path} is not a file")),
            len if len > limit => Err(format!(
                "{path} has {len} bytes, where at most {limit} were expected"
            )),
            _ => self.0.read(path).map_err(failed),
        }
    }

    /// The names in a directory; none if there is no such directory.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = self.0.read_dir(directory) else {
            return vec![];
        };
        let names = entries.take(MAX_NAMES).map_while(Result::ok);
        names
            .filter_map(|e| e.file_name().as_str().ok().map(str::to_owned))
            .collect()
    }

    /// PRETTY_NAME of os-release(5).
    pub fn os_name(&self) -> Option<String> {
        let read = |path| self.read(path, OS_RELEASE_LIMIT).ok();
        let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"))?;
        let text = String::from_utf8_lossy(&text);
        let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
        let name: String = value
            .trim()
            .trim_matches(['"', '\''])
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        (!name.is_empty()).then_some(name)
    }
}
