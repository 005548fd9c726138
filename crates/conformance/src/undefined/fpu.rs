//! x87, and the images that FXSAVE, XSAVE and FNSTENV write.

use super::{Tolerance, Undefined, memory_address};
use crate::case::Case;
use crate::outcome::Outcome;
use iced_x86::{Instruction, MemorySize, Mnemonic};

const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const PE: u16 = 1 << 5;
const UE: u16 = 1 << 4;

/// Adds what `i` leaves undefined in x87 state and images.
pub fn undefined(case: &Case, i: &Instruction, _native: &Outcome, u: &mut Undefined) {
    use Mnemonic::*;
    u.status = codes(i);
    match i.mnemonic() {
        // Transcendental: C0 and C3 undefined, C2 also where there is no reduction; a result within one unit
        // in the last place (vol. 1 §8.3.10), so that C1 (rounded up) and the inexact and underflow flags
        // may differ with it.
        Fsin | Fcos | Fsincos | Fptan => transcendental(u, C0 | C3),
        F2xm1 | Fpatan | Fyl2x | Fyl2xp1 => transcendental(u, C0 | C2 | C3),
        // Which instruction and operand the pointers name, and whether they are kept at all, is up to the
        // vendor (vol. 1 §8.1.8, §8.1.9; AMD APM vol. 2 §11.4.4).
        Fnstenv | Fnsave => {
            if let Some(at) = memory_address(case, i) {
                let wide = matches!(i.memory_size(), MemorySize::FpuEnv28 | MemorySize::FpuState108);
                u.memory.push(if wide {
                    (at.wrapping_add(12), 16)
                } else {
                    (at.wrapping_add(6), 8)
                });
            }
        }
        Fxsave | Fxsave64 | Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 => {
            if let Some(at) = memory_address(case, i) {
                // FOP, FIP, FDP; then MXCSR_MASK, which names the host's own optional bits.
                u.memory.push((at.wrapping_add(6), 18));
                u.memory.push((at.wrapping_add(28), 4));
                // XSTATE_BV: a component that holds its initial values may or may not be reported as such
                // (vol. 1 §13.6).
                if !matches!(i.mnemonic(), Fxsave | Fxsave64) {
                    u.memory.push((at.wrapping_add(512), 8));
                }
            }
        }
        _ => {}
    }
}

/// The condition codes that arithmetic and control leave undefined.
pub fn codes(i: &Instruction) -> u16 {
    use Mnemonic::*;
    match i.mnemonic() {
        // Arithmetic, loads and stores: "C0, C2, C3: undefined".
        Fadd | Faddp | Fiadd | Fsub | Fsubp | Fisub | Fsubr | Fsubrp | Fisubr | Fmul | Fmulp | Fimul
        | Fdiv | Fdivp | Fidiv | Fdivr | Fdivrp | Fidivr | Fabs | Fchs | Fld | Fld1 | Fldl2e | Fldl2t
        | Fldlg2 | Fldln2 | Fldpi | Fldz | Fild | Fbld | Fst | Fstp | Fist | Fistp | Fisttp | Fbstp
        | Fsqrt | Fscale | Frndint | Fxtract | Fxch | Fincstp | Fdecstp | Fcmovb | Fcmove | Fcmovbe
        | Fcmovu | Fcmovnb | Fcmovne | Fcmovnbe | Fcmovnu => C0 | C2 | C3,
        // Control: "C0, C1, C2, C3: undefined".
        Fldcw | Fnstcw | Fnstsw | Fnclex | Ffree | Ffreep | Fnop | Wait => C0 | C1 | C2 | C3,
        _ => 0,
    }
}

fn transcendental(u: &mut Undefined, codes: u16) {
    u.status = codes | C1 | PE | UE;
    u.tolerance = Tolerance::X87 { units: 2 };
}
