//! What an engine says of itself on this host.

/// Whether and how well an engine works here.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fitness {
    /// Cannot run guests.
    Unusable,
    /// Runs guests at about this many million instructions a second in ring 0.
    Measured {
        /// Million instructions a second.
        mips: f64,
    },
}

/// The outcome of [`crate::Engine::probe`].
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeReport {
    /// The engine.
    pub engine: &'static str,
    /// How well it works.
    pub fitness: Fitness,
    /// One line: what was found, with its figures.
    pub finding: String,
    /// What to do to make it work or work faster, with the exact commands.
    pub advice: Vec<String>,
}
