//! FLD1, FLDZ and the irrational constants.

use super::super::soft::env::{Env, Rounding};
use super::{BIAS, F80};

/// The constants of SDM vol. 1 8.3.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    /// FLDZ.
    Zero,
    /// FLD1.
    One,
    /// FLDL2T, log2(10).
    Log2Of10,
    /// FLDL2E, log2(e).
    Log2OfE,
    /// FLDPI.
    Pi,
    /// FLDLG2, log10(2).
    Log10Of2,
    /// FLDLN2, ln(2).
    LnOf2,
}

/// Loads a constant: rounded under the rounding control, at full precision, without raising PE
/// (SDM vol. 1 8.3.4).
pub fn constant(env: &Env, which: Constant) -> F80 {
    // Truncated significand, exponent, and whether rounding to nearest goes up.
    let (significand, exponent, nearest_up) = match which {
        Constant::Zero => return F80::ZERO,
        Constant::One => return F80::ONE,
        Constant::Log2Of10 => (0xd49a_784b_cd1b_8afe, 1, false),
        Constant::Log2OfE => (0xb8aa_3b29_5c17_f0bb, 0, true),
        Constant::Pi => (0xc90f_daa2_2168_c234, 1, true),
        Constant::Log10Of2 => (0x9a20_9a84_fbcf_f798, -2, true),
        Constant::LnOf2 => (0xb172_17f7_d1cf_79ab, -1, true),
    };
    let up = match env.rounding {
        Rounding::Nearest => nearest_up,
        Rounding::Up => true,
        Rounding::Down | Rounding::Zero => false,
    };
    F80::new(false, (BIAS + exponent) as u16, significand + up as u64)
}
