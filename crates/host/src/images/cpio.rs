//! The `newc` cpio format, in which Linux takes its initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source).
//!
//! Everything belongs to root and has the time 0, so the same content gives the same bytes.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Longest path in the kernel, with its terminating zero (PATH_MAX); longer names are skipped there.
const PATH_MAX: usize = 4096;

/// An archive being written. Directories must come before what is in them.
pub struct Newc<W> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Newc<W> {
    /// An archive without entries.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1 }
    }

    /// A directory.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | permissions, 2, (0, 0), b"")
    }

    /// A regular file of at most 4 GiB - 1.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, 1, (0, 0), content)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK | 0o777, 1, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub fn character_device(&mut self, path: &str, permissions: u32, number: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTER | permissions, 1, number, b"")
    }

    /// Ends the archive. Without it the kernel takes what came before and complains.
    pub fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry(TRAILER, 0, 1, (0, 0), b"")?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} {what}"));
        if path.is_empty() || path.starts_with('/') || path.contains('\0') || path.len() >= PATH_MAX {
            return Err(invalid("is not a path for a cpio archive"));
        }
        let size =
            u32::try_from(content.len()).map_err(|_| invalid("is 4 GiB or more, too large for cpio"))?;
        let (major, minor) = device;
        let name_size = path.len() as u32 + 1;
        // Magic; then inode, mode, uid, gid, links, time, size, the file's device, the device it stands for,
        // length of the name with its zero, and a checksum that this variant does not have.
        write!(self.out, "070701")?;
        for field in [
            self.next_inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ] {
            write!(self.out, "{field:08X}")?;
        }
        self.next_inode += 1;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Pads something of `length` bytes to a multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry as it is read back.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Entry {
        pub path: String,
        pub mode: u32,
        pub device: (u32, u32),
        pub content: Vec<u8>,
    }

    /// Reads an archive the way the kernel does; panics if it is not exactly right.
    pub fn read(mut rest: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let start = rest.len();
        loop {
            assert_eq!((start - rest.len()) % 4, 0, "entries are aligned");
            assert_eq!(&rest[..6], b"070701");
            let field = |i: usize| {
                let digits = std::str::from_utf8(&rest[6 + i * 8..14 + i * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = &rest[110..110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let path = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            let content_at = (110 + name_size).next_multiple_of(4);
            let content = rest[content_at..content_at + size].to_vec();
            let entry = Entry {
                path,
                mode: field(1),
                device: (field(9), field(10)),
                content,
            };
            assert_eq!(
                [field(2), field(3), field(5), field(12)],
                [0; 4],
                "root's, without time or checksum"
            );
            rest = &rest[(content_at + size).next_multiple_of(4)..];
            if entry.path == TRAILER {
                assert!(rest.is_empty());
                return entries;
            }
            entries.push(entry);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Newc::new(Vec::new());
        out.directory("dev", 0o755).unwrap();
        out.character_device("dev/console", 0o600, (5, 1)).unwrap();
        out.symlink("init", "sbin/init").unwrap();
        for n in 0..9 {
            out.file(&format!("f{}", "x".repeat(n)), 0o644, &vec![n as u8; n])
                .unwrap();
        }
        let entries = read(&out.finish().unwrap());
        assert_eq!(entries.len(), 12);
        let console = Entry {
            path: "dev/console".into(),
            mode: 0o020_600,
            device: (5, 1),
            content: vec![],
        };
        assert_eq!(entries[1], console);
        assert_eq!(
            (entries[2].mode, &entries[2].content[..]),
            (0o120_777, &b"sbin/init"[..])
        );
        assert_eq!(entries[11].content, [8; 8]);
    }

    #[test]
    fn names_the_kernel_would_not_take_are_refused() {
        let mut out = Newc::new(Vec::new());
        for path in ["", "/absolute", "ze\0ro", &"x".repeat(PATH_MAX)] {
            assert!(out.file(path, 0o644, b"").is_err(), "{path:?}");
        }
        out.file(&"x".repeat(PATH_MAX - 1), 0o644, b"").unwrap();
    }
}
