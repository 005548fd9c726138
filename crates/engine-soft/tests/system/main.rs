//! What only a kernel sees: modes, segmentation, paging, exceptions, interrupts, debugging, several
//! processors. Expected values are those of the Intel SDM; each test names the section.

mod code;
mod debugging;
mod exceptions;
mod gates;
mod interrupts;
mod layout;
mod long;
mod machine;
mod paging;
mod protected;
mod real;
mod smp;
mod tasks;
mod time;
