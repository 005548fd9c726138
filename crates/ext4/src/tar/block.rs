//! A header block.

/// The unit of an archive.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Block {
    bytes: [u8; BLOCK],
}

const CHECKSUM: std::ops::Range<usize> = 148..156;

impl Block {
    pub(super) fn new(bytes: [u8; BLOCK]) -> Result<Self, &'static str> {
        let wanted = number(&bytes[CHECKSUM])?;
        let sum = |of: fn(u8) -> i64| -> i64 {
            let counted = bytes.iter().enumerate();
            counted
                .map(|(at, b)| if CHECKSUM.contains(&at) { 32 } else { of(*b) })
                .sum()
        };
        // Some old programs added up signed bytes.
        if sum(i64::from) != wanted && sum(|b| i64::from(b as i8)) != wanted {
            return Err("a header's checksum is wrong");
        }
        Ok(Self { bytes })
    }

    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.bytes[..100]);
        let prefix = text(&self.bytes[345..500]);
        match self.is_posix() && !prefix.is_empty() {
            true => [prefix, b"/", name].concat(),
            false => name.to_vec(),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.bytes[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, &'static str> {
        number(&self.bytes[100..108])
    }

    pub(super) fn uid(&self) -> Result<i64, &'static str> {
        number(&self.bytes[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64, &'static str> {
        number(&self.bytes[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        let size = number(&self.bytes[124..136])?;
        u64::try_from(size).map_err(|_| "a size is negative")
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        number(&self.bytes[136..148])
    }

    pub(super) fn major(&self) -> Result<i64, &'static str> {
        number(&self.bytes[329..337])
    }

    pub(super) fn minor(&self) -> Result<i64, &'static str> {
        number(&self.bytes[337..345])
    }

    /// GNU's sparse header: the first four parts, whether more follow, the file's size.
    pub(super) fn sparse(&self) -> Result<(&[u8], bool, u64), &'static str> {
        let size = u64::try_from(number(&self.bytes[483..495])?).map_err(|_| "a size is negative")?;
        Ok((&self.bytes[386..482], self.bytes[482] != 0, size))
    }

    /// Whether it has POSIX's prefix: GNU's headers have other things there.
    fn is_posix(&self) -> bool {
        &self.bytes[257..263] == b"ustar\0" && &self.bytes[508..512] != b"tar\0"
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal digits between spaces and zero bytes, or two's complement in base 256 if the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    const BAD: &str = "a number in a header is none";
    let first = *field.first().ok_or(BAD)?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = match (at, negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = value
                .checked_mul(256)
                .ok_or("a number in a header is too large")?
                | i64::from(byte);
        }
        return Ok(value);
    }
    let padding = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !padding(b)).unwrap_or(field.len());
    let end = field[start..]
        .iter()
        .position(padding)
        .map_or(field.len(), |n| start + n);
    let mut value = 0i64;
    for digit in &field[start..end] {
        if !(b'0'..=b'7').contains(digit) {
            return Err(BAD);
        }
        value = value.checked_mul(8).ok_or(BAD)? | i64::from(digit - b'0');
    }
    Ok(value)
}
