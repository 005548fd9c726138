//! Little-endian fields at byte offsets.

/// The field at `offset`, if the bytes are there.
pub fn get<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// A 16-bit field; zero if it is not there.
pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    get(bytes, offset).map_or(0, u16::from_le_bytes)
}

/// A 32-bit field; zero if it is not there.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    get(bytes, offset).map_or(0, u32::from_le_bytes)
}

/// A 64-bit field; zero if it is not there.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    get(bytes, offset).map_or(0, u64::from_le_bytes)
}

/// Writes a field. Panics if it does not fit: only for structures of fixed size.
pub fn put<const N: usize>(bytes: &mut [u8], offset: usize, field: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&field);
}
