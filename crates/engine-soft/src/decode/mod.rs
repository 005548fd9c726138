//! From guest bytes to [`Op`]s.

mod block;
pub(crate) mod features;
mod fetch;
mod lower;
mod op;
mod operand;

pub(crate) use block::Blocks;
pub use op::{Handler, Op};
pub(crate) use operand::size_code;
