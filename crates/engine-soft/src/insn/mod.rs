//! What each instruction does, by family. Every family has a `lower` that picks the handler for a decoded
//! instruction, or says that it is not of that family.

pub(crate) mod alu;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod control;
pub(crate) mod decimal;
pub(crate) mod exchange;
pub(crate) mod far;
pub(crate) mod io;
pub(crate) mod moves;
pub(crate) mod msr;
pub(crate) mod multiply;
pub(crate) mod segment;
pub(crate) mod shift;
pub(crate) mod simd;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod syscall;
pub(crate) mod system;
pub(crate) mod x87;

/// The handler for an operand size: `sized!(code, path::handler, Param, …)` with code 0-3 for 8-64 bits.
macro_rules! sized {
    ($size:expr, $($f:ident)::+ $(, $g:ty)*) => {
        match $size {
            0 => $($f)::+::<$($g,)* u8> as $crate::decode::Handler,
            1 => $($f)::+::<$($g,)* u16>,
            2 => $($f)::+::<$($g,)* u32>,
            _ => $($f)::+::<$($g,)* u64>,
        }
    };
}
pub(crate) use sized;
