//! What a file given as a kernel really is, and what its owner probably wanted.

use super::error::BootError;
use super::image::Image;
use std::path::Path;

/// The formats that can be booted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Linux/x86 boot protocol.
    BzImage,
    /// ELF, perhaps with a PVH note.
    Elf,
}

/// Bytes of the file's beginning that are looked at: up to the ISO 9660 volume descriptor.
const HEAD: usize = 0x8006;

/// Recognises a kernel by its first bytes.
pub fn recognise(kernel: &Image) -> Result<Kind, BootError> {
    let mut head = vec![0; kernel.len().min(HEAD as u64) as usize];
    kernel.read(0, &mut head, "file")?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);

    if at(0, b"\x7fELF") {
        return Ok(Kind::Elf);
    }
    if at(0x202, b"HdrS") {
        return Ok(Kind::BzImage);
    }
    let (found, fix) = if at(0x38, b"ARM\x64") {
        ("a kernel for arm64".into(), other_kernel())
    } else if at(0x38, b"RSC\x05") || at(0x30, b"RISCV") {
        ("a kernel for RISC-V".into(), other_kernel())
    } else if let Some((name, command)) = compressed(&head) {
        (
            format!("{name}-compressed"),
            format!("unpack it first: {command} {} > vmlinux", quoted(kernel.path())),
        )
    } else if at(0, b"07070") {
        (
            "an initramfs (cpio archive)".into(),
            format!("pass it with --initrd {}", quoted(kernel.path())),
        )
    } else if at(0, b"!<arch>\n") {
        let unpack = format!(
            "take the kernel out of it: dpkg-deb -x {} unpacked; ls unpacked/boot",
            quoted(kernel.path())
        );
        ("a package or archive (ar)".into(), unpack)
    } else if at(0, b"MZ") {
        let unpack = format!(
            "if it is a unified kernel image, take the kernel out of it: objcopy -O binary --only-section=.linux {} vmlinuz",
            quoted(kernel.path())
        );
        ("an EFI program without a Linux boot header".into(), unpack)
    } else if at(0x8001, b"CD001") {
        (
            "an ISO 9660 image".into(),
            "mount it and name the kernel inside it (often under casper/, live/ or boot/)".into(),
        )
    } else if at(0, b"QFI\xfb") {
        ("a qcow2 disk image".into(), other_kernel())
    } else if at(0x1fe, b"\x55\xaa") {
        (
            "a boot sector or disk image, without a Linux boot header".into(),
            other_kernel(),
        )
    } else if head
        .iter()
        .take(512)
        .all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e))
    {
        ("a text file".into(), other_kernel())
    } else if kernel.len() < 0x268 {
        (
            format!("a file of only {} bytes with no known header", kernel.len()),
            other_kernel(),
        )
    } else {
        ("of no known kind".into(), other_kernel())
    };
    Err(kernel.wrong_kind(found, fix))
}

fn other_kernel() -> String {
    "name an x86-64 Linux kernel (on Debian: ls /boot/vmlinuz*), or run Debian's own: donjon run".into()
}

/// The compressor and the command that undoes it.
fn compressed(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const MAGICS: [(&[u8], &str, &str); 7] = [
        (b"\x1f\x8b", "gzip", "gunzip -c"),
        (b"\xfd7zXZ\0", "xz", "xz -dc"),
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
        (b"\x02\x21\x4c\x18", "lz4", "lz4 -dc"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
        (b"BZh", "bzip2", "bzip2 -dc"),
        (b"\x5d\0\0", "lzma", "xz --format=lzma -dc"),
    ];
    MAGICS
        .iter()
        .find(|(magic, ..)| head.starts_with(magic))
        .map(|&(_, name, command)| (name, command))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let name = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if name.chars().all(plain) {
        name.into_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Role;
    use super::*;

    fn refused(bytes: &[u8]) -> (String, String) {
        let image = Image::from_bytes(Role::Kernel, "some file", bytes.to_vec()).unwrap();
        let e = recognise(&image).unwrap_err();
        (e.to_string(), e.fix())
    }

    #[test]
    fn wrong_kinds_are_named_with_the_way_out() {
        let (message, fix) = refused(b"\x1f\x8b\x08 whatever");
        assert!(
            message.starts_with("kernel some file is gzip-compressed; expected a bzImage"),
            "{message}"
        );
        assert_eq!(fix, "unpack it first: gunzip -c 'some file' > vmlinux");
        let (message, fix) = refused(b"070701000000");
        assert!(
            message.contains("initramfs") && fix.contains("--initrd"),
            "{message} {fix}"
        );
        let mut arm = vec![0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(refused(&arm).0.contains("arm64"));
        assert!(refused(b"hello, world\n").0.contains("a text file"));
        assert!(refused(&[0; 10]).0.contains("only 10 bytes"));
        assert!(refused(&[0; 4096]).0.contains("no known kind"));
        assert!(refused(b"MZ").0.contains("EFI"));
    }
}
