//! The `newc` cpio format, in which Linux takes its initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source).

use anyhow::{Context, Result, bail};

/// An entry's first bytes.
const MAGIC: &[u8] = b"070701";
/// Magic, and thirteen fields of eight digits.
const HEADER: usize = 6 + 13 * 8;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being made, of what belongs to root.
#[derive(Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    /// A directory; before anything in it.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), b"");
    }

    /// A program or another file.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, (0, 0), content);
    }

    /// A character device.
    pub fn device(&mut self, path: &str, number: (usize, usize)) {
        self.entry(path, 0o020_600, number, b"");
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), b"");
        self.0
    }

    fn entry(&mut self, path: &str, mode: usize, (major, minor): (usize, usize), content: &[u8]) {
        // Inode, mode, owner, group, links, time, size, the file's device, the device it is, the name's length
        // with its zero, no checksum. With one link the inode does not matter.
        let fields = [
            0,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            major,
            minor,
            path.len() + 1,
            0,
        ];
        self.0.extend(MAGIC);
        self.0.extend(fields.map(|f| format!("{f:08x}")).concat().bytes());
        self.0.extend(path.bytes().chain([0]));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The content of a file in an archive.
pub fn find<'a>(archive: &'a [u8], path: &str) -> Result<&'a [u8]> {
    let mut rest = archive;
    loop {
        let part = |start: usize, length: usize| {
            let bytes = start.checked_add(length).and_then(|end| rest.get(start..end));
            bytes.context("the archive ends early")
        };
        let field = |n: usize| {
            let digits = std::str::from_utf8(part(6 + n * 8, 8)?)?;
            usize::from_str_radix(digits, 16).context("an archive's entry has a wrong field")
        };
        if part(0, 6)? != MAGIC {
            bail!("no newc archive");
        }
        let (size, name_size) = (field(6)?, field(11)?);
        let name = part(HEADER, name_size)?.strip_suffix(b"\0").unwrap_or_default();
        let content = (HEADER + name_size).next_multiple_of(4);
        if name == path.as_bytes() {
            return part(content, size);
        }
        if name == TRAILER.as_bytes() {
            bail!("no {path} in the archive");
        }
        let next = (content + size).next_multiple_of(4);
        rest = rest.get(next..).context("the archive ends early")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.device("dev/console", (5, 1));
        archive.file("bin/a", b"first");
        archive.file("bin/b", b"second");
        let archive = archive.finish();
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(find(&archive, "bin/a").unwrap(), b"first");
        assert_eq!(find(&archive, "bin/b").unwrap(), b"second");
        assert!(find(&archive, "bin/c").unwrap_err().to_string().contains("bin/c"));
    }

    #[test]
    fn damage_is_an_error() {
        let mut archive = Archive::default();
        archive.file("a", b"content");
        let archive = archive.finish();
        for length in 0..archive.len() {
            assert!(find(&archive[..length], "b").is_err(), "{length} bytes");
        }
        assert!(find(&[b'0'; 200], "a").is_err());
    }
}
