//! The floating-point core: every arithmetic result of the processor, computed in integer registers.
//!
//! Nothing here uses the host's floating point, so results and exception flags are the same on every
//! host. All functions are pure: they take bit patterns and an [`Env`] with the control bits and return
//! bit patterns, collecting exceptions in [`Env::flags`] in MXCSR and FSW bit order.
//!
//! * [`sse`]: one lane of an SSE, AVX, FMA or F16C instruction, such as
//!   `sse::add_f32(&mut env, a, b)`. Build the `Env` with [`Env::from_mxcsr`], run all lanes with it,
//!   then `mxcsr |= env.sse_flags()`; if [`Env::sse_fault`], deliver #XM instead of writing the
//!   destination.
//! * [`x87`]: the x87 instructions on [`x87::F80`], with [`Env::from_fcw`]; its module documentation
//!   says what is left to the register stack.
//! * [`soft`]: the generic arithmetic underneath.
//!
//! Where Intel and AMD processors differ or the SDM leaves a choice, this follows AMD: FST with an
//! unmasked overflow or underflow does not report PE, FLD pushes despite an unmasked denormal
//! exception, FYL2X reports even exact results as inexact, and undefined arguments of F2XM1 and
//! FYL2XP1 come back unchanged.
//!
//! SDM vol. 1 chapters 4 (formats, exceptions), 8 (x87), 10 to 14 (SSE to FMA).

pub mod soft;
pub mod sse;
pub mod x87;

pub use soft::arith::FmaSigns;
pub use soft::env::Env;

#[cfg(test)]
mod tests;
