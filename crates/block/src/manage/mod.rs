//! What is done to images as files: making, converting, checking them.

mod check;
mod convert;
mod create;
mod info;
mod new_file;
mod resize;

pub use crate::qcow2::{CheckReport, Compression, Snapshot};
pub use check::check;
pub use convert::{Conversion, convert};
pub use create::{Creation, Preallocation, create, overlay};
pub use info::{ExtentInfo, Info, Qcow2Info, VmdkInfo, info};
pub use resize::resize;
