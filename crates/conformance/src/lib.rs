//! Checks a CPU engine, instruction by instruction, against the processor it runs on.
//!
//! For every instruction form of the guest model ([`forms`]) random cases are made ([`generate`]), run on
//! the host's processor in a child process ([`native`]) and on the engine ([`guest`]), and compared
//! ([`compare`]), apart from what the manual leaves undefined ([`undefined`]). [`suite`] does it a million
//! times; the binary `conformance` is its command line.
#![deny(unsafe_code)]

pub mod case;
pub mod compare;
pub mod encode;
pub mod engines;
pub mod forms;
pub mod generate;
pub mod guest;
pub mod layout;
pub mod lockstep;
#[allow(unsafe_code)]
pub mod native;
pub mod outcome;
pub mod program;
pub mod regs;
pub mod replay;
pub mod report;
pub mod rng;
pub mod suite;
pub mod system;
pub mod undefined;
pub mod values;
