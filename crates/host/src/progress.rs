//! Telling a person that something long is under way.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

/// Where long work reports how far it is. The work goes on whatever the implementation does.
pub trait Progress: Send + Sync {
    /// A new step begins: a line without a full stop, such as "downloading the kernel".
    fn step(&self, what: &str);
    /// How much of the step is done, 0.0 to 100.0; never called for a step of unknown length.
    fn percent(&self, done: f32);
    /// Everything is done or has failed: takes away what should not stay on the screen.
    fn finish(&self);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn percent(&self, _: f32) {}
    fn finish(&self) {}
}

/// A bar on standard error if that is a terminal, else one line for each step there. It shows nothing until
/// the first step, so that work which turns out to be done already leaves no trace.
#[derive(Default)]
pub struct Console {
    bar: Mutex<Option<ProgressBar>>,
}

impl Console {
    /// A console with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Progress for Console {
    fn step(&self, what: &str) {
        if !std::io::stderr().is_terminal() {
            // A closed standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "donjon: {what}");
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.unset_length();
        bar.set_style(style("{spinner} {msg}"));
        bar.set_message(what.to_owned());
        bar.set_position(0);
    }

    fn percent(&self, done: f32) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(|e| e.into_inner()) {
            if bar.length().is_none() {
                bar.set_length(1000);
                bar.set_style(style("{spinner} {msg} [{bar:30}] {percent} %"));
            }
            bar.set_position((done.clamp(0.0, 100.0) * 10.0) as u64);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(|e| e.into_inner()).take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_valid() {
        for template in ["{spinner} {msg}", "{spinner} {msg} [{bar:30}] {percent} %"] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn a_percentage_without_a_step_is_ignored() {
        let console = Console::new();
        console.percent(f32::NAN);
        console.finish();
    }
}
