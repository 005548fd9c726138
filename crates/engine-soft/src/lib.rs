//! The software CPU: x86-64 on any host, without hardware virtualization.
//!
//! The interpreter decodes guest code into blocks of operations, caches them by the physical page they
//! came from, and runs them one handler after the other. It aims at being exact and plain: faster engines
//! are checked against it.
#![deny(unsafe_code)]
// Without a translator nobody calls what only that needs.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))]

mod cpu;
mod decode;
mod float;
mod insn;
mod lockstep;
mod partition;
mod probe;
mod trace;
#[cfg(target_arch = "x86_64")]
mod translate;
#[cfg(not(target_arch = "x86_64"))]
#[path = "translate/absent.rs"]
mod translate;
mod vcpu;

pub use partition::{Lockstep, Settings, SoftEngine, Translation};
pub use trace::CodeTrace;

use std::sync::{Mutex, MutexGuard};

/// Orders locked accesses that straddle two separate RAM pages, which no single host access can make.
fn split_lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}
