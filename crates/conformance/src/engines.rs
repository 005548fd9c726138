//! The engines that can be checked.

use donjon_engine::Engine;

/// Their names.
pub const NAMES: [&str; 1] = ["soft"];

/// The engine of that name.
pub fn named(name: &str) -> Option<Box<dyn Engine>> {
    match name {
        "soft" => Some(Box::new(donjon_engine_soft::SoftEngine::new())),
        _ => None,
    }
}
