//! Status flags as iced-x86 numbers them.

use donjon_x86::bits::rflags;
use iced_x86::RflagsBits;

/// The status flags among iced's bits, as RFLAGS bits.
pub fn status(bits: u32) -> u64 {
    const PAIRS: [(u32, u64); 6] = [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ];
    PAIRS.iter().filter(|(b, _)| bits & b != 0).map(|(_, f)| f).sum()
}
