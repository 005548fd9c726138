//! IEEE 754 binary arithmetic in integer registers, with the x86 view of exceptions.
//!
//! The code works on bit patterns held in the low bits of a `u64` and is generic over the interchange
//! formats of [`mod@format`]. A value is unpacked to sign, exponent and a left-aligned 64-bit significand,
//! the exact result is formed with enough extra bits (the last one sticky), and [`round`] delivers it.
//! The 80-bit format needs more room than a `u64` leaves and is rounded in [`super::x87`]; it shares
//! the unpacked form, so conversions to and from it go through here.

pub mod arith;
pub mod compare;
pub mod convert;
pub mod env;
pub mod format;
pub mod round;
