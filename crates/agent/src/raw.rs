//! The one unsafe thing: the ioctls that freeze and thaw a file system (linux/fs.h).
#![allow(unsafe_code)]

use rustix::ioctl::{NoArg, ioctl, opcode};
use std::ffi::c_int;
use std::fs::File;
use std::io;

/// FIFREEZE: writes everything out and holds back what is written from now on.
pub fn freeze(directory: &File) -> io::Result<()> {
    const FIFREEZE: rustix::ioctl::Opcode = opcode::read_write::<c_int>(b'X', 119);
    // SAFETY: the kernel looks at no argument of this request.
    Ok(unsafe { ioctl(directory, NoArg::<FIFREEZE>::new()) }?)
}

/// FITHAW: ends it.
pub fn thaw(directory: &File) -> io::Result<()> {
    const FITHAW: rustix::ioctl::Opcode = opcode::read_write::<c_int>(b'X', 120);
    // SAFETY: as above.
    Ok(unsafe { ioctl(directory, NoArg::<FITHAW>::new()) }?)
}
