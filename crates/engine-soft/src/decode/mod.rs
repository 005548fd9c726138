//! From guest bytes to [`Op`]s.

mod block;
pub(crate) mod features;
mod fetch;
mod lower;
mod op;
mod operand;
mod status;

pub(crate) use block::Blocks;
pub use op::{Handler, Op};
pub(crate) use operand::size_code;
pub(crate) use status::status;
