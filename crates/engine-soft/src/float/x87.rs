//! The x87 arithmetic (SDM vol. 1 chapter 8) on 80-bit values.
//!
//! Everything here is arithmetic only: register stack, tags, stack faults (IE with SF, where C1 tells
//! overflow from underflow) and the pending-exception logic belong to the caller. A handler builds an
//! [`Env`] with [`Env::from_fcw`], calls one function and then
//!
//! * ORs `env.flags` into FSW;
//! * writes a register result only if [`Env::x87_writes_register`], a stored value only if
//!   [`Env::x87_writes_memory`], and pushes or pops under the same condition;
//! * sets C1 to `env.rounded_up` where the SDM says "C1: set if result was rounded up", otherwise
//!   clears it or takes the condition codes the function returns.
//!
//! An overflow or underflow that is unmasked comes out of the register operations with its exponent
//! already adjusted by 24576 (SDM vol. 1 8.5.4 and 8.5.5).
//!
//! The arithmetic functions take anything that converts to [`Unpacked`]: an [`F80`], or a memory operand
//! through [`operand_f32`], [`operand_f64`] and [`operand_int`], which keep a signaling NaN signaling and
//! a denormal denormal so that the instruction itself reports them.
//!
//! [`Env`]: super::Env
//! [`Env::from_fcw`]: super::Env::from_fcw
//! [`Env::x87_writes_register`]: super::Env::x87_writes_register
//! [`Env::x87_writes_memory`]: super::Env::x87_writes_memory

mod angle;
mod arith;
mod bcd;
mod compare;
mod constants;
mod deliver;
mod exponential;
mod misc;
mod remainder;
mod series;
mod transfer;
mod trig;
mod wide;

pub use super::soft::format::{Class, Unpacked};
pub use angle::angle;
pub use arith::{add, div, mul, sqrt, sub};
pub use bcd::{load_bcd, store_bcd};
pub use compare::{compare, compare_unordered, condition_codes, examine, rflags, test};
pub use constants::{Constant, constant};
pub use exponential::{two_to_x_minus_1, y_log2_x, y_log2_x_plus_1};
pub use misc::{abs, change_sign, extract, round_to_int, scale};
pub use remainder::{Remainder, remainder_nearest, remainder_truncate};
pub use transfer::{
    load_f32, load_f64, load_int, operand_f32, operand_f64, operand_int, store_f32, store_f64, store_int,
    store_int_truncate,
};
pub use trig::{Trig, cos, sin, sin_cos, tan};

/// Condition code C0 in the status word (SDM vol. 1 8.1.3).
pub const C0: u16 = 1 << 8;
/// Condition code C1.
pub const C1: u16 = 1 << 9;
/// Condition code C2.
pub const C2: u16 = 1 << 10;
/// Condition code C3.
pub const C3: u16 = 1 << 14;

/// Exponent bias of the format.
pub(crate) const BIAS: i32 = 16383;
const EXPONENT_MAX: u16 = 0x7fff;
const INTEGER_BIT: u64 = 1 << 63;
const QUIET_BIT: u64 = 1 << 62;

/// A double extended-precision value (SDM vol. 1 4.2.2) as it lies in a register or in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct F80 {
    /// Integer bit and fraction.
    pub significand: u64,
    /// Sign in bit 15, biased exponent below.
    pub sign_exponent: u16,
}

impl F80 {
    /// Plus zero.
    pub const ZERO: F80 = F80 {
        significand: 0,
        sign_exponent: 0,
    };
    /// One.
    pub const ONE: F80 = F80 {
        significand: INTEGER_BIT,
        sign_exponent: BIAS as u16,
    };
    /// The QNaN floating-point indefinite, also the result of a masked stack fault (SDM vol. 1 8.5.1.1).
    pub const INDEFINITE: F80 = F80 {
        significand: INTEGER_BIT | QUIET_BIT,
        sign_exponent: 0xffff,
    };

    /// Reads the ten-byte memory image.
    #[inline]
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, low, high] = bytes;
        F80 {
            significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exponent: u16::from_le_bytes([low, high]),
        }
    }

    /// The ten-byte memory image.
    #[inline]
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// The sign bit.
    #[inline]
    pub fn sign(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    /// Puts a value together from its fields.
    #[inline]
    pub(crate) fn new(sign: bool, exponent_field: u16, significand: u64) -> Self {
        F80 {
            significand,
            sign_exponent: (sign as u16) << 15 | exponent_field,
        }
    }

    /// A zero of either sign.
    #[inline]
    pub(crate) fn zero(sign: bool) -> Self {
        F80::new(sign, 0, 0)
    }

    /// An infinity of either sign.
    #[inline]
    pub(crate) fn infinity(sign: bool) -> Self {
        F80::new(sign, EXPONENT_MAX, INTEGER_BIT)
    }

    /// The quiet version of a NaN.
    #[inline]
    pub(crate) fn quiet(value: &Unpacked) -> Self {
        F80::new(value.sign, EXPONENT_MAX, value.significand | QUIET_BIT)
    }

    /// Takes the value apart. Unnormals, pseudo-infinities and pseudo-NaNs are unsupported,
    /// pseudo-denormals count as denormals (SDM vol. 1 8.2.2).
    #[inline]
    pub fn unpack(self) -> Unpacked {
        let sign = self.sign();
        let field = self.sign_exponent & EXPONENT_MAX;
        let explicit = self.significand & INTEGER_BIT != 0;
        let (class, exponent, significand) = match field {
            0 if self.significand == 0 => (Class::Zero, 0, 0),
            0 => {
                let shift = self.significand.leading_zeros();
                (
                    Class::Denormal,
                    1 - BIAS - shift as i32,
                    self.significand << shift,
                )
            }
            _ if !explicit => (Class::Unsupported, 0, self.significand),
            EXPONENT_MAX if self.significand == INTEGER_BIT => (Class::Infinite, 0, INTEGER_BIT),
            EXPONENT_MAX if self.significand & QUIET_BIT != 0 => (Class::Quiet, 0, self.significand),
            EXPONENT_MAX => (Class::Signaling, 0, self.significand),
            _ => (Class::Normal, field as i32 - BIAS, self.significand),
        };
        Unpacked {
            class,
            sign,
            exponent,
            significand,
        }
    }
}

impl From<F80> for Unpacked {
    fn from(value: F80) -> Unpacked {
        value.unpack()
    }
}
