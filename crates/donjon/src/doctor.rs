//! `donjon doctor`.

use crate::cli::exit;
use crate::failure::Failure;

/// Prints what was found; fails if domains cannot run here.
pub fn doctor() -> Result<u8, Failure> {
    let report = donjon_host::doctor::doctor();
    println!("{report}");
    Ok(if report.is_healthy() {
        exit::SUCCESS
    } else {
        exit::ERROR
    })
}
