//! What only a kernel sees: modes, segmentation, paging, exceptions, interrupts, debugging, several
//! processors. Expected values are those of the Intel SDM; each test names the section.

mod code;
mod debugging;
mod descriptors;
mod exceptions;
mod files;
mod gates;
mod interrupts;
mod layout;
mod long;
mod machine;
mod paging;
mod paging32;
mod privilege;
mod real;
mod registers;
mod segments;
mod smp;
mod syscalls;
mod tasks;
mod time;
mod translations;
