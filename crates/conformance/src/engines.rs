//! The engines that can be checked.

use donjon_engine::Engine;
use donjon_engine_kvm::KvmEngine;
use donjon_engine_soft::{Settings, SoftEngine, Translation};

/// Their names. What follows a comma is the engine's setting.
pub const NAMES: [&str; 4] = ["soft", "soft,interpreter", "soft,translator", "kvm"];

/// The engine of that name.
pub fn named(name: &str) -> Option<Box<dyn Engine>> {
    let translation = match name {
        "soft" => Translation::Hot,
        "soft,interpreter" => Translation::Never,
        "soft,translator" => Translation::Always,
        "kvm" => return Some(Box::new(KvmEngine)),
        _ => return None,
    };
    Some(Box::new(soft(translation)))
}

/// The software CPU that translates at these times.
pub fn soft(translation: Translation) -> SoftEngine {
    SoftEngine::new(Settings {
        translation,
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_an_engine() {
        assert!(NAMES.iter().all(|n| named(n).is_some()));
        assert!(named("soft,").is_none());
    }
}
