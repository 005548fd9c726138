//! Small files of text: read in bounds, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// The largest that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Reads a file; what is not UTF-8 in it is replaced. A missing one is empty.
pub fn read(path: &Path) -> io::Result<String> {
    let mut bytes = vec![];
    match File::open(path) {
        Ok(file) => file.take(LARGEST + 1).read_to_end(&mut bytes)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is larger than 16 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces a file's content, durably. A new file gets the mode `mode`; one that there was keeps its own, and its
/// owner.
pub fn replace(path: &Path, mode: u32, content: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".donjon");
    let draft = Path::new(&draft);
    let _ = fs::remove_file(draft);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(draft)?;
        let mode = match fs::metadata(path) {
            Ok(old) => {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
                old.mode() & 0o7777
            }
            Err(_) => mode,
        };
        // The process's mask does not matter.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}
