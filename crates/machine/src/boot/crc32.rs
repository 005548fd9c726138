//! CRC-32 as bzImage files carry it (Linux Documentation/arch/x86/boot.rst, "The image checksum"): the
//! reflected polynomial 0x04C11DB7, initial remainder of all ones, no final inversion.

/// Eight tables, so that eight bytes are done per step: a kernel is checked at every start.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut r = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            r = if r & 1 == 1 { r >> 1 ^ 0xedb8_8320 } else { r >> 1 };
            bit += 1;
        }
        t[0][byte] = r;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = t[n - 1][byte];
            t[n][byte] = before >> 8 ^ t[0][(before & 0xff) as usize];
            byte += 1;
        }
        n += 1;
    }
    t
}

/// The initial remainder.
pub const START: u32 = u32::MAX;

/// The remainder after `data`.
pub fn update(mut remainder: u32, data: &[u8]) -> u32 {
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let v = u64::from_le_bytes(*word) ^ u64::from(remainder);
        remainder = (0..8).fold(0, |r, i| r ^ TABLES[7 - i][(v >> (8 * i)) as usize & 0xff]);
    }
    rest.iter().fold(remainder, |r, &b| {
        r >> 8 ^ TABLES[0][((r ^ u32::from(b)) & 0xff) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(!update(START, b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        let (a, b) = data.split_at(333);
        assert_eq!(update(update(START, a), b), update(START, &data));
    }

    #[test]
    fn data_followed_by_its_remainder_leaves_zero() {
        let mut data = b"any bytes at all".to_vec();
        data.extend_from_slice(&update(START, &data).to_le_bytes());
        assert_eq!(update(START, &data), 0);
    }
}
