//! The checksum that kernels before 6.16 end in ("The image checksum" in the boot.rst of those versions): the
//! CRC-32 of everything before it without the final inversion, so that the remainder of the whole is zero.

use super::bytes::{get, u16_at, u32_at};
use super::error::BootError;
use super::image::Image;
use crc32fast::Hasher;
use std::ops::Range;

/// What [`Hasher`] makes of a remainder of zero: it inverts at the end.
const ZERO_REMAINDER: u32 = u32::MAX;

/// Checks the first `len` bytes of a kernel. Signing for Secure Boot changes two fields of the PE header
/// afterwards, so these may count as zero, which they were when the kernel was built.
pub fn is_right(kernel: &Image, len: u64) -> Result<bool, BootError> {
    let holes = signing_fields(kernel)?;
    let (mut plain, mut unsigned, mut rest) = (Hasher::new(), Hasher::new(), Hasher::new());
    kernel.for_each_piece(0, len, "its code", |at, piece| {
        if at > 0 {
            rest.update(piece);
            return Ok(());
        }
        plain.update(piece);
        let mut piece = piece.to_vec();
        for hole in holes.iter().flatten() {
            if let Some(field) = piece.get_mut(hole.clone()) {
                field.fill(0);
            }
        }
        unsigned.update(&piece);
        Ok(())
    })?;
    let right = |mut head: Hasher| {
        head.combine(&rest);
        head.finalize() == ZERO_REMAINDER
    };
    Ok(right(plain) || right(unsigned))
}

/// What makes the remainder zero when it follows `data`.
pub fn of(data: &[u8]) -> u32 {
    !crc32fast::hash(data)
}

/// Where the PE optional header (PE format specification, "Optional Header") has its CheckSum and its
/// certificate-table entry.
fn signing_fields(kernel: &Image) -> Result<[Option<Range<usize>>; 2], BootError> {
    let mut head = vec![0; kernel.len().min(4096) as usize];
    kernel.read(0, &mut head, "setup header")?;
    let pe = u32_at(&head, 0x3c) as usize;
    if !head.starts_with(b"MZ") || get(&head, pe) != Some(*b"PE\0\0") || pe > 0x1000 {
        return Ok([None, None]);
    }
    let optional = pe + 24;
    // PE32+ has its data directories 16 bytes further on than PE32.
    let directories = optional + if u16_at(&head, optional) == 0x20b { 112 } else { 96 };
    let certificates = directories + 4 * 8;
    Ok([
        Some(optional + 64..optional + 68),
        Some(certificates..certificates + 8),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::image::Role;
    use super::*;

    #[test]
    fn data_followed_by_its_checksum_is_right_across_pieces() {
        // Longer than a piece.
        let mut data: Vec<u8> = (0..3u32 << 20).map(|i| (i * 7 / 5) as u8).collect();
        data.extend(of(&data).to_le_bytes());
        let right = |data: &[u8]| {
            let image = Image::from_bytes(Role::Kernel, "k", data).unwrap();
            is_right(&image, image.len()).unwrap()
        };
        assert!(right(&data));
        for at in [0, 2 << 20, data.len() - 1] {
            let mut flipped = data.clone();
            flipped[at] ^= 0x10;
            assert!(!right(&flipped), "{at:#x}");
        }
    }
}
