//! Segment and gate descriptors (Intel SDM vol. 3A §3.4.5, §6.11, §7.2.3).

use crate::state::{Segment, SegmentAttributes};

/// An eight-byte code, data or system-segment descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// The attribute bits.
    pub const fn attributes(self) -> SegmentAttributes {
        SegmentAttributes((self.0 >> 40) as u32 & 0xf0ff)
    }

    /// Base, 32 bits.
    pub const fn base(self) -> u64 {
        (self.0 >> 16 & 0xff_ffff) | (self.0 >> 56) << 24
    }

    /// Limit in bytes.
    pub const fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff) as u32 | (self.0 >> 32 & 0xf_0000) as u32;
        if self.attributes().granular() {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }

    /// The segment register it makes.
    pub const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
        }
    }
}

/// System descriptor types, the 32/64-bit ones with bit 3 set.
pub mod kind {
    #![allow(missing_docs)]
    pub const TSS16_AVAILABLE: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS_AVAILABLE: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// A call, interrupt, trap or task gate; `high` is zero outside long mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// Bytes 0-7.
    pub low: u64,
    /// Bytes 8-15 of a long-mode gate.
    pub high: u64,
}

impl Gate {
    /// Target code selector.
    pub const fn selector(self) -> u16 {
        (self.low >> 16) as u16
    }
    /// Target offset.
    pub const fn offset(self) -> u64 {
        self.low & 0xffff | (self.low >> 32 & 0xffff_0000) | self.high << 32
    }
    /// The attribute bits.
    pub const fn attributes(self) -> SegmentAttributes {
        SegmentAttributes((self.low >> 40) as u32 & 0xff)
    }
    /// Interrupt-stack-table index.
    pub const fn ist(self) -> u8 {
        (self.low >> 32) as u8 & 7
    }
    /// Parameters a call gate copies.
    pub const fn parameters(self) -> u8 {
        (self.low >> 32) as u8 & 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_apart() {
        let d = Descriptor(0x12cf_9b34_5678_ffff);
        assert_eq!(d.base(), 0x1234_5678);
        assert_eq!(d.limit(), 0xffff_ffff);
        assert!(d.attributes().is_code() && d.attributes().big() && d.attributes().present());
        let byte_granular = Descriptor(0x0040_9200_0000_1234);
        assert_eq!(byte_granular.limit(), 0x1234);
        let g = Gate {
            low: 0x1111_8e03_0010_2222,
            high: 0xffff_ffff,
        };
        assert_eq!(g.offset(), 0xffff_ffff_1111_2222);
        assert_eq!(
            (g.selector(), g.ist(), g.attributes().kind()),
            (0x10, 3, kind::INTERRUPT_GATE)
        );
    }
}
