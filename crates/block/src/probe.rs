//! What a file's first bytes say it is.

/// Bytes that [`looks_like`] wants to see.
pub(crate) const PROBED: usize = 512;

/// Signatures of image formats: offset, bytes, name.
const SIGNATURES: [(usize, &[u8], &str); 16] = [
    (0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    // VMware's own is `# Disk DescriptorFile`; other tools' have more or fewer spaces.
    (0, b"# Disk Descriptor", "vmdk"),
    (0, b"#Disk Descriptor", "vmdk"),
    (0, b"COWD", "COWD (an extent of ESX)"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "SESPARSE (an extent of ESX)"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc (VHD)"),
    (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"OOOM", "user-mode-linux cow"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
];

/// The format whose signature this is; `raw` if none.
pub(crate) fn looks_like(first: &[u8]) -> &'static str {
    let found = SIGNATURES
        .iter()
        .find(|(at, bytes, _)| first.get(*at..*at + bytes.len()) == Some(*bytes));
    found.map_or("raw", |(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_known() {
        assert_eq!(looks_like(b"QFI\xfb\0\0\0\x03"), "qcow2");
        assert_eq!(looks_like(b"QFI\xfb\0\0\0\x01"), "qcow (version 1)");
        assert_eq!(looks_like(b"KDMV\x01\0\0\0"), "vmdk");
        assert_eq!(looks_like(b"# Disk DescriptorFile\nversion=1\n"), "vmdk");
        assert_eq!(looks_like(&[0; 512]), "raw");
        assert_eq!(looks_like(b""), "raw");
        let mut vdi = [0; 512];
        vdi[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(looks_like(&vdi), "vdi");
    }
}
