//! Big-endian numbers in tables ("All numbers in qcow2 are stored in Big Endian byte order").

/// Two bytes at `at`; 0 where the slice ends before.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    take(bytes, at).map_or(0, u16::from_be_bytes)
}

/// Four bytes at `at`; 0 where the slice ends before.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    take(bytes, at).map_or(0, u32::from_be_bytes)
}

/// Eight bytes at `at`; 0 where the slice ends before.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    take(bytes, at).map_or(0, u64::from_be_bytes)
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A table of 64-bit entries.
pub(crate) fn entries(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|b| be64(b, 0)).collect()
}

/// The bytes of a table of 64-bit entries.
pub(crate) fn bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}
