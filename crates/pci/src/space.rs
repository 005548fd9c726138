//! The bytes of a configuration space and who may change them.

use crate::registers::SIZE;
use std::ops::Range;

/// Registers with, for each bit, whether the guest can write it or clear it by writing one.
#[derive(Clone)]
pub(crate) struct Space {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    cleared_by_ones: [u8; SIZE],
}

impl Default for Space {
    fn default() -> Self {
        Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            cleared_by_ones: [0; SIZE],
        }
    }
}

impl Space {
    pub fn u8(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Sets bytes whether or not the guest could.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes bits writable.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Makes bits such that writing ones clears them.
    pub fn allow_clear(&mut self, at: usize, mask: &[u8]) {
        self.cleared_by_ones[at..at + mask.len()].copy_from_slice(mask);
    }

    /// The guest's write of one byte. Beyond the end nothing can be written.
    pub fn write(&mut self, at: usize, value: u8) {
        if at < SIZE {
            let writable = self.writable[at];
            let kept = self.bytes[at] & !writable & !(value & self.cleared_by_ones[at]);
            self.bytes[at] = kept | value & writable;
        }
    }

    /// The guest's read of one byte.
    pub fn read(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    pub fn slice(&mut self, at: Range<usize>) -> &mut [u8] {
        &mut self.bytes[at]
    }

    pub fn all(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// Whether other registers differ from these only in what the guest can change, and in these parts.
    pub fn is_like(&self, other: &[u8; SIZE], except: &[Range<usize>]) -> bool {
        (0..SIZE)
            .filter(|at| !except.iter().any(|e| e.contains(at)))
            .all(|at| {
                let fixed = !(self.writable[at] | self.cleared_by_ones[at]);
                (self.bytes[at] ^ other[at]) & fixed == 0
            })
    }

    /// Takes over what the guest can change from saved registers; everything else stays as this function has it.
    pub fn restore(&mut self, saved: &[u8; SIZE]) {
        for (at, saved) in saved.iter().enumerate() {
            let changeable = self.writable[at] | self.cleared_by_ones[at];
            self.bytes[at] = self.bytes[at] & !changeable | saved & changeable;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn writes_change_what_they_may(old: u8, new: u8, writable: u8, clear: u8) {
            let clear = clear & !writable;
            let mut s = Space::default();
            s.set(7, &[old]);
            s.allow(7, &[writable]);
            s.allow_clear(7, &[clear]);
            s.write(7, new);
            for bit in (0..8).map(|n| 1u8 << n) {
                let expected = match (writable & bit, clear & bit) {
                    (0, 0) => old & bit,
                    (0, _) => old & bit & !new,
                    _ => new & bit,
                };
                prop_assert_eq!(s.read(7) & bit, expected);
            }
        }
    }

    #[test]
    fn there_is_nothing_beyond_the_end() {
        let mut s = Space::default();
        s.write(SIZE, 0xff);
        assert_eq!((s.read(SIZE), s.read(0xfff)), (0, 0));
    }
}
