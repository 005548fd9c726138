//! What only a kernel sees: modes, segmentation, paging, exceptions, interrupts, debugging, several
//! processors. Expected values are those of the Intel SDM; each test names the section.

mod layout;
mod machine;

mod gates;
mod long;
mod protected;
mod real;
mod smoke;
mod tasks;
