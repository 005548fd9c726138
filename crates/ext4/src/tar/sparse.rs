//! Sparse files: GNU's header 'S', and its pax formats 0.0, 0.1 and 1.0.

use super::block::{BLOCK, Block, number};
use super::pax::{Extensions, decimal};
use super::{Archive, Header, MAX_EXTENSION, Malformed};

impl Archive<'_> {
    /// Reads where the stored bytes of a member belong, if it is sparse.
    pub(super) fn sparse(
        &mut self,
        block: &Block,
        extensions: &Extensions,
        header: &mut Header,
    ) -> Result<(), crate::Error> {
        let map = if block.kind() == b'S' {
            let (size, map) = self.old_map(block)?;
            header.real_size = size;
            map
        } else if extensions.sparse_major.is_some() || !extensions.sparse_map.is_empty() {
            let size = extensions.sparse_size;
            header.real_size = size.ok_or_else(|| self.malformed("a sparse file has no size"))?;
            if let Some(name) = &extensions.sparse_name {
                header.path.clone_from(name);
            }
            match extensions.sparse_major {
                Some(1) => self.map_in_front()?,
                _ => pairs(extensions.sparse_map.iter().copied()),
            }
        } else {
            return Ok(());
        };
        header.runs = self.checked(map, header.real_size)?;
        Ok(())
    }

    /// The map in the header block and those behind it.
    fn old_map(&mut self, block: &Block) -> Result<(u64, Vec<(u64, u64)>), crate::Error> {
        let (first, mut more, size) = block.sparse().map_err(|what| self.malformed(what))?;
        let mut fields = first.to_vec();
        while more {
            let mut bytes = [0; BLOCK];
            if fields.len() as u64 > MAX_EXTENSION || !self.read_exact_or_end(&mut bytes)? {
                return Err(self.malformed("the map of a sparse file does not end").into());
            }
            fields.extend(&bytes[..504]);
            more = bytes[504] != 0;
        }
        let mut numbers = Vec::new();
        for field in fields.chunks_exact(12).take_while(|f| f[0] != 0) {
            let value = number(field).ok().and_then(|n| u64::try_from(n).ok());
            numbers.push(value.ok_or_else(|| self.malformed("the map of a sparse file has no numbers"))?);
        }
        Ok((size, pairs(numbers.into_iter())))
    }

    /// The map of pax format 1.0: decimal numbers in lines, the first is how many pairs follow, in whole blocks.
    fn map_in_front(&mut self) -> Result<Vec<(u64, u64)>, crate::Error> {
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut taken = 0;
        loop {
            let mut bytes = [0; BLOCK];
            taken += BLOCK as u64;
            if taken > MAX_EXTENSION {
                return Err(self.malformed("the map of a sparse file is too large").into());
            }
            self.fill(&mut bytes)?;
            for byte in bytes {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value =
                    decimal(&line).map_err(|_| self.malformed("the map of a sparse file has no numbers"))?;
                line.clear();
                numbers.push(value);
                if numbers.len() as u64 == numbers[0].saturating_mul(2).saturating_add(1) {
                    return Ok(pairs(numbers.into_iter().skip(1)));
                }
            }
        }
    }

    /// The map, if it is in order, within the file and has as many bytes as are stored.
    fn checked(&self, map: Vec<(u64, u64)>, size: u64) -> Result<Vec<(u64, u64)>, Malformed> {
        let mut end = 0;
        let mut stored = 0u64;
        for &(at, len) in &map {
            let next = at.checked_add(len).filter(|n| at >= end && *n <= size);
            end = next.ok_or_else(|| self.malformed("the map of a sparse file is out of order"))?;
            stored += len;
        }
        match stored == self.left {
            true => Ok(map),
            false => Err(self.malformed("a sparse file does not have as many bytes as its map")),
        }
    }
}

fn pairs(numbers: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let numbers: Vec<_> = numbers.collect();
    numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect()
}
