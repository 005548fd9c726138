//! The floating-point core: every arithmetic result of the processor, computed in integer registers.
//!
//! Nothing here uses the host's floating point, so results and exception flags are the same on every
//! host. All functions are pure: they take bit patterns and an [`Env`] with the control bits and return
//! bit patterns, collecting exceptions in [`Env::flags`] in MXCSR and FSW bit order.
//!
//! * [`sse`]: one lane of an SSE, AVX, FMA or F16C instruction, e.g.
//!   `sse::add_f32(&mut env, a, b)`. Build the `Env` with [`Env::from_mxcsr`], run all lanes, then:
//!   `mxcsr |= env.sse_flags()`, and if [`Env::sse_fault`] deliver #XM instead of writing the
//!   destination.
//! * [`soft`]: the generic arithmetic underneath.
//!
//! SDM vol. 1 chapters 4 (formats, exceptions), 8 (x87), 10 to 14 (SSE to FMA).

pub mod soft;
pub mod sse;

pub use soft::arith::FmaSigns;
pub use soft::env::{Env, Rounding};
