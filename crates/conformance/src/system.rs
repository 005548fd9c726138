//! Kernels, run by one engine against another: what no program on the host may do.
//!
//! A [`kernel`] of tables and handlers surrounds a random program of ring 0 and ring 3 that changes its own
//! code, page tables and control registers, switches rings and is interrupted. Every exception is written
//! to a log in the guest's memory. Afterwards the processors' states and all of memory must be the same,
//! whatever the engine translates and when ([`run`]).

pub mod kernel;
pub mod machine;
pub mod map;
pub mod run;
