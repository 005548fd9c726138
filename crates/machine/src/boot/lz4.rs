//! LZ4's legacy frame, the only one kernels are packed in (LZ4's doc/lz4_Frame_format.md, "Legacy frame"): the
//! magic number, then blocks that each follow their compressed size and unpack to 8 MiB, the last to less.

use std::io::{self, BufRead, ErrorKind, Read};

const MAGIC: [u8; 4] = 0x184c_2102u32.to_le_bytes();
const BLOCK: usize = 8 << 20;
/// What a block of incompressible bytes grows to (lz4.h, `LZ4_COMPRESSBOUND`).
const MAX_COMPRESSED: usize = BLOCK + BLOCK / 255 + 16;

/// Unpacks a legacy frame.
pub struct Lz4Legacy<R> {
    input: R,
    /// The current block as it came, and unpacked.
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// What of the unpacked block is not yet read.
    from: usize,
    to: usize,
}

impl<R: Read> Lz4Legacy<R> {
    /// `input` must begin with the magic number and end with the frame.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; 4];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("not a legacy LZ4 frame"));
        }
        Ok(Self {
            input,
            compressed: vec![],
            block: vec![0; BLOCK],
            from: 0,
            to: 0,
        })
    }

    /// Unpacks the next block, if there is one.
    fn next_block(&mut self) -> io::Result<()> {
        let mut size = [0; 4];
        match self.input.read(&mut size)? {
            0 => return Ok(()),
            n => self.input.read_exact(&mut size[n..])?,
        }
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_COMPRESSED {
            return Err(damaged("an LZ4 block is too long"));
        }
        self.compressed.resize(size, 0);
        self.input.read_exact(&mut self.compressed)?;
        let unpacked = lz4_flex::block::decompress_into(&self.compressed, &mut self.block);
        (self.from, self.to) = (
            0,
            unpacked.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?,
        );
        // It would be taken for the end.
        if self.to == 0 {
            return Err(damaged("an LZ4 block is empty"));
        }
        Ok(())
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl<R: Read> BufRead for Lz4Legacy<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.from == self.to {
            self.next_block()?;
        }
        Ok(&self.block[self.from..self.to])
    }

    fn consume(&mut self, n: usize) {
        self.from = (self.from + n).min(self.to);
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A legacy frame of these blocks.
    pub fn frame(blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        for block in blocks {
            let compressed = lz4_flex::block::compress(block);
            frame.extend((compressed.len() as u32).to_le_bytes());
            frame.extend(compressed);
        }
        frame
    }

    fn unpack(frame: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        Lz4Legacy::new(frame)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn blocks_follow_each_other() {
        let long = vec![7; BLOCK];
        let whole = unpack(&frame(&[&long, b"and the rest"])).unwrap();
        assert_eq!(whole, [&long[..], b"and the rest"].concat());
        assert_eq!(unpack(&MAGIC).unwrap(), b"");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let whole = frame(&[b"some text, some text, some text"]);
        for len in (0..whole.len()).filter(|&len| len != 4) {
            assert!(unpack(&whole[..len]).is_err(), "{len}");
        }
        assert!(
            unpack(&frame(&[&[0; BLOCK + 1]])).is_err(),
            "more than a block holds"
        );
        assert!(unpack(&frame(&[b""])).is_err());
        assert!(unpack(b"\x04\x22\x4d\x18 the other frame").is_err());
        let mut huge = MAGIC.to_vec();
        huge.extend([0xff; 4]);
        assert!(unpack(&huge).is_err());
    }
}
