//! What depends on the host although domains should not notice.

use donjon_x86::cpuid::Features;

/// What an engine asks of domains on this host. The default asks nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// The frequency that a time-stamp counter must have, in Hz, because the processor cannot scale it.
    pub tsc_hz: Option<u64>,
    /// What the processor has of all that CPU models may show.
    pub features: Option<Features>,
}
