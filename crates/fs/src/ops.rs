//! The operations, by what they are about.

mod attributes;
mod directory;
mod file;
mod make;
mod names;
mod open;
mod xattr;
