//! Freezing every file system that is on a disk.

use crate::raw;
use crate::system::Frozen;
use donjon_agent_protocol::{Error, ErrorKind};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Frozen file systems, in the order in which they were frozen.
struct Disks(Vec<File>);

impl Frozen for Disks {}

impl Drop for Disks {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // One that somebody else has thawed is done.
            let _ = raw::thaw(directory);
        }
    }
}

/// Freezes them: what is mounted last comes first, since its file may lie in one that is mounted before.
pub fn freeze() -> Result<Box<dyn Frozen>, Error> {
    let failed = |what: String| Error::new(ErrorKind::Failed, what);
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| failed(format!("cannot read /proc/self/mountinfo: {e}")))?;
    let mut frozen = Disks(vec![]);
    for path in on_disks(&mounts) {
        let outcome = File::open(&path).and_then(|directory| {
            raw::freeze(&directory)?;
            Ok(directory)
        });
        match outcome {
            Ok(directory) => frozen.0.push(directory),
            // It cannot be frozen, as vfat; or it is only reached through a mount point that is covered.
            Err(e)
                if is(
                    &e,
                    &[
                        Errno::OPNOTSUPP,
                        Errno::NOTTY,
                        Errno::INVAL,
                        Errno::NOENT,
                        Errno::ACCESS,
                    ],
                ) => {}
            Err(e) if is(&e, &[Errno::BUSY]) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "somebody else has frozen {path:?}; thaw it first: fsfreeze -u {}",
                        path.display()
                    ),
                ));
            }
            Err(e) => return Err(failed(format!("cannot freeze {path:?}: {e}"))),
        }
    }
    rustix::fs::sync();
    Ok(Box::new(frozen))
}

fn is(error: &std::io::Error, kinds: &[Errno]) -> bool {
    kinds
        .iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// Mount points of file systems on disks that can be written, each once, the last mounted first: see
/// proc_pid_mountinfo(5).
fn on_disks(mountinfo: &str) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut paths = vec![];
    for line in mountinfo.lines() {
        let Some((mount, system)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = mount.split(' ');
        let (Some(device), Some(path)) = (fields.nth(2), fields.nth(1)) else {
            continue;
        };
        let mut fields = system.split(' ');
        let (source, options) = (fields.nth(1), fields.next());
        let disk = source.is_some_and(|s| s.starts_with("/dev/"));
        let writable = options.is_some_and(|o| o.split(',').any(|o| o == "rw"));
        if disk && writable && seen.insert(device) {
            paths.push(unescaped(path));
        }
    }
    paths.reverse();
    paths
}

/// The path with its `\040` and the like made whole.
fn unescaped(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut path = vec![];
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| *byte == b'\\')
            .and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        path.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frozen() {
        let mountinfo = "\
22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw\n\
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n\
30 28 254:2 / /home/a\\040b rw - xfs /dev/vda2 rw\n\
31 28 254:1 /srv /bind rw - ext4 /dev/vda1 rw\n\
32 28 254:3 / /cdrom ro - iso9660 /dev/sr0 ro\n\
33 28 0:99 / /share rw - virtiofs home rw\n\
nonsense\n";
        let paths: Vec<_> = on_disks(mountinfo);
        assert_eq!(paths, [PathBuf::from("/home/a b"), PathBuf::from("/")]);
        assert_eq!(unescaped(r"\9\134\"), PathBuf::from(r"\9\\"));
    }
}
