//! Copies into fresh RAM that leave pages of zeros untouched: the host then need not provide them, and a
//! third of a kernel is zeros.

use donjon_memory::{MemoryError, PAGE_SIZE, Ram};

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Makes RAM that is zero hold `bytes` from guest-physical `address` on.
pub fn write(ram: &Ram, mut address: u64, mut bytes: &[u8]) -> Result<(), MemoryError> {
    while !bytes.is_empty() {
        let room = PAGE_SIZE - address as usize % PAGE_SIZE;
        let (page, rest) = bytes.split_at(room.min(bytes.len()));
        if page != &ZEROS[..page.len()] {
            ram.write(address, page)?;
        }
        address = address.saturating_add(page.len() as u64);
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_arrive() {
        let ram = Ram::new(16 << 20).unwrap();
        let mut bytes = vec![0; 5 * PAGE_SIZE];
        // The last byte of one page and the first of another, counted from an address within a page.
        (bytes[PAGE_SIZE - 8], bytes[3 * PAGE_SIZE - 7]) = (1, 2);
        write(&ram, 0x10_0007, &bytes).unwrap();
        let mut back = vec![9; bytes.len()];
        ram.read(0x10_0007, &mut back).unwrap();
        assert!(back == bytes);
        assert!(write(&ram, (16 << 20) - 1, b"xy").is_err());
    }
}
