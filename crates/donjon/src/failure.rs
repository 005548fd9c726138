//! Errors as the user sees them: what failed, why, and what to do.

use crate::cli::exit;
use std::error::Error;

/// Why the command did not do what was asked.
pub struct Failure {
    error: anyhow::Error,
    hints: Vec<String>,
    /// For the shell.
    pub code: u8,
}

impl Failure {
    /// With something to do about it.
    pub fn with_hint(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self {
            hints: vec![hint.into()],
            ..Self::from(error.into())
        }
    }

    /// With another exit code than usual.
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The message, without hints.
    pub fn message(&self) -> String {
        text(self.error.as_ref())
    }

    /// The message and the hints, on standard error.
    pub fn print(&self) {
        eprintln!("error: {}", self.message());
        for hint in &self.hints {
            eprintln!("hint: {hint}");
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            hints: vec![],
            code: exit::ERROR,
        }
    }
}

/// The message with those of its causes that it does not already contain.
fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let message = e.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = anyhow::anyhow!("disk full")
            .context("cannot write a: disk full")
            .context("cannot start");
        assert_eq!(text(cause.as_ref()), "cannot start: cannot write a: disk full");
    }
}
