//! What the kernel refused, as an engine's error.

use donjon_engine::EngineError;
use rustix::io::Errno;

/// An error number of either library.
pub trait Number {
    fn number(self) -> Errno;
}

impl Number for Errno {
    fn number(self) -> Errno {
        self
    }
}

impl Number for kvm_ioctls::Error {
    fn number(self) -> Errno {
        Errno::from_raw_os_error(self.errno())
    }
}

/// The engine's failure, in its own words.
pub fn failed(what: impl Into<String>) -> EngineError {
    EngineError::Failed {
        engine: crate::NAME,
        what: what.into(),
    }
}

/// For `map_err`: the call that the kernel refused.
pub fn refused<E: Number>(call: &'static str) -> impl FnOnce(E) -> EngineError {
    move |e| match e.number() {
        Errno::NOMEM => failed(format!(
            "{call}: the host's kernel has no memory for it; end other programs or domains, or use a smaller --memory"
        )),
        e => failed(format!("{call}: {e}")),
    }
}
